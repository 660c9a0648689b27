"""Tests on the GPUs of this machine that launches from C++ compute what launches from Python do, bit for bit.

    python -m apa_mmdet.ops.self_test

Where they do, that is recorded beside the extension, and from then on :mod:`~apa_mmdet.ops.dispatch` launches from C++
on every GPU of that name; anywhere else Python launches the same kernels. ``python -m apa_mmdet.ops.backends`` runs it
where there is a GPU, in a process of its own: a wrong launch can leave a process without the use of its GPU.
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from .apa import aglu, apa, neg_log_apa
from .backends import triton, triton_extension
from .dispatch import backends, use_backend
from .memory_layout import Norm

SHAPE = 2, 48, 20, 24
ALL = 'norm', 'gate', 'residual', 'residual_norm'
# what precedes the activation, and in which dtype and memory order; where none is given, x alone, in float32
SITES: dict[str, dict] = {
    'AGLU': dict(function=aglu),
    'APA of (N, C) in float64': dict(function=apa, shape=(70, 48), dtype=torch.float64),
    '−log APA, parameters per channel': dict(function=neg_log_apa, per_channel=True),
    'AGLU of a norm in bfloat16': dict(function=aglu, dtype=torch.bfloat16, before=('norm',)),
    'AGLU at the end of a block in float16': dict(function=aglu, dtype=torch.float16, before=ALL[:3]),
    'AGLU at the end of a stage in bfloat16, channels_last': dict(
        function=aglu, dtype=torch.bfloat16, before=ALL, per_channel=True, memory_format=torch.channels_last
    ),
}
REPEATS = 3  # Python helps with the first of a kind


def site(
    device: torch.device,
    function: Callable[..., Tensor],
    shape: tuple[int, ...] = SHAPE,
    dtype: torch.dtype = torch.float32,
    before: tuple[str, ...] = (),
    per_channel: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[Callable[..., Tensor], dict[str, Tensor]]:
    """Returns a function and the tensors to call it with, which require gradients, by name."""
    parameters = torch.promote_types(dtype, torch.float32)

    def drawn(*sizes: int) -> Tensor:
        return torch.rand(sizes, dtype=parameters, device=device) + 0.5

    def elements() -> Tensor:
        return (2 * torch.randn(shape, dtype=parameters, device=device)).to(dtype).to(memory_format=memory_format)

    channels = shape[1]
    given = dict(z=elements(), **{name: drawn(channels if per_channel else 1) for name in ('lambda_', 'kappa')})
    statistics = {}
    for name in ('norm', 'residual_norm'):
        if name in before:
            statistics[name] = drawn(channels), drawn(channels)
            given |= {f'{name} weight': drawn(channels), f'{name} bias': drawn(channels)}
    if 'gate' in before:
        given['gate'] = drawn(shape[0], channels)
    if 'residual' in before:
        given['residual'] = elements()

    def call(**tensors: Tensor) -> Tensor:
        norms = {
            name: Norm(*known, tensors.pop(f'{name} weight'), tensors.pop(f'{name} bias'), 1e-5)
            for name, known in statistics.items()
        }
        return function(**tensors, **norms)

    return call, {name: tensor.requires_grad_() for name, tensor in given.items()}


def results(backend: str, call: Callable[..., Tensor], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the value, that without gradients, and the gradients by name."""
    with use_backend(backend):
        out = call(**given)
        weights = torch.linspace(-1, 1, out.numel(), device=out.device).view(out.shape).to(out.dtype)
        gradients = torch.autograd.grad(out, list(given.values()), weights)
        with torch.no_grad():
            alone = call(**given)
    return {'value': out.detach(), 'value without gradients': alone, **dict(zip(given, gradients))}


def self_test(device: torch.device) -> None:
    """Computes every site on the current stream and on another.

    Raises:
        ValueError: if a result differs.
        RuntimeError: of the driver.
    """
    streams = [None, torch.cuda.Stream(device)] if device.type == 'cuda' else [None]
    for name, options in SITES.items():
        call, given = site(device, **options)
        want = results('triton', call, given)
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        for stream in streams:
            with torch.cuda.stream(stream):  # None: the current one
                for _ in range(REPEATS):
                    got = results('triton-cpp', call, given)
                    wrong = [key for key, tensor in want.items() if not torch.equal(got[key], tensor)]
                    if wrong:
                        raise ValueError(f'{name}: {", ".join(wrong)} differ')


def main() -> None:
    if 'triton-cpp' not in backends():
        sys.exit('launches from C++: no GPU, or the extension has not been built (python -m apa_mmdet.ops.backends)')
    if not triton.LAUNCHES_COMPILED:
        return print('launches from C++: need Triton >= 3.6, so that Python launches the kernels')
    for index in range(torch.cuda.device_count()):
        device = torch.device('cuda', index)
        record = triton_extension.record_of(device)
        if not record.exists():
            try:
                self_test(device)
            except (ValueError, RuntimeError) as error:
                sys.exit(
                    f'launches from C++: not used on {torch.cuda.get_device_name(device)}, where Python launches the '
                    f'kernels, more slowly. Please report this: {error}'
                )
            record.touch()
        print(f'launches from C++: used on {torch.cuda.get_device_name(device)} ({record})')


if __name__ == '__main__':
    main()
