/* The host side of the operators on a CPU: checks, allocation and autograd without Python.
 *
 * A call of a small activation costs some 50 us in Python, where the kernel itself takes one. `call` and `gate` serve
 * the plain case, all tensors dense in float32, and return None for anything else, which is then computed otherwise.
 * cpu_extension.py builds this file, and gives it the kernels of cpu_kernels.c and cpu_gate.c.
 */
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>

#include "cpu_call.h"
#include "extension.h"

namespace {

void (*forward_kernel)(const Call*);
void (*backward_kernel)(const Call*);
void (*gate_forward_kernel)(const GateCall*);
void (*gate_backward_kernel)(const GateCall*);
double lambda_floor;
int64_t piece_size, min_piece_positions;

const float* data(const Tensor& t) { return t.defined() ? t.const_data_ptr<float>() : nullptr; }
float* result(const Tensor& t) { return t.defined() ? t.mutable_data_ptr<float>() : nullptr; }

Tensor result_like(const Tensor& t) {
    return at::detail::empty_strided_cpu(t.sizes(), t.strides(), at::kFloat);
}

/* Whether t is an ordinary tensor of the CPU in float32. */
bool is_plain(const Tensor& t) {
    static const KeySets ordinary(at::kCPU);
    return t.scalar_type() == at::kFloat && ordinary.has(t);
}

bool set_layout(Call& call, const Tensors& t) {
    const std::optional<Layout> layout = layout_of(t);
    if (!layout) return false;
    call.images = layout->images;
    call.channels = layout->channels;
    call.positions = layout->positions;
    call.channels_last = layout->channels_last;
    call.piece = call.channels_last && call.channels ? std::max(min_piece_positions, piece_size / call.channels) : piece_size;
    return true;
}

void set_inputs(Call& call, const Tensors& t, int64_t formula, double eps, double residual_eps) {
    call.formula = formula;
    call.threads = at::get_num_threads();
    call.lambda_step = t[LAMBDA].numel() != 1;
    call.kappa_step = t[KAPPA].numel() != 1;
    call.floor = lambda_floor;
    call.x = data(t[X]);
    call.lambda = data(t[LAMBDA]);
    call.kappa = data(t[KAPPA]);
    call.norm = {data(t[MEAN]), data(t[VAR]), data(t[WEIGHT]), data(t[BIAS]), eps};
    call.gate = data(t[GATE]);
    call.residual = data(t[RESIDUAL]);
    call.residual_norm = {data(t[R_MEAN]), data(t[R_VAR]), data(t[R_WEIGHT]), data(t[R_BIAS]), residual_eps};
}

Tensor compute(const Tensors& t, int64_t formula, double eps, double residual_eps) {
    Call call{};
    set_layout(call, t);
    set_inputs(call, t, formula, eps, residual_eps);
    Tensor out = result_like(t[X]);
    call.out = result(out);
    forward_kernel(&call);
    return out;
}

struct Parametric : public torch::autograd::Function<Parametric> {
    static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& lambda, const Tensor& kappa,
                          const Optional& mean, const Optional& var, const Optional& weight, const Optional& bias,
                          const Optional& gate, const Optional& residual, const Optional& r_mean, const Optional& r_var,
                          const Optional& r_weight, const Optional& r_bias, int64_t formula, double eps,
                          double residual_eps) {
        Tensors t{x, lambda, kappa};
        int i = MEAN;
        for (const Optional* given : {&mean, &var, &weight, &bias, &gate, &residual, &r_mean, &r_var, &r_weight, &r_bias})
            t[i++] = given->value_or(Tensor());
        ctx->save_for_backward({t.begin(), t.end()});
        ctx->saved_data["formula"] = formula;
        ctx->saved_data["eps"] = eps;
        ctx->saved_data["residual_eps"] = residual_eps;
        return compute(t, formula, eps, residual_eps);
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        Tensors t;
        std::copy(saved.begin(), saved.end(), t.begin());
        at::AutoDispatchBelowADInplaceOrView guard;
        Tensor grad = grads[0];
        if (grad.scalar_type() != at::kFloat || !same_order(grad, t[X])) grad = result_like(t[X]).copy_(grad);
        Call call{};
        TORCH_CHECK(set_layout(call, t) && (!t[RESIDUAL].defined() || same_order(t[RESIDUAL], t[X])),
                    "apa_mmdet: a hook of saved tensors changed the order of elements in memory; return them as they were");
        set_inputs(call, t, ctx->saved_data["formula"].toInt(), ctx->saved_data["eps"].toDouble(),
                   ctx->saved_data["residual_eps"].toDouble());
        call.grad = data(grad);
        variable_list results(TENSORS + 3);
        int edge = 0; /* of the tensors that are given */
        for (int i = 0; i < TENSORS; i++) {
            if (!t[i].defined()) continue;
            const bool elements = i == X || i == RESIDUAL; /* the kernels always compute these */
            if (i != MEAN && i != VAR && i != R_MEAN && i != R_VAR && (elements || ctx->needs_input_grad(edge)))
                results[i] = result_like(t[i]);
            edge++;
        }
        call.out = result(results[X]);
        call.to_lambda = result(results[LAMBDA]);
        call.to_kappa = result(results[KAPPA]);
        call.to_weight = result(results[WEIGHT]);
        call.to_bias = result(results[BIAS]);
        call.to_gate = result(results[GATE]);
        call.to_residual = result(results[RESIDUAL]);
        call.to_residual_weight = result(results[R_WEIGHT]);
        call.to_residual_bias = result(results[R_BIAS]);
        backward_kernel(&call);
        return refuse_second_derivative(std::move(results));
    }
};

