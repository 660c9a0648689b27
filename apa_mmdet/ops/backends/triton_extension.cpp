/* The host side of Triton's kernels without Python: checks, allocation, autograd and launches.
 *
 * What to launch for a call depends on its formula, layout, dtypes and constants. triton_extension.py says it once for
 * each such key, after Triton has compiled and launched its kernels; from then on neither the forward nor the backward
 * pass of such a call enters Python. `call` serves ordinary dense tensors, and returns None for anything else.
 *
 * Kernels are launched through CUDA's driver, which is opened when this is configured: nothing here is compiled or
 * linked against CUDA.
 */
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <torch/csrc/utils/object_ptr.h>

#include "extension.h"

namespace {

/* The pointers that kernels take: to the tensors of a call, to the gradients to them, and to four more. */
constexpr int GRADIENTS = TENSORS, OUT = 2 * TENSORS, GRAD = OUT + 1, PARTIALS = OUT + 2, CURVE = OUT + 3, POINTERS = OUT + 4;
using Pointers = std::array<void*, POINTERS>;
constexpr const char* NAMES[TENSORS] = {"x", "lambda", "kappa", "mean", "var", "weight", "bias", "gate", "residual",
                                        "residual_mean", "residual_var", "residual_weight", "residual_bias"};
constexpr size_t ALIGNMENT = 16; /* bytes: Triton compiles other kernels for pointers that are not multiples of it */

/* Holds Python's lock while this lives. */
struct Locked {
    PyGILState_STATE state = PyGILState_Ensure();
    ~Locked() { PyGILState_Release(state); }
};

/* Throws Python's error so that it outlives the lock. */
[[noreturn]] void raise_python() {
    python_error error;
    error.persist();
    throw error;
}

/* CUDA's driver: the functions used here, with its types spelled out. */
struct Driver {
    int (*launch)(void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned shared, void* stream,
                  void** parameters, void** extra);
    int (*current_device)(int* device);
    int (*device)(int* device, int ordinal);
    int (*retain_context)(void** context, int device);
    int (*set_context)(void* context);
    int (*error_name)(int error, const char** name);
} driver;

c10::DeviceType device_type;
std::optional<KeySets> ordinary; /* of that device */
PyObject *plan_function, *backward_function, *stream_function; /* of triton_extension.py */

void check(int error) {
    if (!error) return;
    const char* name = nullptr;
    driver.error_name(error, &name);
    TORCH_CHECK(false, "apa_mmdet: the CUDA driver reports ", name ? name : "an error", " (", error, ") at the launch of a kernel");
}

/* A thread that has not used CUDA has no context; the current device of torch may be one that it has not yet set. */
void ensure_context(int ordinal) {
    int device, current;
    check(driver.device(&device, ordinal));
    if (driver.current_device(&current) == 0 && current == device) return;
    static std::mutex mutex;
    static std::unordered_map<int, void*> contexts; /* retained once a device */
    std::lock_guard lock(mutex);
    void*& context = contexts[device];
    if (!context) check(driver.retain_context(&context, device));
    check(driver.set_context(context));
}

std::mutex stream_mutex;
std::unordered_map<c10::Stream, void*> stream_handles;

/* The driver's handle of the current stream, which torch's C++ knows by a number: Python is asked once for each. */
void* current_stream(c10::Device device) {
    const c10::Stream stream = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
    {
        std::lock_guard lock(stream_mutex); /* never held while Python is called, whose lock another thread may hold */
        const auto found = stream_handles.find(stream);
        if (found != stream_handles.end()) return found->second;
    }
    void* handle;
    {
        const Locked locked;
        THPObjectPtr got(PyObject_CallFunction(stream_function, "i", static_cast<int>(device.index())));
        if (!got) raise_python();
        handle = PyLong_AsVoidPtr(got);
        if (PyErr_Occurred()) raise_python();
    }
    std::lock_guard lock(stream_mutex);
    return stream_handles[stream] = handle;
}

/* A compiled kernel and what of its arguments does not differ between the calls of a key. */
struct Kernel {
    struct Parameter { int32_t place, number; }; /* of a pointer, or -1 for a number */
    void* function;
    unsigned programs, threads, shared;
    std::vector<Parameter> parameters;

