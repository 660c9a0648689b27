/* What cpu_extension.cpp and triton_extension.cpp share: arguments of Python, what is served, layouts, autograd. */
#pragma once
#include <algorithm>
#include <array>
#include <optional>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/python_variable.h>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/* The tensors in the order of memory_layout.Arguments. Undefined where they are not given. */
enum { X, LAMBDA, KAPPA, MEAN, VAR, WEIGHT, BIAS, GATE, RESIDUAL, R_MEAN, R_VAR, R_WEIGHT, R_BIAS, TENSORS };
using Optional = std::optional<Tensor>; /* undefined and empty alike */
using Tensors = std::array<Tensor, TENSORS>;

bool is_statistic(int i) { return i == MEAN || i == VAR || i == R_MEAN || i == R_VAR; }

/* The keys of ordinary tensors of a device: no transform of functorch, no tangent, no view that is lazily negated. */
struct KeySets {
    c10::DispatchKeySet usual, in_inference_mode;

    explicit KeySets(c10::DeviceType device) : usual(of(device, false)), in_inference_mode(of(device, true)) {}

    /* Of a tensor that is made without the dispatcher: in a transform of functorch that would return a wrapper. */
    static c10::DispatchKeySet of(c10::DeviceType device, bool inference) {
        c10::InferenceMode guard(inference);
        const at::TensorOptions options(device);
        return c10::TensorImpl(options.computeDispatchKey(), options.dtype(), options.device()).key_set();
    }

    bool has(const Tensor& t) const {
        return (t.key_set() == usual || t.key_set() == in_inference_mode) && !t._fw_grad(0).defined();
    }
};

/* Reads arguments of Python, None or tensors; false if one is of a subclass, which may want to see what is computed. */
template <size_t count>
bool unpack(PyObject* const* args, std::array<Tensor, count>& t) {
    for (size_t i = 0; i < count; i++) {
        if (args[i] == Py_None) continue;
        if (!THPVariable_CheckTypeExact(Py_TYPE(args[i]))) return false;
        t[i] = THPVariable_Unpack(args[i]);
    }
    return true;
}

/* Whether the elements of two tensors of one shape lie in the same order. */
bool same_order(const Tensor& a, const Tensor& b) {
    const auto sizes = a.sizes(), left = a.strides(), right = b.strides();
    for (size_t i = 0; i < sizes.size(); i++)
        if (sizes[i] != 1 && left[i] != right[i]) return false;
    return true;
}

/* Whether shapes fit as memory_layout.check asks, all is plain and nothing has to be copied first. */
bool is_served(const Tensors& t, bool (*is_plain)(const Tensor&)) {
    const Tensor& x = t[X];
    if (!is_plain(x) || c10::impl::TorchDispatchModeTLS::any_modes_set()) return false;
    const int64_t channels = x.dim() > 1 ? x.size(1) : 1;
    for (int i = LAMBDA; i < TENSORS; i++) {
        if (!t[i].defined()) continue;
        if (!is_plain(t[i])) return false;
        if (i == RESIDUAL) {
            if (t[i].sizes() != x.sizes() || !same_order(t[i], x)) return false;
        } else if (!t[i].is_contiguous()) {
            return false;
        } else if (i == GATE) {
            if (x.dim() < 2 || t[i].dim() != 2 || t[i].size(0) != x.size(0) || t[i].size(1) != channels) return false;
        } else if ((i == LAMBDA || i == KAPPA) && t[i].numel() == 1) {
            continue;
        } else if (x.dim() < 2 || t[i].dim() != 1 || t[i].size(0) != channels) {
            return false;
        }
    }
    const bool without_residual = !t[RESIDUAL].defined() && (t[R_WEIGHT].defined() || t[R_BIAS].defined() || t[R_VAR].defined());
    return !without_residual && t[MEAN].defined() == t[VAR].defined() && t[R_MEAN].defined() == t[R_VAR].defined();
}

struct Layout { int64_t images, channels, positions, channels_last; };

/* As memory_layout.layout_of; none where the tensor has to be brought into another memory order first. */
std::optional<Layout> layout_of(const Tensors& t) {
    const Tensor& x = t[X];
    bool per_channel = t[LAMBDA].numel() != 1 || t[KAPPA].numel() != 1;
    for (int i : {VAR, WEIGHT, BIAS, GATE, R_VAR, R_WEIGHT, R_BIAS}) per_channel |= t[i].defined();
    if (!per_channel) {
        if (!x.is_non_overlapping_and_dense()) return std::nullopt;
        return Layout{1, 1, x.numel(), 0};
    }
    const bool contiguous = x.is_contiguous();
    if (!contiguous && !(x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast)) &&
        !(x.dim() == 5 && x.is_contiguous(at::MemoryFormat::ChannelsLast3d)))
        return std::nullopt;
    Layout layout{x.size(0), x.size(1), 0, 0};
    const int64_t planes = layout.images * layout.channels;
    layout.positions = planes ? x.numel() / planes : 0;
    layout.channels_last = layout.positions == 1 || !contiguous;
    if (layout.channels_last && !t[GATE].defined()) {
        layout.positions *= layout.images;
        layout.images = 1;
    }
    return layout;
}

template <size_t N>
bool is_differentiable(const std::array<Tensor, N>& t) {
    return at::GradMode::is_enabled() &&
           std::any_of(t.begin(), t.end(), [](const Tensor& each) { return each.defined() && each.requires_grad(); });
}

variable_list refuse_second_derivative(variable_list&& results) {
    if (!at::GradMode::is_enabled()) return results;
    for (Tensor& gradient : results)
        if (gradient.defined()) gradient.requires_grad_(true);
    auto refuse = torch::autograd::DelayedError(
        "trying to differentiate twice a function that was marked with @once_differentiable", results.size());
    return refuse.apply(std::move(results));
}

/* The interpreter is free for other threads while this lives. */
struct Unlocked {
    PyThreadState* state = PyEval_SaveThread();
    ~Unlocked() { PyEval_RestoreThread(state); }
};

template <PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)>
PyCFunction as_method() {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

}  // namespace