PyObject* call(PyObject*, PyObject* const* args, Py_ssize_t count) {
    HANDLE_TH_ERRORS
    Tensors t;
    Call call{};
    if (!unpack(args + 1, t) || !is_served(t, is_plain) || !set_layout(call, t)) Py_RETURN_NONE;
    const int64_t formula = PyLong_AsLongLong(args[0]);
    const double eps = PyFloat_AsDouble(args[1 + TENSORS]), residual_eps = PyFloat_AsDouble(args[2 + TENSORS]);
    const bool differentiable = is_differentiable(t);
    Tensor out;
    {
        Unlocked unlocked;
        out = differentiable ? Parametric::apply(t[X], t[LAMBDA], t[KAPPA], Optional(t[MEAN]), Optional(t[VAR]),
                                                 Optional(t[WEIGHT]), Optional(t[BIAS]), Optional(t[GATE]),
                                                 Optional(t[RESIDUAL]), Optional(t[R_MEAN]), Optional(t[R_VAR]),
                                                 Optional(t[R_WEIGHT]), Optional(t[R_BIAS]), formula, eps, residual_eps)
                             : compute(t, formula, eps, residual_eps);
    }
    return THPVariable_Wrap(std::move(out));
    END_HANDLE_TH_ERRORS
}

/* The tensors of squeeze and excitation. Undefined where they are not given. */
enum { S_X, S_MEAN, S_VAR, S_WEIGHT, S_BIAS, S_LAYER_WEIGHT, S_LAYER_BIAS, S_FC1, S_FC2, S_LAMBDA, S_KAPPA, S_TENSORS };
using GateTensors = std::array<Tensor, S_TENSORS>;

bool is_served(const GateTensors& t) {
    const Tensor& x = t[S_X];
    if (!is_plain(x) || x.dim() != 4 || !x.numel() || c10::impl::TorchDispatchModeTLS::any_modes_set()) return false;
    if (!x.is_contiguous() && !x.is_contiguous(at::MemoryFormat::ChannelsLast)) return false;
    for (int i = S_MEAN; i < S_TENSORS; i++) {
        if (!t[i].defined()) continue;
        if (!is_plain(t[i]) || !t[i].is_contiguous()) return false;
        if (i == S_FC1 || i == S_FC2) {
            if (t[i].dim() != 2 || t[i].size(i == S_FC1) != x.size(1)) return false;
        } else if (!((i == S_LAMBDA || i == S_KAPPA) && t[i].numel() == 1) &&
                   (t[i].dim() != 1 || t[i].size(0) != x.size(1))) {
            return false;
        }
    }
    return t[S_FC1].size(0) == t[S_FC2].size(1) && t[S_MEAN].defined() == t[S_VAR].defined();
}