    void launch(Pointers& pointers, void* stream) const {
        constexpr int MOST = 2 * POINTERS;
        TORCH_INTERNAL_ASSERT(parameters.size() + 2 <= MOST);
        void *given[MOST], *scratch = nullptr;
        int i = 0;
        for (const Parameter& parameter : parameters)
            given[i++] = parameter.place < 0 ? const_cast<int32_t*>(&parameter.number) : static_cast<void*>(&pointers[parameter.place]);
        given[i++] = &scratch; /* Triton's kernels end with two pointers to memory that these have no use for */
        given[i] = &scratch;
        check(driver.launch(function, programs, 1, 1, threads, 1, 1, shared, stream, given, nullptr));
    }
};

struct BackwardPlan {
    int64_t partials, curve; /* bytes */
    Kernel kernel, finish;
};

/* What tells calls apart that launch different kernels, or with other numbers. */
using Key = std::array<int64_t, 7>;
struct Hash {
    size_t operator()(const Key& key) const {
        size_t value = 0;
        for (int64_t word : key) value = (value ^ static_cast<size_t>(word)) * 0x9E3779B97F4A7C15ull, value ^= value >> 32;
        return value;
    }
};

/* All that a call needs beside its tensors. Without a forward kernel: this key is served by Python. */
struct Plan : torch::CustomClassHolder {
    Key key;
    int64_t formula;
    double eps, residual_eps;
    std::optional<Kernel> forward;
    std::mutex mutex;
    std::unordered_map<unsigned, std::shared_ptr<const BackwardPlan>> backward; /* by the tensors that need a gradient */
};
using PlanPtr = c10::intrusive_ptr<Plan>;

constexpr size_t MOST_PLANS = 1 << 16; /* some hundred bytes each */
std::unordered_map<Key, PlanPtr, Hash> plans; /* used with Python's lock */

int64_t code_of(const Tensor& t) {
    if (!t.defined()) return 0;
    switch (t.scalar_type()) {
        case at::kHalf: return 1;
        case at::kBFloat16: return 2;
        case at::kFloat: return 3;
        default: return 4;
    }
}

Key key_of(const Tensors& t, const Layout& layout, int64_t formula, double eps, double residual_eps) {
    int64_t dtypes = 0;
    for (const Tensor& each : t) dtypes = dtypes * 5 + code_of(each);
    const int64_t flags = ((formula * 2 + layout.channels_last) * 2 + (t[LAMBDA].numel() != 1)) * 2 + (t[KAPPA].numel() != 1);
    Key key{flags * 256 + t[X].device().index(), layout.images, layout.channels, layout.positions, dtypes};
    std::memcpy(&key[5], &eps, sizeof eps);
    std::memcpy(&key[6], &residual_eps, sizeof residual_eps);
    return key;
}

bool is_plain(const Tensor& t) {
    const at::ScalarType dtype = t.scalar_type();
    return (dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kDouble) && ordinary->has(t);
}

void* address(const Tensor& t) { return t.defined() ? const_cast<void*>(t.const_data_ptr()) : nullptr; }
bool is_aligned(const Tensor& t) { return reinterpret_cast<uintptr_t>(address(t)) % ALIGNMENT == 0; }
size_t aligned(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

bool is_served_here(const Tensors& t) {
    if (!t[X].defined() || t[X].device().type() != device_type) return false;
    if (!is_served(t, is_plain)) return false;
    for (const Tensor& each : t)
        if (each.defined() && (each.device() != t[X].device() || !is_aligned(each))) return false;
    return t[LAMBDA].numel() == t[KAPPA].numel() && t[X].numel();
}

/* What Python says */

int64_t integer(PyObject* object) {
    const int64_t value = PyLong_AsLongLong(object);
    if (value == -1 && PyErr_Occurred()) raise_python();
    return value;
}

PyObject* item(PyObject* tuple, Py_ssize_t i) {
    PyObject* found = PyTuple_GetItem(tuple, i);
    if (!found) raise_python();
    return found;
}

/* Reads (function, programs, threads, shared, ((place, number), ...)). */
Kernel read_kernel(PyObject* described) {
    Kernel kernel{PyLong_AsVoidPtr(item(described, 0)), static_cast<unsigned>(integer(item(described, 1))),
                  static_cast<unsigned>(integer(item(described, 2))), static_cast<unsigned>(integer(item(described, 3))), {}};
    PyObject* parameters = item(described, 4);
    for (Py_ssize_t i = 0; i < PyTuple_Size(parameters); i++) {
        PyObject* pair = item(parameters, i);
        const int64_t place = integer(item(pair, 0)), number = integer(item(pair, 1));
        TORCH_INTERNAL_ASSERT(place >= -1 && place < POINTERS && number >= 0 && number <= INT32_MAX);
        kernel.parameters.push_back({static_cast<int32_t>(place), static_cast<int32_t>(number)});
    }
    if (PyErr_Occurred()) raise_python();
    return kernel;
}

/* Calls a function of triton_extension.py with `first`, and then as memory_layout.Arguments. */
THPObjectPtr call_python(PyObject* function, std::initializer_list<PyObject*> first, const Tensors& t, const Plan& plan) {
    THPObjectPtr args(PyTuple_New(first.size() + TENSORS + 2));
    if (!args) raise_python();
    Py_ssize_t i = 0;
    for (PyObject* each : first) PyTuple_SET_ITEM(args.get(), i++, each); /* the tuple owns them */
    for (const Tensor& each : t) PyTuple_SET_ITEM(args.get(), i++, THPVariable_Wrap(each)); /* None where undefined */
    PyTuple_SET_ITEM(args.get(), i++, PyFloat_FromDouble(plan.eps));
    PyTuple_SET_ITEM(args.get(), i++, PyFloat_FromDouble(plan.residual_eps));
    THPObjectPtr got(PyObject_Call(function, args, nullptr));
    if (!got) raise_python();
    return got;
}

PlanPtr plan_of(const Tensors& t, const Layout& layout, int64_t formula, double eps, double residual_eps) {
    const Key key = key_of(t, layout, formula, eps, residual_eps);
    const auto found = plans.find(key);
    if (found != plans.end()) return found->second;
    auto plan = c10::make_intrusive<Plan>();
    plan->key = key;
    plan->formula = formula;
    plan->eps = eps;
    plan->residual_eps = residual_eps;
    {
        at::NoGradGuard no_grad;
        THPObjectPtr kernel = call_python(plan_function, {PyLong_FromLongLong(formula)}, t, *plan);
        if (kernel.get() != Py_None) plan->forward = read_kernel(kernel);
    }
    if (plans.size() >= MOST_PLANS) plans.clear(); /* graphs that are alive keep theirs */
    plans.emplace(key, plan);
    return plan;
}

Tensor allocate_like(const Tensor& t) { return at::empty_strided(t.sizes(), t.strides(), t.options()); }

Tensor compute(const Tensors& t, const Plan& plan) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const c10::DeviceGuard on(t[X].device());
    const Tensor out = allocate_like(t[X]);
    Pointers pointers{};
    for (int i = 0; i < TENSORS; i++) pointers[i] = address(t[i]);
    pointers[OUT] = address(out);
    ensure_context(std::max<int>(0, t[X].device().index()));
    plan.forward->launch(pointers, current_stream(t[X].device()));
    return out;
}

/* Gradients to parameters, in one allocation. */
struct Gradients {
    size_t bytes = 0;
    std::vector<std::pair<int, size_t>> offsets;

