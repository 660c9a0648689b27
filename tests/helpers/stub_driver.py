"""Runs the C++ host side of Triton's kernels without a GPU: CPU tensors, and a library in the place of CUDA's driver.

The library is driver_stub.c. What it is asked to launch is recorded and, if wanted, computed by Triton's interpreter from
the very parameters that a GPU would get.
"""

import ctypes
import subprocess
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch

from apa_mmdet.ops import dispatch
from apa_mmdet.ops.backends import triton as launcher
from apa_mmdet.ops.backends import triton_extension

KERNELS = 'forward_kernel', 'backward_kernel', 'finish_kernel'
STREAM, SHARED = 0x5EED, 48
TYPES = {torch.float32: '*fp32', torch.float64: '*fp64', torch.bfloat16: '*bf16', torch.float16: '*fp16'}


class Request(ctypes.Structure):
    """The struct Launch of driver_stub.c."""

    _fields_ = [
        ('grid', ctypes.c_uint * 3),
        ('block', ctypes.c_uint * 3),
        ('shared', ctypes.c_uint),
        ('function', ctypes.c_void_p),
        ('stream', ctypes.c_void_p),
        ('parameters', ctypes.POINTER(ctypes.c_void_p)),
    ]


Listener = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Request))


class Compiled:
    """A kernel for some dtypes and constants, as Triton's compiler makes it; None arguments are compiled away."""

    def __init__(self, kernel, handle, values, constants):
        self.kernel, self.function, self.constants = kernel, handle, constants
        self.metadata = SimpleNamespace(num_ctas=1, num_warps=4, shared=SHARED, launch_pdl=False, global_scratch_size=0)
        kinds = ('constexpr' if v is None else 'i32' if isinstance(v, int) else TYPES[v.dtype] for v in values)
        self.src = SimpleNamespace(signature=dict(zip(kernel.arg_names, kinds)))  # without constants
        self.sizes = {}  # of tensors by what is launched: programs and numbers

    def __getitem__(self, grid):
        if not self.kernel.driver.listens:
            return lambda *values: None
        return lambda *values: self.run(grid[0], values[: len(self.src.signature)])

    def run(self, programs, values):
        numbers = tuple(v for v in values if isinstance(v, int))
        self.sizes[programs, numbers] = [v.numel() if isinstance(v, torch.Tensor) else 0 for v in values]
        self.kernel.compute(programs, values, self.constants)

    def read(self, request):
        """Returns the values that the parameters of a launch point to, tensors as they lie in memory."""
        place, found, numbers = 0, [], []
        for kind in self.src.signature.values():
            value = None
            if kind != 'constexpr':
                address, place = request.parameters[place], place + 1
                number = ctypes.c_int32 if kind == 'i32' else ctypes.c_uint64
                value = number.from_address(address).value
                numbers += [value] * (kind == 'i32')
            found.append(value)
        scratch = [ctypes.c_uint64.from_address(request.parameters[place + i]).value for i in range(2)]
        assert scratch == [0, 0], 'two pointers that the kernel does not use'
        sizes = self.sizes[request.grid[0], tuple(numbers)]
        kinds = zip(found, sizes, self.src.signature.values())
        return [tensor_at(*each) if each[2].startswith('*') else each[0] for each in kinds]


def tensor_at(address, size, kind):
    dtype = next(dtype for dtype, name in TYPES.items() if name == kind)
    memory = (ctypes.c_char * (size * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype)


class Jit:
    """A kernel as ``triton.jit`` makes it: the first launch of some dtypes and constants compiles."""

    def __init__(self, kernel, driver):
        self.kernel, self.arg_names, self.driver = kernel, kernel.arg_names, driver

    def compute(self, programs, values, constants):
        if self.driver.computes:
            self.kernel[(programs,)](*values, **constants)

    def __getitem__(self, grid):
        def search(*values, num_warps, enable_fp_fusion=True, **constants):
            compiled = Compiled(self, 1 + len(self.driver.compiled), values, constants)
            self.driver.compiled[compiled.function] = compiled
            compiled.run(grid[0], values)
            return compiled

        return search


class Driver:
    """``launches``: what it was asked to launch, with the values of arguments by name. ``error``: what it answers."""

    def __init__(self, library, computes, listens):
        self.library, self.computes, self.listens = library, computes, listens
        self.compiled, self.launches, self.streams, self.error = {}, [], [], 0
        self.listener = Listener(self.hear)

    def hear(self, request):
        request = request.contents
        compiled = self.compiled[request.function]
        values = compiled.read(request)
        fields = {name: getattr(request, name) for name in ('shared', 'function', 'stream')}
        fields |= dict(grid=tuple(request.grid), block=tuple(request.block))
        named = dict(zip(compiled.src.signature, values))
        self.launches.append(SimpleNamespace(kernel=compiled.kernel, values=named, **fields))
        if not self.error:
            compiled.kernel.compute(request.grid[0], values, compiled.constants)
        return self.error

    def names(self):
        return [next(name for name in KERNELS if getattr(launcher, name) is launch.kernel) for launch in self.launches]


def compile_stub(folder: Path) -> Path:
    path = folder / 'libstub.so'
    subprocess.run(['cc', '-shared', '-fPIC', '-o', path, Path(__file__).with_name('driver_stub.c')], check=True)
    return path


def stream_of(asked, device):
    asked.append(device)
    return STREAM


@contextmanager
def stub_driver(path, computes=True, listens=True):
    """Lets ``'triton-cpp'`` serve the CPU in this block, and yields the :class:`Driver`.

    Without ``computes`` results are whatever the memory held; without ``listens`` nothing is recorded either.
    """
    library = ctypes.CDLL(str(path))
    driver = Driver(library, computes, listens)
    address = ctypes.cast(driver.listener, ctypes.c_void_p).value
    ctypes.c_void_p.in_dll(library, 'listener').value = address if listens else None
    patches = [(launcher, name, Jit(getattr(launcher, name), driver)) for name in KERNELS]
    patches += [(launcher, 'LAUNCHES_COMPILED', True), (launcher, '_compiled', {})]
    patches += [(triton_extension, 'DRIVER', str(path)), (triton_extension, 'DEVICE', 'cpu')]
    patches += [(triton_extension, 'stream_of', partial(stream_of, driver.streams))]
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(mock.patch.object(*patch))
        forget()
        try:
            yield driver
        finally:
            ctypes.c_void_p.in_dll(library, 'listener').value = None
    forget()


def forget():
    for cached in (triton_extension.load, triton_extension.places, dispatch._triton_extension):
        cached.cache_clear()
