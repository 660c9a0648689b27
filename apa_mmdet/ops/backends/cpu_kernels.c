/* APA, AGLU and -log APA on a CPU in float32: one pass forward, one backward, which keeps only the input.
 *
 * Of every element z = norm(x)*gate (+ norm(residual)); analytic.py derives the formulas, which are
 * written here, as in triton_kernels.py, without a logarithm and with one division at most. Compiled by
 * cpu.py with the flags of this machine; every loop over elements is one that compilers turn into vector instructions.
 *
 * A tensor is `images` x `channels` x `positions` elements, either plane by plane (NCHW) or pixel by pixel
 * (channels_last). prepare_ turns the norms and the gate into one factor and one summand a plane, finish_ the sums over
 * positions into gradients. Sums are made per piece of a fixed size, so they do not depend on the number of threads.
 */
#include <stddef.h>
#include <stdlib.h>

#include "cpu_formulas.h"

enum { SCALE, SHIFT, RESIDUAL_SCALE, LAMBDA, KAPPA, SUMS };

/* Of the first plane of a piece: scale, shift and residual_scale differ between planes, the others between channels. */
typedef struct { const float *scale, *shift, *residual_scale, *lambda, *inverse, *log_lambda, *kappa; } Parameters;

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

static int64_t planes_(const Call *c) { return c->channels_last ? c->images : c->images * c->channels; }
static int64_t pieces_(const Call *c) { return (c->positions + c->piece - 1) / c->piece; }

static Piece piece_(const Call *c, const Parameters *p, int64_t item) {
    int64_t plane = item / pieces_(c), begin = item % pieces_(c) * c->piece;
    int64_t positions = c->positions - begin < c->piece ? c->positions - begin : c->piece;
    int64_t first = plane * c->positions + begin;
    int64_t planes = c->channels_last ? 1 : c->channels, channel = plane % planes; /* of an image */
    int64_t at = (c->gate ? plane / planes * c->channels : 0) + channel;
    Parameters row = {p->scale + at, p->shift + at, p->residual_scale + channel,
                      p->lambda + channel, p->inverse + channel, p->log_lambda + channel, p->kappa + channel};
    if (c->channels_last) return (Piece){first * c->channels, positions, c->channels, row};
    return (Piece){first, 1, positions, row};
}

/* ---- norms and gates, one value per channel ---- */

/* Fills memory of the caller's, which is one allocation. NaN in a parameter makes NaN of the shift, where it is seen. */
static void *prepare_(const Call *c, Parameters *p) {
    int64_t planes = (c->gate ? c->images : 1) * c->channels;
    float *memory = malloc((2 * planes + 5 * c->channels + 1) * sizeof(float));
    float *scale = memory, *shift = scale + planes, *residual_scale = shift + planes, *lambda = residual_scale + c->channels;
    float *inverse = lambda + c->channels, *log_lambda = inverse + c->channels, *kappa = log_lambda + c->channels;
    for (int64_t j = 0; j < c->channels; j++) {
        lambda[j] = at_floor_(c->lambda[j * c->lambda_step], c->floor);
        kappa[j] = c->kappa[j * c->kappa_step];
        inverse[j] = 1.f / lambda[j];
        log_lambda[j] = j && !c->lambda_step ? log_lambda[0] : logf(lambda[j]);
        residual_scale[j] = scale_(&c->residual_norm, j);
        float own = scale_(&c->norm, j), offset = shift_(&c->norm, j), other = shift_(&c->residual_norm, j);
        if (is_nan_(lambda[j]) || is_nan_(kappa[j])) other = as_float(0x7fc00000);
        for (int64_t i = j; i < planes; i += c->channels) {
            scale[i] = c->gate ? own * c->gate[i] : own;
            shift[i] = nan_or(other, (c->gate ? offset * c->gate[i] : offset) + other);
        }
    }
    *p = (Parameters){scale, shift, residual_scale, lambda, inverse, log_lambda, kappa};
    return memory;
}