    void add(int i, const Tensor& like) {
        offsets.emplace_back(i, bytes);
        bytes += aligned(like.nbytes());
    }

    void allocate(const Tensors& t, variable_list& results) const {
        if (!bytes) return;
        const Tensor block = at::empty({static_cast<int64_t>(bytes)}, t[X].options().dtype(at::kByte));
        for (const auto& [i, offset] : offsets) {
            results[i] = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(block.storage()), block.key_set(), t[i].dtype());
            results[i].unsafeGetTensorImpl()->set_sizes_contiguous(t[i].sizes());
            results[i].unsafeGetTensorImpl()->set_storage_offset(static_cast<int64_t>(offset / t[i].element_size()));
        }
    }
};

/* The backward pass by Python, whose gradients go into `results`; returns the plan of the next, or none. */
std::shared_ptr<const BackwardPlan> backward_by_python(
    const Plan& plan, const Tensors& t, const Tensor& grad, unsigned needed, bool plain,
    variable_list& results) {
    const Locked locked;
    THPObjectPtr got = call_python(
        backward_function,
        {PyLong_FromLongLong(plan.formula), THPVariable_Wrap(grad), PyLong_FromUnsignedLong(needed), PyBool_FromLong(plain)}, t,
        plan);
    PyObject* gradients = item(got, 0);
    for (int i = 0; i < TENSORS; i++)
        if (PyObject* gradient = item(gradients, i); gradient != Py_None) results[i] = THPVariable_Unpack(gradient);
    PyObject* described = item(got, 1);
    if (described == Py_None) return nullptr;
    return std::make_shared<const BackwardPlan>(BackwardPlan{integer(item(described, 0)), integer(item(described, 1)),
                                                             read_kernel(item(described, 2)), read_kernel(item(described, 3))});
}

