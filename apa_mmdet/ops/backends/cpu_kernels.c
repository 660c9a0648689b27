/* APA, AGLU and -log APA on a CPU, float32: one pass forward, one backward, which keeps only the input.
 *
 * Of every element z = x*scale + shift (+ residual*residual_scale); analytic.py derives the formulas, which are
 * written here, as in triton_kernels.py, without a logarithm and with one division at most. Compiled by
 * cpu.py with the flags of this machine; every loop below is one that compilers turn into vector instructions.
 *
 * A tensor is `images` x `channels` x `positions` elements, either plane by plane (NCHW) or pixel by pixel
 * (channels_last). scale, shift, residual_scale: one float per image and channel, image_step (0: shared by the
 * images) floats apart. lambda and the like: one per channel.
 * Sums over positions are made per piece of a fixed size, so they do not depend on the number of threads.
 */
#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

enum { APA, AGLU, NEG_LOG_APA };
enum { SCALE, SHIFT, RESIDUAL_SCALE, LAMBDA, KAPPA, SUMS };

#define LOG2_E 1.44269504f
#define MAX_INPUT 1e15f /* as in analytic.py */

typedef struct { const float *scale, *shift, *residual_scale, *lambda, *inverse, *log_lambda, *kappa; } Parameters;
typedef struct { int64_t images, channels, positions, piece, channels_last, image_step, threads; } Shape;

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

/* ---- loops: `step` is 1 where the parameters change from element to element (channels_last), 0 where they do not ---- */

INLINE Curve curve_(Parameters p, int64_t j) {
    return (Curve){p.lambda[j], p.inverse[j], p.log_lambda[j], p.kappa[j]};
}

INLINE void forward_row(int formula, int with_residual, int step, int64_t count, Parameters p,
                        const float *restrict x, const float *restrict residual, float *restrict out) {
    #pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        int64_t j = step ? i : 0;
        float z = x[i] * p.scale[j] + p.shift[j];
        if (with_residual) z += residual[i] * p.residual_scale[j];
        out[i] = value_(formula, z, curve_(p, j));
    }
}

/* sums: SUMS numbers (step 0) or SUMS rows of `count` numbers (step 1), added to */
INLINE void backward_row(int formula, int with_residual, int step, int64_t count, Parameters p,
                         const float *restrict grad, const float *restrict x, const float *restrict residual,
                         float *restrict grad_x, float *restrict grad_residual, float *restrict sums) {
    float to_scale = 0.f, to_shift = 0.f, to_residual_scale = 0.f, to_lambda = 0.f, to_kappa = 0.f;
    #pragma omp simd reduction(+ : to_scale, to_shift, to_residual_scale, to_lambda, to_kappa)
    for (int64_t i = 0; i < count; i++) {
        int64_t j = step ? i : 0;
        float z = x[i] * p.scale[j] + p.shift[j];
        if (with_residual) z += residual[i] * p.residual_scale[j];
        Gradients g = gradients_(formula, grad[i], z, curve_(p, j));
        grad_x[i] = g.to_z * p.scale[j];
        if (with_residual) grad_residual[i] = g.to_z * p.residual_scale[j];
        if (step) {
            sums[SCALE * count + i] += g.to_z * x[i];
            sums[SHIFT * count + i] += g.to_z;
            if (with_residual) sums[RESIDUAL_SCALE * count + i] += g.to_z * residual[i];
            sums[LAMBDA * count + i] += g.to_lambda;
            sums[KAPPA * count + i] += g.to_kappa;
        } else {
            to_scale += g.to_z * x[i];
            to_shift += g.to_z;
            if (with_residual) to_residual_scale += g.to_z * residual[i];
            to_lambda += g.to_lambda;
            to_kappa += g.to_kappa;
        }
    }
    if (!step) {
        sums[SCALE] += to_scale;
        sums[SHIFT] += to_shift;
        sums[RESIDUAL_SCALE] += to_residual_scale;
        sums[LAMBDA] += to_lambda;
        sums[KAPPA] += to_kappa;
    }
}