/* The gradients of a norm, from the sums of grad*x and grad. */
static void finish_norm_(const Norm *n, int64_t j, double times_x, double plain, float *to_weight, float *to_bias) {
    if (to_weight) to_weight[j] = (times_x - (n->mean ? n->mean[j] : 0.f) * plain) * inverse_deviation_(n, j);
    if (to_bias) to_bias[j] = plain;
}

static void finish_(const Call *c, const float *sums) {
    double all_lambda = 0, all_kappa = 0;
    int64_t pieces = pieces_(c), step = c->channels_last ? c->channels : 1;
    for (int64_t j = 0; j < c->channels; j++) {
        double times_x = 0, plain = 0, residual_times_x = 0, residual_plain = 0, to_lambda = 0, to_kappa = 0;
        for (int64_t n = 0; n < c->images; n++) {
            double s[SUMS] = {0};
            for (int64_t i = 0; i < pieces; i++) {
                const float *at = c->channels_last ? sums + (n * pieces + i) * SUMS * step + j
                                                   : sums + ((n * c->channels + j) * pieces + i) * SUMS;
                for (int k = 0; k < SUMS; k++) s[k] += at[k * step];
            }
            float gate = c->gate ? c->gate[n * c->channels + j] : 1.f;
            times_x += s[SCALE] * gate;
            plain += s[SHIFT] * gate;
            residual_times_x += s[RESIDUAL_SCALE];
            residual_plain += s[SHIFT];
            to_lambda += s[LAMBDA];
            to_kappa += s[KAPPA];
            if (c->to_gate)
                c->to_gate[n * c->channels + j] = s[SCALE] * scale_(&c->norm, j) + s[SHIFT] * shift_(&c->norm, j);
        }
        finish_norm_(&c->norm, j, times_x, plain, c->to_weight, c->to_bias);
        finish_norm_(&c->residual_norm, j, residual_times_x, residual_plain, c->to_residual_weight, c->to_residual_bias);
        double lambda = at_floor_(c->lambda[j * c->lambda_step], c->floor);
        to_lambda = c->lambda[j * c->lambda_step] < (float)c->floor ? 0. : to_lambda / (lambda * lambda);
        to_kappa /= lambda;
        all_lambda += to_lambda;
        all_kappa += to_kappa;
        if (c->to_lambda && c->lambda_step) c->to_lambda[j] = to_lambda;
        if (c->to_kappa && c->kappa_step) c->to_kappa[j] = to_kappa;
    }
    if (c->to_lambda && !c->lambda_step) c->to_lambda[0] = all_lambda;
    if (c->to_kappa && !c->kappa_step) c->to_kappa[0] = all_kappa;
}

void apa_forward(const Call *c) {
    Parameters parameters;
    void *memory = prepare_(c, &parameters);
    Forward *row = forwards[c->formula][c->residual != NULL][c->channels_last];
    #pragma omp parallel for schedule(static) num_threads(c->threads)
    for (int64_t item = 0; item < planes_(c) * pieces_(c); item++) {
        Piece p = piece_(c, &parameters, item);
        for (int64_t i = p.first; i < p.first + p.rows * p.count; i += p.count)
            row(p.count, p.parameters, c->x + i, c->residual ? c->residual + i : NULL, c->out + i);
    }
    free(memory);
}

void apa_backward(const Call *c) {
    Parameters parameters;
    void *memory = prepare_(c, &parameters);
    Backward *row = backwards[c->formula][c->residual != NULL][c->channels_last];
    /* a row of SUMS x (channels_last ? channels : 1) for each piece; see gradients_ for what they lack */
    int64_t items = planes_(c) * pieces_(c), width = SUMS * (c->channels_last ? c->channels : 1);
    float *sums = calloc(items * width + 1, sizeof(float));
    #pragma omp parallel for schedule(static) num_threads(c->threads)
    for (int64_t item = 0; item < items; item++) {
        Piece p = piece_(c, &parameters, item);
        for (int64_t i = p.first; i < p.first + p.rows * p.count; i += p.count)
            row(p.count, p.parameters, c->grad + i, c->x + i, c->residual ? c->residual + i : NULL, c->out + i,
                c->residual ? c->to_residual + i : NULL, sums + item * width);
    }
    finish_(c, sums);
    free(sums);
    free(memory);
}
