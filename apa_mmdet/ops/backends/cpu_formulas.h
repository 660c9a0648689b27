/* APA, AGLU and -log APA of one element in float32, and what norms come to; analytic.py derives the formulas. They are
 * written, as in triton_kernels.py, without a logarithm and with one division at most.
 */
#include <math.h>
#include <stdint.h>

#include "cpu_call.h"

#define INLINE static inline __attribute__((always_inline))

enum { APA, AGLU, NEG_LOG_APA };

#define LOG2_E 1.44269504f
#define MAX_INPUT 1e15f /* as in analytic.py */

INLINE float as_float(int32_t i) { union { int32_t i; float f; } u = {.i = i}; return u.f; }
INLINE int32_t as_int(float f) { union { float f; int32_t i; } u = {.f = f}; return u.i; }

INLINE float at_most(float x, float top) { return x < top ? x : top; }
INLINE float at_least(float x, float bottom) { return x > bottom ? x : bottom; }

/* The build assumes finite numbers, so NaN is known by its bits. */
INLINE float nan_or(float x, float y) { return (as_int(x) & 0x7fffffff) > 0x7f800000 ? x : y; }

/* 2^x for x < 127, to 1 ulp; 0 below -126.5 */
INLINE float exp2_(float x) {
    const float magic = 12582912.f; /* adding it rounds to an integer and leaves that in the low bits */
    x = at_least(x, -127.f);
    float shifted = x + magic, r = x - (shifted - magic);
    float y = 1.33908674e-3f + r * 1.54614475e-4f; /* Chebyshev's, to 5e-9 for |r| <= 1/2 */
    y = 9.61805667e-3f + r * y;
    y = 5.5503571e-2f + r * y;
    y = 0.240226509f + r * y;
    y = 0.693147188f + r * y;
    y = 1.f + r * y;
    return y * as_float((as_int(shifted) - as_int(magic) + 127) << 23);
}

/* lambda, 1/lambda, log(lambda) and kappa, loaded before any condition: otherwise the loops are no vector instructions */
typedef struct { float lambda, inverse, log_lambda, kappa; } Curve;

typedef struct { int above; float x, r, log; } Terms;

/* With y = log(lambda) - kappa*z, w = lambda*e^(-kappa*z) = e^y and x = e^-|y|: log1p(w) = max(y, 0) + log1p(x), which
 * overflows nowhere, and log1p(x) = x*(1 + x*R(x)) with a polynomial R. */
INLINE Terms terms_(float z, Curve c) {
    float y = c.log_lambda - c.kappa * z, a = z * (c.kappa * LOG2_E);
    int above = y > 0.f;
    float x = (above ? c.inverse : c.lambda) * exp2_(above ? a : -a); /* e^-|y| would have the rounding of y */
    float r = 0.02478014083f + x * -0.004357355378f; /* minimax on [0, 1]: 7e-8 relative in 1 + (1 + x)*R(x) */
    r = -0.06601994684f + x * r;
    r = 0.1149773593f + x * r;
    r = -0.1581653946f + x * r;
    r = 0.1984589361f + x * r;
    r = -0.2498544785f + x * r;
    r = 0.3333278715f + x * r;
    r = -0.4999999652f + x * r;
    return (Terms){above, x, r, at_least(y, 0.f) + x * (1.f + x * r)};
}

INLINE float value_(int formula, float z, Curve c) {
    float log = terms_(z, c).log;
    if (formula == NEG_LOG_APA) return nan_or(z, log * c.inverse);
    float p = exp2_(log * (c.inverse * -LOG2_E));
    return formula == AGLU ? z * p : nan_or(z, p);
}

typedef struct { float to_z, to_lambda, to_kappa; } Gradients;

/* That to lambda lacks 1/lambda^2, that to kappa 1/lambda. Where w <= 1, log1p(w) - w/(1 + w) is
 * x^2*(1 + (1 + x)*R(x))/(1 + x), whose middle factor falls from 0.5 to 0.39: no digits cancel. */
INLINE Gradients gradients_(int formula, float grad, float z, Curve c) {
    grad = nan_or(z, grad);
    z = at_least(at_most(z, MAX_INPUT), -MAX_INPUT);
    Terms t = terms_(z, c);
    float v = 1.f + t.x, part = 1.f / v, share = t.x * part;
    float difference = t.above ? t.log - part : share * t.x * (1.f + v * t.r);
    float direct = formula == NEG_LOG_APA ? -grad : grad * exp2_(t.log * (c.inverse * -LOG2_E));
    float u = formula == AGLU ? direct * z : direct;
    float uq = u * (t.above ? part : share);
    return (Gradients){c.kappa * c.inverse * uq + (formula == AGLU ? direct : 0.f), u * difference, z * uq};
}

/* ---- norms, of channel j ---- */

INLINE float inverse_deviation_(const Norm *n, int64_t j) { return n->var ? 1.f / sqrtf(n->var[j] + (float)n->eps) : 1.f; }
INLINE float scale_(const Norm *n, int64_t j) { return inverse_deviation_(n, j) * (n->weight ? n->weight[j] : 1.f); }
INLINE float shift_(const Norm *n, int64_t j) {
    return (n->bias ? n->bias[j] : 0.f) - (n->mean ? n->mean[j] : 0.f) * scale_(n, j);
}
INLINE int is_nan_(float x) { return (as_int(x) & 0x7fffffff) > 0x7f800000; }
INLINE float at_floor_(float lambda, double floor) { return is_nan_(lambda) ? lambda : at_least(lambda, (float)floor); }
