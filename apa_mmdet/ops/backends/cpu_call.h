/* The arguments of the kernels in cpu_kernels.c and cpu_gate.c, which cpu_extension.cpp fills; cpu.py packs a Call. */
#pragma once
#include <stdint.h>

/* One value per channel, or NULL for 0, 1, 1 and 0. */
typedef struct { const float *mean, *var, *weight, *bias; double eps; } Norm;

/* lambda and kappa are one value or, with a step of 1, one per channel; gate is one per image and channel. What is NULL
 * of the last row is not computed. Every field has 8 bytes. */
typedef struct {
    int64_t formula, images, channels, positions, piece, channels_last, threads, lambda_step, kappa_step;
    double floor;
    const float *x, *lambda, *kappa;
    Norm norm;
    const float *gate, *residual;
    Norm residual_norm;
    const float *grad;
    float *out; /* forward: the value; backward: the gradient to x */
    float *to_lambda, *to_kappa, *to_weight, *to_bias, *to_gate, *to_residual, *to_residual_weight, *to_residual_bias;
} Call;

/* Squeeze and excitation of x, (N, C, ...): the gates of channels. layer_weight, layer_bias: of the layer norm, or NULL;
 * fc1: (width, C); fc2: (C, width); mask: what dropout multiplies by, (N, C), or NULL. */
typedef struct {
    int64_t images, channels, positions, channels_last, width, has_layer_norm, threads, lambda_step, kappa_step;
    double floor, layer_eps;
    const float *x;
    Norm norm;
    const float *layer_weight, *layer_bias, *fc1, *fc2, *mask, *lambda, *kappa;
    float *means; /* of x over its positions, (N, C): the backward pass needs them alone of x */
    const float *grad;
    float *out; /* (N, C); forward: the gates; backward: the gradient to each element of x */
    float *to_weight, *to_bias, *to_layer_weight, *to_layer_bias, *to_fc1, *to_fc2, *to_lambda, *to_kappa;
} GateCall;
