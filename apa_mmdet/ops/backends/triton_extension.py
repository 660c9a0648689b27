"""Launches Triton's kernels from C++ (``triton_extension.cpp``): the backend ``triton-cpp``.

A fast GPU is done with a kernel before Python has launched the next. Here Python is asked once for each layout, dtype
and set of arguments: Triton compiles and launches its kernels as ever, and what it launched is kept as a *plan*. With
that, C++ launches the like through CUDA's driver, forward and in autograd's threads. What the extension does not serve
(subclasses, transforms, tensors to be copied first, addresses that are no multiple of 16 bytes) goes through Python.

:mod:`~apa_mmdet.ops.backends.extension` says when it is built. :mod:`~apa_mmdet.ops.dispatch` uses it by itself on GPUs
on which :mod:`apa_mmdet.ops.self_test` has passed: this project has not run it on a GPU yet.
"""

import functools
import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from apa_mmdet.ops.memory_layout import DIFFERENTIABLE, FORMULAS, Arguments

from . import extension, triton
from .triton import Launch

SOURCES = [Path(__file__).with_name(name) for name in ('triton_extension.cpp', 'extension.h')]
NAME = 'apa_mmdet_triton_extension'
DRIVER, DEVICE = 'libcuda.so.1', 'cuda'
THREADS = 32  # of a warp
# what a launch with no other arguments cannot do
UNSERVED = 'launch_cooperative_grid', 'launch_pdl', 'global_scratch_size', 'profile_scratch_size'
forward, backward = triton.forward, triton.backward  # of what the extension does not serve
_PLACES = [Arguments._fields.index(name) for name in DIFFERENTIABLE]


def library() -> Path:
    return extension.library(NAME, SOURCES)


def build() -> Path:
    """As :func:`apa_mmdet.ops.backends.extension.build`."""
    return extension.build(library(), SOURCES[0])


@functools.cache
def load() -> ModuleType | None:
    """Returns the extension if it has been built and there is a CUDA driver, else None."""
    module = extension.load(library(), NAME)
    if module is not None:
        try:
            module.configure(DRIVER, DEVICE, plan_forward, plan_backward, stream_of)
        except OSError:  # a machine without a GPU
            return None
    return module


def serves(x: Tensor) -> bool:
    return triton.serves(x) and is_tested(x.device)


def record_of(device: torch.device) -> Path:
    """The file that says that the self-test has passed on GPUs of this name, with these versions and sources."""
    tested = [path.read_bytes() for path in sorted(Path(__file__).parent.glob('triton*.py'))]
    tested += [triton.triton.__version__.encode(), torch.cuda.get_device_name(device).encode()]
    return library().with_suffix(f'.{hashlib.sha256(bytes(1).join(tested)).hexdigest()[:16]}.passed')


@functools.cache
def is_tested(device: torch.device) -> bool:
    return load() is not None and triton.works(device) and record_of(device).exists()


def stream_of(device: int) -> int:
    """Returns the driver's handle of the current stream of a device."""
    return torch._C._cuda_getCurrentRawStream(device)


@functools.cache
def places() -> dict[str, int]:
    """The places that C++ keeps the kernels' pointers in, by their names."""
    return {name: place for place, name in enumerate(load().places())}  # type: ignore[union-attr]


def plan_forward(formula: int, *arguments: Any) -> tuple | None:
    """Launches the forward kernel of a call, and returns what C++ launches the next time; None where it cannot.

    A kernel is ``(function, programs, threads of a program, bytes of shared memory, ((place, number), ...))``. The last
    are its arguments: a pointer with its place, or −1 and a number of 32 bits.
    """
    _, launches = triton.describe_forward(FORMULAS[formula], Arguments(*arguments))
    return _start(launches[0])


def plan_backward(
    formula: int, grad: Tensor, needed: int, plain: bool, *arguments: Any
) -> tuple[tuple[Tensor | None, ...], tuple | None]:
    """Computes the gradients to the tensors of ``Arguments``, and returns them with what C++ launches the next time.

    ``needed`` has a bit for each tensor; ``plain``: grad holds data, and no transform wants to see what becomes of it.
    The plan is ``(bytes of partials, bytes of curve, kernel, kernel)``, or None.
    """
    args = Arguments(*arguments)
    wanted = [bool(needed >> place & 1) for place in _PLACES]
    gradients: list[Tensor | None] = [None] * len(args.tensors)
    if plain:
        results, launches = triton.describe_backward(FORMULAS[formula], grad, args, wanted)
        kernels = [_start(launch) for launch in launches]
        found = [results.get(name) for name in DIFFERENTIABLE]
        values = dict(zip(triton.backward_kernel.arg_names, launches[0].values))
        sizes = [0 if values[name] is None else values[name].nbytes for name in ('partials_ptr', 'curve_ptr')]
        plan = None if None in kernels else (*sizes, *kernels)
    else:
        flat = iter(torch.ops.apa_mmdet.parametric_backward(FORMULAS[formula], grad, *args, wanted))
        found, plan = [next(flat) if want else None for want in wanted], None
    for place, gradient in zip(_PLACES, found):
        gradients[place] = gradient
    return tuple(gradients), plan


def _start(launch: Launch) -> tuple | None:
    """Launches a kernel and describes it; None if another launch with these arguments needs more than a description."""
    compiled = triton.start(launch)
    if compiled is None:
        return None
    made, types = compiled.metadata, compiled.src.signature
    if made.num_ctas != 1 or any(getattr(made, name, 0) for name in UNSERVED):
        return None
    parameters = []
    for name, value in zip(launch.kernel.arg_names, launch.values):
        if value is None and types[name] == 'constexpr':
            continue
        if isinstance(value, Tensor):
            parameters.append((places()[name], 0))
        elif value is not None and types[name] == 'i32':
            parameters.append((-1, value))
        else:  # a number that the kernel was compiled for, one of 64 bits, or None that is not compiled away
            return None
    return compiled.function, launch.programs, THREADS * made.num_warps, made.shared, tuple(parameters)