struct GateSettings { double eps, layer_eps; bool has_layer_norm; };

GateCall describe(const GateTensors& t, const GateSettings& settings, const Tensor& mask, const Tensor& means, const Tensor& out) {
    const Tensor& x = t[S_X];
    GateCall call{};
    call.images = x.size(0);
    call.channels = x.size(1);
    call.positions = x.size(2) * x.size(3);
    call.channels_last = !x.is_contiguous();
    call.width = t[S_FC1].size(0);
    call.has_layer_norm = settings.has_layer_norm;
    call.threads = at::get_num_threads();
    call.lambda_step = t[S_LAMBDA].numel() > 1;
    call.kappa_step = t[S_KAPPA].numel() > 1;
    call.floor = lambda_floor;
    call.layer_eps = settings.layer_eps;
    call.x = data(x);
    call.norm = {data(t[S_MEAN]), data(t[S_VAR]), data(t[S_WEIGHT]), data(t[S_BIAS]), settings.eps};
    call.layer_weight = data(t[S_LAYER_WEIGHT]);
    call.layer_bias = data(t[S_LAYER_BIAS]);
    call.fc1 = data(t[S_FC1]);
    call.fc2 = data(t[S_FC2]);
    call.mask = data(mask);
    call.lambda = data(t[S_LAMBDA]);
    call.kappa = data(t[S_KAPPA]);
    call.means = result(means);
    call.out = result(out);
    return call;
}

Tensor plane(const Tensor& x) { return at::detail::empty_cpu({x.size(0), x.size(1)}, x.options()); }

struct Gate : public torch::autograd::Function<Gate> {
    static Tensor forward(AutogradContext* ctx, const Tensor& x, const Optional& mean, const Optional& var,
                          const Optional& weight, const Optional& bias, const Optional& layer_weight,
                          const Optional& layer_bias, const Tensor& fc1, const Tensor& fc2, const Tensor& lambda,
                          const Tensor& kappa, const Tensor* mask, const GateSettings* settings) {
        const GateTensors t{x, mean.value_or(Tensor()), var.value_or(Tensor()), weight.value_or(Tensor()),
                            bias.value_or(Tensor()), layer_weight.value_or(Tensor()), layer_bias.value_or(Tensor()),
                            fc1, fc2, lambda, kappa};
        const Tensor means = plane(x), out = plane(x);
        const GateCall call = describe(t, *settings, *mask, means, out);
        gate_forward_kernel(&call);
        variable_list saved(t.begin(), t.end());
        saved.push_back(*mask);
        saved.push_back(means);
        ctx->save_for_backward(std::move(saved));
        ctx->saved_data["eps"] = settings->eps;
        ctx->saved_data["layer_eps"] = settings->layer_eps;
        ctx->saved_data["has_layer_norm"] = settings->has_layer_norm;
        return out;
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        GateTensors t;
        std::copy_n(saved.begin(), S_TENSORS, t.begin());
        at::AutoDispatchBelowADInplaceOrView guard;
        Tensor grad = grads[0];
        if (grad.scalar_type() != at::kFloat || !grad.is_contiguous()) grad = plane(t[S_X]).copy_(grad);
        const GateSettings settings{ctx->saved_data["eps"].toDouble(), ctx->saved_data["layer_eps"].toDouble(),
                                    ctx->saved_data["has_layer_norm"].toBool()};
        const Tensor to_mean = plane(t[S_X]);
        GateCall call = describe(t, settings, saved[S_TENSORS], saved[S_TENSORS + 1], to_mean);
        call.grad = data(grad);
        variable_list results(S_TENSORS + 2);
        int edge = 1; /* of the tensors that are given; 0 is x */
        for (int i = S_MEAN; i < S_TENSORS; i++) {
            if (!t[i].defined()) continue;
            if (i != S_MEAN && i != S_VAR && ctx->needs_input_grad(edge)) results[i] = result_like(t[i]);
            edge++;
        }
        call.to_weight = result(results[S_WEIGHT]);
        call.to_bias = result(results[S_BIAS]);
        call.to_layer_weight = result(results[S_LAYER_WEIGHT]);
        call.to_layer_bias = result(results[S_LAYER_BIAS]);
        call.to_fc1 = result(results[S_FC1]);
        call.to_fc2 = result(results[S_FC2]);
        call.to_lambda = result(results[S_LAMBDA]);
        call.to_kappa = result(results[S_KAPPA]);
        gate_backward_kernel(&call);
        /* a view that repeats one number for all positions: autograd adds it to the other gradient in place */
        results[S_X] = to_mean.as_strided(t[S_X].sizes(), {t[S_X].size(1), 1, 0, 0});
        return refuse_second_derivative(std::move(results));
    }
};