/* One specialized loop for each formula, with and without a residual, with and without steps. */
typedef void Forward(int64_t, Parameters, const float *, const float *, float *);
typedef void Backward(int64_t, Parameters, const float *, const float *, const float *, float *, float *, float *);

#define SPECIALIZE(formula, residual, step)                                                                           \
    static void forward_##formula##residual##step(int64_t count, Parameters p, const float *x, const float *r,       \
                                                  float *y) {                                                        \
        forward_row(formula, residual, step, count, p, x, r, y);                                                     \
    }                                                                                                                \
    static void backward_##formula##residual##step(int64_t count, Parameters p, const float *grad, const float *x,   \
                                                   const float *r, float *to_x, float *to_r, float *sums) {          \
        backward_row(formula, residual, step, count, p, grad, x, r, to_x, to_r, sums);                               \
    }
#define SPECIALIZE_ALL(formula) \
    SPECIALIZE(formula, 0, 0) SPECIALIZE(formula, 0, 1) SPECIALIZE(formula, 1, 0) SPECIALIZE(formula, 1, 1)
SPECIALIZE_ALL(APA) SPECIALIZE_ALL(AGLU) SPECIALIZE_ALL(NEG_LOG_APA)

#define TABLE(direction, formula) \
    {{direction##_##formula##00, direction##_##formula##01}, {direction##_##formula##10, direction##_##formula##11}}
static Forward *const forwards[3][2][2] = {TABLE(forward, APA), TABLE(forward, AGLU), TABLE(forward, NEG_LOG_APA)};
static Backward *const backwards[3][2][2] = {TABLE(backward, APA), TABLE(backward, AGLU), TABLE(backward, NEG_LOG_APA)};

/* A piece: `piece` positions of one plane, or of one image with all its channels (channels_last). */
typedef struct { int64_t first, rows, count; Parameters parameters; } Piece;

static int64_t planes_(const Shape *s) { return s->channels_last ? s->images : s->images * s->channels; }
static int64_t pieces_(const Shape *s) { return (s->positions + s->piece - 1) / s->piece; }

static Piece piece_(const Shape *s, const Parameters *p, int64_t item) {
    int64_t plane = item / pieces_(s), begin = item % pieces_(s) * s->piece;
    int64_t positions = s->positions - begin < s->piece ? s->positions - begin : s->piece;
    int64_t first = plane * s->positions + begin;
    int64_t planes = s->channels_last ? 1 : s->channels, channel = plane % planes; /* of an image */
    int64_t at = plane / planes * s->image_step + channel;
    Parameters row = {p->scale + at, p->shift + at, p->residual_scale + at,
                      p->lambda + channel, p->inverse + channel, p->log_lambda + channel, p->kappa + channel};
    if (s->channels_last) return (Piece){first * s->channels, positions, s->channels, row};
    return (Piece){first, 1, positions, row};
}

void apa_forward(int formula, const Shape *s, const Parameters *parameters,
                 const float *x, const float *residual, float *out) {
    Forward *row = forwards[formula][residual != NULL][s->channels_last];
    #pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t item = 0; item < planes_(s) * pieces_(s); item++) {
        Piece p = piece_(s, parameters, item);
        for (int64_t i = p.first; i < p.first + p.rows * p.count; i += p.count)
            row(p.count, p.parameters, x + i, residual ? residual + i : NULL, out + i);
    }
}

/* sums: zeros, a row of SUMS x (channels_last ? channels : 1) for each piece; see gradients_ for what they lack */
void apa_backward(int formula, const Shape *s, const Parameters *parameters, const float *grad, const float *x,
                  const float *residual, float *grad_x, float *grad_residual, float *sums) {
    Backward *row = backwards[formula][residual != NULL][s->channels_last];
    #pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t item = 0; item < planes_(s) * pieces_(s); item++) {
        Piece p = piece_(s, parameters, item);
        float *to = sums + item * SUMS * (s->channels_last ? s->channels : 1);
        for (int64_t i = p.first; i < p.first + p.rows * p.count; i += p.count)
            row(p.count, p.parameters, grad + i, x + i, residual ? residual + i : NULL, grad_x + i,
                residual ? grad_residual + i : NULL, to);
    }
}