struct TritonParametric : public torch::autograd::Function<TritonParametric> {
    static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& lambda, const Tensor& kappa,
                          const Optional& mean, const Optional& var, const Optional& weight, const Optional& bias,
                          const Optional& gate, const Optional& residual, const Optional& r_mean, const Optional& r_var,
                          const Optional& r_weight, const Optional& r_bias, const Tensors* t, const PlanPtr* plan) {
        ctx->save_for_backward({t->begin(), t->end()});
        ctx->saved_data["plan"] = c10::IValue::make_capsule(*plan);
        return compute(*t, **plan);
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const auto capsule = ctx->saved_data["plan"].toCapsule();
        Plan& plan = static_cast<Plan&>(*capsule);
        Tensors t;
        std::copy(saved.begin(), saved.end(), t.begin());
        at::AutoDispatchBelowADInplaceOrView guard;
        const c10::DeviceGuard on(t[X].device());
        Tensor grad = grads[0];
        /* else a mode or a transform of functorch wants to see what is computed */
        const bool plain = is_plain(grad) && !c10::impl::TorchDispatchModeTLS::any_modes_set();
        const bool planned_for = plain && fits(t, plan);
        if (planned_for && (grad.scalar_type() != t[X].scalar_type() || !same_order(grad, t[X]) || !is_aligned(grad)))
            grad = allocate_like(t[X]).copy_(grad);
        unsigned needed = 0;
        for (int i = 0, edge = 0; i < TENSORS; i++) /* edges: of the tensors that are given */
            if (t[i].defined() && ctx->needs_input_grad(edge++) && !is_statistic(i)) needed |= 1u << i;
        variable_list results(TENSORS + 2);
        std::shared_ptr<const BackwardPlan> planned;
        if (planned_for) {
            std::lock_guard lock(plan.mutex);
            if (const auto found = plan.backward.find(needed); found != plan.backward.end()) planned = found->second;
        }
        if (planned) {
            run(*planned, t, grad, needed, results);
        } else if ((planned = backward_by_python(plan, t, grad, needed, plain, results)) && planned_for) {
            std::lock_guard lock(plan.mutex);
            plan.backward.emplace(needed, std::move(planned));
        }
        return refuse_second_derivative(std::move(results));
    }

    /* Whether saved tensors are as they were: what autograd's hooks unpack may lie in another order. */
    static bool fits(const Tensors& t, const Plan& plan) {
        if (!is_served_here(t)) return false;
        const std::optional<Layout> layout = layout_of(t);
        return layout && key_of(t, *layout, plan.formula, plan.eps, plan.residual_eps) == plan.key;
    }

    static void run(const BackwardPlan& plan, const Tensors& t, const Tensor& grad, unsigned needed, variable_list& results) {
        Gradients gradients;
        results[X] = allocate_like(t[X]); /* the kernel always computes these two */
        if (t[RESIDUAL].defined()) results[RESIDUAL] = allocate_like(t[RESIDUAL]);
        for (int i = LAMBDA; i < TENSORS; i++)
            if (i != RESIDUAL && needed >> i & 1) gradients.add(i, t[i]);
        gradients.allocate(t, results);
        const int64_t partials = aligned(plan.partials);
        const Tensor scratch = at::empty({partials + plan.curve}, t[X].options().dtype(at::kByte));
        Pointers pointers{};
        for (int i = 0; i < TENSORS; i++) {
            pointers[i] = address(t[i]);
            pointers[GRADIENTS + i] = address(results[i]);
        }
        pointers[GRAD] = address(grad);
        pointers[PARTIALS] = address(scratch);
        pointers[CURVE] = static_cast<char*>(pointers[PARTIALS]) + partials;
        ensure_context(std::max<int>(0, t[X].device().index()));
        void* stream = current_stream(t[X].device());
        plan.kernel.launch(pointers, stream);
        plan.finish.launch(pointers, stream);
    }
};

