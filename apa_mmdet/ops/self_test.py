"""Tests on the GPUs of this machine that launches from C++ compute what launches from Python do, bit for bit.

    python -m apa_mmdet.ops.self_test

Where they do, that is recorded beside the extension, and from then on :mod:`~apa_mmdet.ops.dispatch` launches from C++
on every GPU of that name; anywhere else Python launches the same kernels. ``python -m apa_mmdet.ops.backends`` runs it
where there is a GPU, in a process of its own: a wrong launch can leave a process without the use of its GPU.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .backends import triton, triton_extension
from .dispatch import backends, call, use_backend
from .memory_layout import DIFFERENTIABLE, FORMULAS, Arguments

SHAPE = 2, 48, 20, 24
EPS = 1e-5
NORM = 'mean', 'var', 'weight', 'bias'
BLOCK = *NORM, 'gate', 'residual'
# of a site: the formula, and what it has beside x, λ and κ, its dtype, memory order and shape
SITES: dict[str, tuple[str, dict[str, Any]]] = {
    'AGLU': ('aglu', {}),
    'APA of (N, C) in float64': ('apa', dict(shape=(70, 48), dtype=torch.float64)),
    '−log APA, parameters per channel': ('neg_log_apa', dict(per_channel=True)),
    'AGLU of a norm in bfloat16': ('aglu', dict(beside=NORM, dtype=torch.bfloat16)),
    'AGLU at the end of a block in float16': ('aglu', dict(beside=BLOCK, dtype=torch.float16)),
    'AGLU at the end of the first block of a stage in bfloat16, channels_last': (
        'aglu',
        dict(
            beside=(*BLOCK, *(f'residual_{name}' for name in NORM)),
            per_channel=True,
            dtype=torch.bfloat16,
            memory_format=torch.channels_last,
        ),
    ),
}
REPEATS = 3  # Python launches the first of a kind


def arguments(
    device: torch.device,
    shape: tuple[int, ...] = SHAPE,
    dtype: torch.dtype = torch.float32,
    beside: tuple[str, ...] = (),
    per_channel: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Arguments:
    """Draws the arguments of a site; what can be differentiated requires a gradient."""
    wide = torch.promote_types(dtype, torch.float32)
    given = {}
    for name in ('x', 'lambda_', 'kappa', *beside):
        if name in ('x', 'residual'):
            tensor = (2 * torch.randn(shape, dtype=wide, device=device)).to(dtype).to(memory_format=memory_format)
        else:
            one = name in ('lambda_', 'kappa') and not per_channel
            size = shape[:2] if name == 'gate' else (1,) if one else shape[1:2]
            tensor = torch.rand(size, dtype=wide, device=device) + 0.5
        given[name] = tensor.requires_grad_(name in DIFFERENTIABLE)
    return Arguments(**given, eps=EPS * ('var' in given), residual_eps=EPS * ('residual_var' in given))


def results(function: Callable[[Arguments], Tensor], args: Arguments) -> dict[str, Tensor]:
    """Returns the value, that without gradients, and the gradients by name."""
    given = {name: getattr(args, name) for name in DIFFERENTIABLE if getattr(args, name) is not None}
    out = function(args)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device).view(out.shape).to(out.dtype)
    gradients = torch.autograd.grad(out, list(given.values()), weights)
    with torch.no_grad():
        alone = function(args)
    return {'value': out.detach(), 'value without gradients': alone, **dict(zip(given, gradients))}


def from_cpp(formula: str, args: Arguments) -> Tensor:
    out = triton_extension.load().call(FORMULAS.index(formula), *args)  # type: ignore[union-attr]
    if out is None:
        raise ValueError('C++ leaves it to Python')
    return out


def self_test(device: torch.device) -> None:
    """Computes every site on the current stream and on another.

    Raises:
        ValueError: if a result differs, or comes from Python.
        RuntimeError: of the driver.
    """
    streams = [None, torch.cuda.Stream(device)] if device.type == 'cuda' else [None]
    for name, (formula, options) in SITES.items():
        args = arguments(device, **options)
        with use_backend('triton'):
            want = results(partial(call, formula, recompute=False), args)
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        for stream in streams:
            with torch.cuda.stream(stream):  # None: the current one
                for _ in range(REPEATS):
                    got = results(partial(from_cpp, formula), args)
                    wrong = [key for key, tensor in want.items() if not torch.equal(got[key], tensor)]
                    if wrong:
                        raise ValueError(f'{name}: {", ".join(wrong)} differ')


def main() -> None:
    if 'triton-cpp' not in backends():
        sys.exit('launches from C++: no GPU, or the extension has not been built (python -m apa_mmdet.ops.backends)')
    if not triton.LAUNCHES_COMPILED:
        return print('launches from C++: need Triton >= 3.6, so that Python launches the kernels')
    failed = False
    for index in range(torch.cuda.device_count()):
        device = torch.device('cuda', index)
        record = triton_extension.record_of(device)
        try:
            if not record.exists():
                self_test(device)
                record.touch()
        except Exception as error:  # also of Triton, of the compiler that it calls and of the driver
            reason = f'{type(error).__name__}: {str(error)[:500]}'
            print(
                f'launches from C++: not used on {torch.cuda.get_device_name(device)}, where Python launches the '
                f'kernels, more slowly. {reason}',
                file=sys.stderr,
            )
            failed = True
        else:
            print(f'launches from C++: used on {torch.cuda.get_device_name(device)} ({record})')
    sys.exit(failed)


if __name__ == '__main__':
    main()
