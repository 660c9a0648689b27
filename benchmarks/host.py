"""Host time: narrow networks, where all is overhead, and a single site, each beside its counterpart, one thread.

    python benchmarks/host.py
    python benchmarks/host.py --rounds 50

Networks of 8 channels at 1x3x32x32, batch norms in eval mode: SE-R50 with AGLU and APA gates beside ReLU and sigmoid,
R101 without attention with AGLU beside ReLU. A site is norm and activation of 1x8x8x8: AGLU in one operator, the same
without the extension of ``apa_mmdet.ops.backends``, and batch norm with ReLU as modules. The two sides of a comparison
take turns; ``to_relu`` is the median of the ratios of neighbors, so that a slow moment counts for both. Time is that of
the thread: what else the machine does counts for less.

Before a Triton launch: the time from a call of the operator, or of the modules, to the launch of the kernel, which is
replaced. Needs Triton, but no GPU. ``a site, from Python``, ``a site, from C++``: who launches Triton's kernels. Where
there is no GPU, launches do nothing, and those from C++ go to a library in the place of CUDA's driver.

    python benchmarks/host.py --device cuda

compares sites alone, on a GPU, by the clock: autograd has a thread of its own there. Tensors are so small that the GPU
waits for the host.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure
import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

import apa_mmdet  # noqa: F401  registers the backbones
from apa_mmdet import ops
from apa_mmdet.models.activations import AGLU
from apa_mmdet.models.layers import norm_act
from apa_mmdet.models.layers.norm_act import tensors_of
from apa_mmdet.ops import dispatch

RELU = dict(act_cfg=dict(type='ReLU'))
SIGMOID = dict(se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0))
CALLS_OF_A_SITE = 100  # in a sample: the clock counts in microseconds


def network(depth: int, **kwargs) -> nn.Module:
    config = dict(type='SEResNet', depth=depth, frozen_stages=-1, norm_eval=True, base_channels=8, stem_channels=8)
    return MODELS.build(config | kwargs).train()


def step(function: Callable[[Tensor], Tensor], x: Tensor, calls: int = 1) -> tuple[float, float]:
    """Returns milliseconds of forward and backward."""
    clock = time.perf_counter if x.is_cuda else time.thread_time
    if x.is_cuda:
        torch.cuda.synchronize()
    start = clock()
    losses = [function(x) for _ in range(calls)]
    middle = clock()
    for loss in losses:
        loss.backward()
    return (middle - start) / calls * 1e3, (clock() - middle) / calls * 1e3


def compare(table: measure.Table, name: str, sides: list[Callable], x: Tensor, rounds: int, calls: int = 1) -> None:
    """Adds a row of the first of two sides, with the ratio to the second."""
    for _ in range(3):
        for side in sides:
            step(side, x, calls)
    samples = [[step(side, x, calls) for side in sides] for _ in range(rounds)]
    row = {}
    for i, direction in enumerate(('forward', 'backward')):
        ours, relu = ([pair[side][i] for pair in samples] for side in (0, 1))
        row[f'{direction}_ms'] = statistics.median(ours)
        row[f'{direction}_relu_ms'] = statistics.median(relu)
        row[f'{direction}_to_relu'] = statistics.median(a / b for a, b in zip(ours, relu))
    table.add(name=name, **row)


def summed(net: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: sum(f.sum() for f in net(x))


def without_extension(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        extension, dispatch.extension = dispatch.extension, lambda: None
        try:
            return function(x)
        finally:
            dispatch.extension = extension

    return call


def before_a_launch(launcher, function: Callable[[], Tensor], rounds: int) -> float:
    """Returns the milliseconds from a call to the launch of its kernel."""
    kernel, launched, times = launcher.forward_kernel, [], []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **kwargs: launched.append(time.thread_time())

    launcher.forward_kernel = Kernel()
    try:
        for _ in range(20 * rounds):
            start = time.thread_time()
            function()
            times.append(launched[-1] - start)
    finally:
        launcher.forward_kernel = kernel
    return statistics.median(times) * 1e3


def site(device: str) -> tuple[Tensor, Callable[[Tensor], '_Loss'], Callable[[Tensor], '_Loss']]:
    """Returns an input, and of it the functions that our site and batch norm with ReLU are."""
    x = torch.randn(1, 8, 8, 8, device=device, requires_grad=True)
    norm, act, relu = nn.BatchNorm2d(8).eval().to(device), AGLU().to(device), nn.ReLU()
    grad = torch.ones_like(x)
    return x, lambda x: _Loss(norm_act(x, norm, act), grad), lambda x: _Loss(relu(norm(x)), grad)


def compare_launches(table: measure.Table, rounds: int, device: str) -> None:
    """Adds the rows of a site whose kernels are launched from Python, and from C++ where that is built and tested."""
    x, ours, theirs = site(device)
    for name, backend in (('a site, from Python', 'triton'), ('a site, from C++', 'triton-cpp')):
        if backend not in ops.backends():
            table.add(name=name, note=f'{backend} is not available')
        elif device == 'cuda' and backend not in measure.serving(x):
            table.add(name=name, note=f'{backend} does not work on this GPU, or has not passed its self-test')
        else:
            with ops.use_backend(backend):
                compare(table, name, [ours, theirs], x, rounds, CALLS_OF_A_SITE)


def compare_stubbed_launches(table: measure.Table, rounds: int) -> None:
    sys.path.insert(0, str(measure.ROOT / 'tests'))
    from helpers.stub_driver import compile_stub, stub_driver

    with (
        tempfile.TemporaryDirectory() as folder,
        stub_driver(compile_stub(Path(folder)), computes=False, listens=False),
    ):
        compare_launches(table, rounds, 'cpu')


def launches_of_operators(table: measure.Table, rounds: int) -> None:
    launcher, x, norm, act = ops.backends()['triton'], torch.randn(1, 8, 8, 8), nn.BatchNorm2d(8).eval(), AGLU()
    x.requires_grad_()
    with ops.use_backend('triton'):
        arguments = x, act.lambda_, act.kappa, tensors_of(norm)
        for name, function in (
            ('before a Triton launch', lambda: ops.aglu(*arguments)),
            ('before a Triton launch, without gradients', torch.no_grad()(lambda: ops.aglu(*arguments))),
            ('before a Triton launch, modules included', lambda: norm_act(x, norm, act)),
        ):
            table.add(name=name, forward_ms=before_a_launch(launcher, function, rounds))


def main() -> None:
    parser = measure.parser_of(__doc__, rounds=30)
    args: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = 'forward_ms forward_relu_ms forward_to_relu backward_ms backward_relu_ms backward_to_relu note'
    if args.device == 'cuda':
        compare_launches(measure.begin(args, 'host', f'name {columns}'), args.rounds, args.device)
        return
    if dispatch.extension() is None:
        parser.error('the extension is not built: run python -m apa_mmdet.ops.backends')
    table = measure.begin(args, 'host', f'name {columns}')
    image = torch.randn(1, 3, 32, 32)
    pairs = {
        'SE-R50': [network(50), network(50, **RELU, **SIGMOID)],
        'R101 without attention': [network(101, se_cfg=None), network(101, se_cfg=None, **RELU)],
    }
    for name, nets in pairs.items():
        compare(table, name, list(map(summed, nets)), image, args.rounds)
    x, ours, theirs = site(args.device)
    compare(table, 'a site', [ours, theirs], x, args.rounds, CALLS_OF_A_SITE)
    compare(table, 'a site without the extension', [without_extension(ours), theirs], x, args.rounds, CALLS_OF_A_SITE)
    if 'triton' in ops.backends():
        launches_of_operators(table, args.rounds)
        if not torch.cuda.is_available():
            compare_stubbed_launches(table, args.rounds)


class _Loss:
    """A result whose backward starts with a given gradient, so that no further operator is timed."""

    def __init__(self, result: Tensor, grad: Tensor) -> None:
        self.result, self.grad = result, grad

    def backward(self) -> None:
        self.result.backward(self.grad)


if __name__ == '__main__':
    main()
