/* Squeeze and excitation with an APA gate on a CPU in float32: the gates of channels, and their gradients.
 *
 * Of each image, with m = mean(x) over the positions of a channel and u = norm(m):
 *     t = layer_norm(u)    h = relu(fc1 t)    e = fc2 h * mask    gate = APA(e)
 * The backward pass computes the few numbers after m again rather than keep them.
 */
#include <stdlib.h>
#include <string.h>

#include "cpu_formulas.h"

#define CHUNK 1024 /* numbers that are summed in float32 */
#define BLOCK 64   /* channels that a thread sums side by side in channels_last */

static float mean_of_plane_(const float *x, int64_t count) {
    double total = 0;
    for (int64_t begin = 0; begin < count; begin += CHUNK) {
        int64_t end = begin + CHUNK < count ? begin + CHUNK : count;
        float sum = 0.f;
        #pragma omp simd reduction(+ : sum)
        for (int64_t i = begin; i < end; i++) sum += x[i];
        total += sum;
    }
    return total / count;
}

static void means_of_block_(const float *x, int64_t positions, int64_t channels, int64_t count, float *means) {
    double totals[BLOCK] = {0};
    for (int64_t begin = 0; begin < positions; begin += CHUNK) {
        int64_t end = begin + CHUNK < positions ? begin + CHUNK : positions;
        float sums[BLOCK] = {0};
        for (int64_t i = begin; i < end; i++)
            #pragma omp simd
            for (int64_t j = 0; j < count; j++) sums[j] += x[i * channels + j];
        for (int64_t j = 0; j < count; j++) totals[j] += sums[j];
    }
    for (int64_t j = 0; j < count; j++) means[j] = totals[j] / positions;
}

static void find_means_(const GateCall *c) {
    if (!c->channels_last) {
        #pragma omp parallel for schedule(static) num_threads(c->threads)
        for (int64_t plane = 0; plane < c->images * c->channels; plane++)
            c->means[plane] = mean_of_plane_(c->x + plane * c->positions, c->positions);
        return;
    }
    int64_t blocks = (c->channels + BLOCK - 1) / BLOCK;
    #pragma omp parallel for schedule(static) num_threads(c->threads)
    for (int64_t item = 0; item < c->images * blocks; item++) {
        int64_t image = item / blocks, first = item % blocks * BLOCK;
        int64_t count = c->channels - first < BLOCK ? c->channels - first : BLOCK;
        means_of_block_(c->x + image * c->positions * c->channels + first, c->positions, c->channels, count,
                        c->means + image * c->channels + first);
    }
}

/* The numbers of one image: `normed` is what the layer norm divides by its deviation, before weight and bias. */
typedef struct { float *normed, *t, *h, *e, *to_t, *to_h; float inverse_deviation; } Image;

