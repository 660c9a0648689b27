"""Times the Triton kernels of AGLU with tiles, warps and numbers of programs other than those of the launcher.

    python benchmarks/gpu_check/tiles.py --shape 2x64x400x667

Without a GPU the kernels are interpreted: a rehearsal, whose times say nothing. ``plain`` is an activation alone,
``block_end`` what ends a residual block: norm, gate, sum and activation. Times are those of the GPU, of forward and
backward each alone. Their shares are relative to the bandwidth of ``y.copy_(x)`` in the same rounds, by the bytes of
all elements that a pass must read and write.
"""

import itertools
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import measure
import torch

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'

from apa_mmdet.ops.backends import triton as launcher
from apa_mmdet.ops.memory_layout import DIFFERENTIABLE, Arguments
from apa_mmdet.ops.self_test import BLOCK, arguments

TILES, WARPS, PROGRAMS = (512, 1024, 2048), (4, 8), (2048, 4096, 8192)
BESIDE = dict(plain=(), block_end=BLOCK)
PASSES = dict(plain=(2, 3), block_end=(3, 5))  # forward, backward; a copy takes 2


def with_tiling(tiling: tuple[int, int, int], call: Callable[[], object]) -> None:
    """Calls with tile size, warps and programs in the place of the launcher's own."""
    launcher.TILE, launcher.WARPS, launcher.PROGRAMS = tiling
    launcher.tiling_of.cache_clear()
    call()


def measure_site(table: measure.Table, name: str, site: Arguments, rounds: int, device: str) -> None:
    x, grad = site.x, torch.randn_like(site.x)
    tilings = {
        'the launcher': (launcher.TILE, launcher.WARPS, launcher.PROGRAMS),
        **{'x'.join(map(str, tiling)): tiling for tiling in itertools.product(TILES, WARPS, PROGRAMS)},
    }
    passes = {
        'forward': partial(launcher.forward, 'aglu', site),
        'backward': partial(launcher.backward, 'aglu', grad, site, [True] * len(DIFFERENTIABLE)),
    }
    contenders = {
        key: lambda tiling=tiling: {step: partial(with_tiling, tiling, call) for step, call in passes.items()}
        for key, tiling in tilings.items()
    }
    contenders['copy'] = lambda: dict(copy=partial(torch.empty_like(x).copy_, x))
    calls, notes = measure.prepare(contenders)
    samples = measure.round_robin(calls, rounds, device, hold=device == 'cuda')
    with_tiling(tilings['the launcher'], lambda: None)
    copy = measure.milliseconds(samples['copy', 'copy'])['ms']
    for key, tiling in tilings.items():
        row = dict(name=key, site=name, dtype=str(x.dtype).removeprefix('torch.'), shape=measure.shape_text(x.shape))
        row |= dict(zip(('tile', 'warps', 'programs'), tiling), note=notes.get(key, ''))
        for step, count in zip(passes, PASSES[name]):
            if (key, step) in samples:
                row |= measure.milliseconds(samples[key, step], f'{step}_')
                row[f'{step}_share'] = copy * count / 2 / row[f'{step}_ms']
        table.add(**row)


@torch.no_grad()
def main() -> None:
    parser = measure.parser_of(__doc__, rounds=10)
    parser.add_argument('--shape', type=measure.shape, default=(2, 64, 400, 667), metavar='NxCxHxW')
    parser.add_argument('--dtypes', nargs='+', choices=measure.DTYPES, default=['bfloat16'])
    args = parser.parse_args()
    table = measure.begin(args, 'tiles', 'name site dtype forward_ms forward_share backward_ms backward_share note')
    torch.manual_seed(0)
    for dtype in args.dtypes:
        for name, beside in BESIDE.items():
            site = arguments(torch.device(args.device), args.shape, getattr(torch, dtype), beside)
            measure_site(table, name, site, args.rounds, args.device)


if __name__ == '__main__':
    main()