PyObject* gate(PyObject*, PyObject* const* args, Py_ssize_t count) {
    HANDLE_TH_ERRORS
    GateTensors t;
    if (!unpack(args, t) || !is_served(t)) Py_RETURN_NONE;
    const GateSettings settings{PyFloat_AsDouble(args[S_TENSORS]), PyFloat_AsDouble(args[S_TENSORS + 1]),
                                PyObject_IsTrue(args[S_TENSORS + 2]) == 1};
    const double dropout = PyFloat_AsDouble(args[S_TENSORS + 3]);
    const bool differentiable = is_differentiable(t);
    Tensor out;
    {
        Unlocked unlocked;
        Tensor mask;
        if (dropout > 0) { /* the numbers that torch's dropout draws */
            at::AutoDispatchBelowADInplaceOrView guard;
            mask = plane(t[S_X]).bernoulli_(1 - dropout).div_(1 - dropout);
        }
        if (differentiable) {
            out = Gate::apply(t[S_X], Optional(t[S_MEAN]), Optional(t[S_VAR]), Optional(t[S_WEIGHT]),
                              Optional(t[S_BIAS]), Optional(t[S_LAYER_WEIGHT]), Optional(t[S_LAYER_BIAS]), t[S_FC1],
                              t[S_FC2], t[S_LAMBDA], t[S_KAPPA], &mask, &settings);
        } else {
            const Tensor means = plane(t[S_X]);
            out = plane(t[S_X]);
            const GateCall call = describe(t, settings, mask, means, out);
            gate_forward_kernel(&call);
        }
    }
    return THPVariable_Wrap(std::move(out));
    END_HANDLE_TH_ERRORS
}

PyObject* configure(PyObject*, PyObject* args) {
    unsigned long long forward, backward, gate_forward, gate_backward;
    long long piece, min_positions;
    if (!PyArg_ParseTuple(args, "KKKKdLL", &forward, &backward, &gate_forward, &gate_backward, &lambda_floor, &piece,
                          &min_positions))
        return nullptr;
    forward_kernel = reinterpret_cast<void (*)(const Call*)>(forward);
    backward_kernel = reinterpret_cast<void (*)(const Call*)>(backward);
    gate_forward_kernel = reinterpret_cast<void (*)(const GateCall*)>(gate_forward);
    gate_backward_kernel = reinterpret_cast<void (*)(const GateCall*)>(gate_backward);
    piece_size = piece;
    min_piece_positions = min_positions;
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"call", as_method<call>(), METH_FASTCALL, "call(formula, *Arguments) -> the result, or None if it is not served"},
    {"gate", as_method<gate>(), METH_FASTCALL,
     "gate(x, mean, var, weight, bias, layer_weight, layer_bias, fc1, fc2, lambda_, kappa, eps, layer_eps, "
     "has_layer_norm, dropout) -> gates (N, C), or None if it is not served"},
    {"configure", configure, METH_VARARGS, "configure(*addresses of kernels, floor, piece, min_piece_positions)"},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "apa_mmdet_cpu_extension", nullptr, -1, methods};

}  // namespace

PyMODINIT_FUNC PyInit_apa_mmdet_cpu_extension() { return PyModule_Create(&module); }