static float dot_(const float *a, const float *b, int64_t count) {
    float sum = 0.f;
    #pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

static void add_multiple_(float *to, float factor, const float *x, int64_t count) {
    #pragma omp simd
    for (int64_t i = 0; i < count; i++) to[i] += factor * x[i];
}

static Image allocate_(const GateCall *c) {
    float *memory = malloc((4 * c->channels + 2 * c->width) * sizeof(float));
    float *t = memory + c->channels, *e = t + c->channels, *to_t = e + c->channels, *h = to_t + c->channels;
    return (Image){memory, t, h, e, to_t, h + c->width, 1.f};
}

static void excite_(const GateCall *c, int64_t image, Image *i) {
    const float *means = c->means + image * c->channels;
    for (int64_t j = 0; j < c->channels; j++)
        i->normed[j] = means[j] * scale_(&c->norm, j) + shift_(&c->norm, j);
    if (c->has_layer_norm) {
        double mean = 0, square = 0;
        for (int64_t j = 0; j < c->channels; j++) mean += i->normed[j];
        mean /= c->channels;
        for (int64_t j = 0; j < c->channels; j++) square += (i->normed[j] - mean) * (i->normed[j] - mean);
        i->inverse_deviation = 1. / sqrt(square / c->channels + c->layer_eps);
        for (int64_t j = 0; j < c->channels; j++) i->normed[j] = (i->normed[j] - (float)mean) * i->inverse_deviation;
    }
    for (int64_t j = 0; j < c->channels; j++)
        i->t[j] = i->normed[j] * (c->layer_weight ? c->layer_weight[j] : 1.f) + (c->layer_bias ? c->layer_bias[j] : 0.f);
    for (int64_t k = 0; k < c->width; k++) {
        float h = dot_(c->fc1 + k * c->channels, i->t, c->channels);
        i->h[k] = nan_or(h, at_least(h, 0.f));
    }
    for (int64_t j = 0; j < c->channels; j++) {
        i->e[j] = dot_(c->fc2 + j * c->width, i->h, c->width);
        if (c->mask) i->e[j] *= c->mask[image * c->channels + j];
    }
}

static Curve curve_of_(const GateCall *c, int64_t j) {
    float lambda = at_floor_(c->lambda[j * c->lambda_step], c->floor);
    return (Curve){lambda, 1.f / lambda, logf(lambda), c->kappa[j * c->kappa_step]};
}

void apa_gate_forward(const GateCall *c) {
    find_means_(c);
    Image i = allocate_(c);
    Curve curve = c->channels ? curve_of_(c, 0) : (Curve){0};
    for (int64_t image = 0; image < c->images; image++) {
        excite_(c, image, &i);
        for (int64_t j = 0; j < c->channels; j++) {
            if (j && (c->lambda_step || c->kappa_step)) curve = curve_of_(c, j);
            float gate = value_(APA, i.e[j], curve);
            c->out[image * c->channels + j] = nan_or(curve.lambda, nan_or(curve.kappa, gate));
        }
        if (c->lambda_step || c->kappa_step) curve = curve_of_(c, 0);
    }
    free(i.normed);
}

/* The gradients to λ and κ of a channel, added to what earlier images gave. */
static void add_to_curve_(const GateCall *c, int64_t j, Curve curve, Gradients g, double *to_lambda, double *to_kappa) {
    int floored = c->lambda[j * c->lambda_step] < (float)c->floor;
    to_lambda[j * c->lambda_step] += floored ? 0. : g.to_lambda / ((double)curve.lambda * curve.lambda);
    to_kappa[j * c->kappa_step] += g.to_kappa / (double)curve.lambda;
}

void apa_gate_backward(const GateCall *c) {
    int64_t channels = c->channels, width = c->width;
    Image i = allocate_(c);
    double *to_lambda = calloc(2 * channels + 1, sizeof(double)), *to_kappa = to_lambda + channels;
    float *const cleared[] = {c->to_weight, c->to_bias, c->to_layer_weight, c->to_layer_bias};
    for (int k = 0; k < 4; k++)
        if (cleared[k]) memset(cleared[k], 0, channels * sizeof(float));
    if (c->to_fc1) memset(c->to_fc1, 0, channels * width * sizeof(float));
    if (c->to_fc2) memset(c->to_fc2, 0, channels * width * sizeof(float));
    for (int64_t image = 0; image < c->images; image++) {
        const float *means = c->means + image * channels;
        excite_(c, image, &i);
        memset(i.to_h, 0, width * sizeof(float));
        memset(i.to_t, 0, channels * sizeof(float));
        for (int64_t j = 0; j < channels; j++) {
            Curve curve = curve_of_(c, j);
            float grad = nan_or(curve.lambda, nan_or(curve.kappa, c->grad[image * channels + j]));
            Gradients g = gradients_(APA, grad, i.e[j], curve);
            add_to_curve_(c, j, curve, g, to_lambda, to_kappa);
            float to_e = c->mask ? g.to_z * c->mask[image * channels + j] : g.to_z;
            if (c->to_fc2) add_multiple_(c->to_fc2 + j * width, to_e, i.h, width);
            add_multiple_(i.to_h, to_e, c->fc2 + j * width, width);
        }
        for (int64_t k = 0; k < width; k++) {
            if (i.h[k] == 0.f) continue; /* as ReLU's */
            if (c->to_fc1) add_multiple_(c->to_fc1 + k * channels, i.to_h[k], i.t, channels);
            add_multiple_(i.to_t, i.to_h[k], c->fc1 + k * channels, channels);
        }
        double mean = 0, product = 0;
        for (int64_t j = 0; j < channels; j++) {
            if (c->to_layer_weight) c->to_layer_weight[j] += i.to_t[j] * i.normed[j];
            if (c->to_layer_bias) c->to_layer_bias[j] += i.to_t[j];
            if (c->layer_weight) i.to_t[j] *= c->layer_weight[j];
            mean += i.to_t[j];
            product += i.to_t[j] * i.normed[j];
        }
        mean /= channels;
        product /= channels;
        for (int64_t j = 0; j < channels; j++) {
            float to_u = i.to_t[j];
            if (c->has_layer_norm)
                to_u = i.inverse_deviation * (to_u - (float)mean - i.normed[j] * (float)product);
            float centered = means[j] - (c->norm.mean ? c->norm.mean[j] : 0.f);
            if (c->to_weight) c->to_weight[j] += to_u * centered * inverse_deviation_(&c->norm, j);
            if (c->to_bias) c->to_bias[j] += to_u;
            c->out[image * channels + j] = to_u * scale_(&c->norm, j) / c->positions;
        }
    }
    for (int64_t j = 0; j < channels; j++) {
        if (c->to_lambda && (c->lambda_step || j == 0)) c->to_lambda[j] = to_lambda[j];
        if (c->to_kappa && (c->kappa_step || j == 0)) c->to_kappa[j] = to_kappa[j];
    }
    free(to_lambda);
    free(i.normed);
}