PyObject* call(PyObject*, PyObject* const* args, Py_ssize_t count) {
    HANDLE_TH_ERRORS
    Tensors t;
    if (!unpack(args + 1, t) || !is_served_here(t)) Py_RETURN_NONE;
    const std::optional<Layout> layout = layout_of(t);
    if (!layout) Py_RETURN_NONE;
    const PlanPtr plan = plan_of(t, *layout, integer(args[0]), PyFloat_AsDouble(args[1 + TENSORS]), PyFloat_AsDouble(args[2 + TENSORS]));
    if (!plan->forward) Py_RETURN_NONE;
    const bool differentiable = is_differentiable(t);
    Tensor out;
    {
        Unlocked unlocked;
        if (differentiable) {
            out = TritonParametric::apply(t[X], t[LAMBDA], t[KAPPA], Optional(t[MEAN]), Optional(t[VAR]), Optional(t[WEIGHT]),
                                          Optional(t[BIAS]), Optional(t[GATE]), Optional(t[RESIDUAL]), Optional(t[R_MEAN]),
                                          Optional(t[R_VAR]), Optional(t[R_WEIGHT]), Optional(t[R_BIAS]), &t, &plan);
        } else {
            out = compute(t, *plan);
        }
    }
    return THPVariable_Wrap(std::move(out));
    END_HANDLE_TH_ERRORS
}

template <class F>
void find(void* library, F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(library, name));
    if (!function) PyErr_Format(PyExc_OSError, "CUDA's driver has no %s", name);
}

PyObject* configure(PyObject*, PyObject* args) {
    const char *path, *device;
    if (!PyArg_ParseTuple(args, "ssOOO", &path, &device, &plan_function, &backward_function, &stream_function)) return nullptr;
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return PyErr_Format(PyExc_OSError, "%s", dlerror());
    find(library, driver.launch, "cuLaunchKernel");
    find(library, driver.current_device, "cuCtxGetDevice");
    find(library, driver.device, "cuDeviceGet");
    find(library, driver.retain_context, "cuDevicePrimaryCtxRetain");
    find(library, driver.set_context, "cuCtxSetCurrent");
    find(library, driver.error_name, "cuGetErrorName");
    if (PyErr_Occurred()) return nullptr;
    device_type = c10::Device(device).type();
    ordinary.emplace(device_type);
    for (PyObject* kept : {plan_function, backward_function, stream_function}) Py_INCREF(kept);
    plans.clear();
    stream_handles.clear();
    Py_RETURN_NONE;
}

/* The names of the pointers that kernels take, in the order of their places. */
PyObject* places(PyObject*, PyObject*) {
    PyObject* names = PyList_New(0);
    for (const char* prefix : {"", "to_"})
        for (int i = 0; i < TENSORS; i++) {
            const bool elements = *prefix && (i == X || i == RESIDUAL);
            THPObjectPtr name(PyUnicode_FromFormat("%s%s_ptr", elements ? "grad_" : prefix, NAMES[i]));
            if (!name || PyList_Append(names, name)) return nullptr;
        }
    for (const char* other : {"out_ptr", "grad_ptr", "partials_ptr", "curve_ptr"}) {
        THPObjectPtr name(PyUnicode_FromString(other));
        if (!name || PyList_Append(names, name)) return nullptr;
    }
    return names;
}

PyMethodDef methods[] = {
    {"call", as_method<call>(), METH_FASTCALL, "call(formula, *Arguments) -> the result, or None if it is not served"},
    {"places", places, METH_NOARGS, "places() -> names of the pointers that a plan gives to kernels"},
    {"configure", configure, METH_VARARGS, "configure(driver, device type, plan_forward, backward, stream_of)"},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "apa_mmdet_triton_extension", nullptr, -1, methods};

}  // namespace

PyMODINIT_FUNC PyInit_apa_mmdet_triton_extension() { return PyModule_Create(&module); }
