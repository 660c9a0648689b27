"""Time and memory of SE-ResNets with AGLU and APA gates (also recomputed), with ReLU and sigmoid; mmdet's ResNet.

    python benchmarks/backbone.py                          # SE-R50; on a CPU one image of 512x512
    python benchmarks/backbone.py --depths 50 101 --rounds 20 --keep-memory

As in training: train mode, batch norms in eval mode (``norm_eval=True``), a random gradient for every feature map.
Weights and statistics of the norms are random, so that no branch is zero. measure.py and memory.py describe how time
and memory are counted; a step of the whole network starts on an idle GPU, so that waiting for the host counts.

Memory: ``saved_mib`` is what autograd keeps for backward, in distinct storages, parameters and buffers excluded (the
copies of them that autocast makes are not); ``held_mib`` is what the allocator holds after the forward, the features
included, so that nothing large can hide from the count; ``peak_mib`` is the most during forward and backward, the
gradients of the parameters included. ``goal_mib`` is the project's goal for ``saved_mib``, where there is one.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import measure
import memory
import torch
from bar_chart import Panel, draw_bars
from mmdet.registry import MODELS
from torch import Tensor, nn

import apa_mmdet  # noqa: F401  registers the backbones

RELU = 'ReLU, sigmoid gate'
APA, RECOMPUTED = 'AGLU, APA gate', 'AGLU, APA gate, recomputed'
NETWORKS = {
    RELU: dict(
        type='SEResNet',
        act_cfg=dict(type='ReLU'),
        se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0),
    ),
    APA: dict(type='SEResNet'),
    RECOMPUTED: dict(type='SEResNet', recompute_act=True),
    "mmdet's ResNet, no gate": dict(type='ResNet'),
}
GOALS = {(APA, 1): 240.0, (APA, -1): 430.0, (RECOMPUTED, 1): 150.0}  # MiB kept for backward
GOALS_AT = 50, (1, 3, 512, 512), torch.float32
SHAPES = dict(cpu=(1, 3, 512, 512), cuda=(2, 3, 800, 1333))
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)
COLUMNS = (
    'name',
    'depth',
    'frozen_stages',
    'device',
    'dtype',
    'shape',
    *measure.time_columns('relu'),
    'saved_mib',
    'held_mib',
    'peak_mib',
    'goal_mib',
    'note',
)


def build(name: str, depth: int, frozen_stages: int, device: torch.device) -> nn.Module:
    """Builds the network with random weights, equal in all networks that have them."""
    torch.manual_seed(0)
    net = MODELS.build(dict(NETWORKS[name], depth=depth, frozen_stages=frozen_stages, norm_eval=True, init_cfg=None))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.1, 0.1),
                (module.running_mean, -0.1, 0.1),
                (module.running_var, 0.5, 1.5),
            ):
                nn.init.uniform_(tensor, low, high)
    net.to(device).train()
    return net


def steps(net: nn.Module, image: Tensor, dtype: torch.dtype) -> dict[str, Callable]:
    """Forward, and forward with backward, as calls without arguments; float32, or autocast to ``dtype``."""

    def forward() -> tuple[Tensor, ...]:
        with torch.autocast(image.device.type, dtype=dtype, enabled=dtype != torch.float32):
            return net(image)

    features = forward()
    if not all(f.isfinite().all() and f.float().std() > 1e-3 for f in features):
        raise RuntimeError('the features are constant or not finite, so the network is not timed')
    # a frozen network has no backward through the features of its frozen stages
    trainable = [i for i, feature in enumerate(features) if feature.requires_grad]
    gradients = [torch.randn_like(features[i]) for i in trainable]

    def forward_backward() -> tuple[Tensor, ...]:
        net.zero_grad(set_to_none=True)
        features = forward()
        torch.autograd.backward([features[i] for i in trainable], gradients)
        return features

    return dict(forward=forward, forward_backward=forward_backward)


def measure_networks(
    table: measure.Table,
    depth: int,
    frozen_stages: int,
    dtype: torch.dtype,
    args: argparse.Namespace,
    clock: measure.Clock,
) -> None:
    """Adds a row for each network."""
    image = torch.randn(args.shape, device=args.device)
    nets, calls, failures = {}, {}, {}
    for name in NETWORKS:
        try:
            nets[name] = build(name, depth, frozen_stages, args.device)
            warm = steps(nets[name], image, dtype)
            for _ in range(2):
                warm['forward_backward']()
            calls.update({(name, step): call for step, call in warm.items()})
        except RuntimeError as error:  # out of memory: the others go on
            failures[name] = measure.reason(error)
    samples = measure.round_robin(calls, args.rounds, clock)
    for name in NETWORKS:
        row = dict(
            name=name,
            depth=depth,
            frozen_stages=frozen_stages,
            device=args.device.type,
            dtype=measure.name_of(dtype),
            shape=measure.shape_text(args.shape),
            note=failures.get(name, ''),
        )
        if name not in failures:
            row.update(measure.times(samples, name, 'relu', RELU))
            row.update(memory_columns(nets[name], calls[name, 'forward'], calls[name, 'forward_backward'], args.device))
        if (depth, args.shape, dtype) == GOALS_AT:
            row['goal_mib'] = GOALS.get((name, frozen_stages))
        table.add(**row)
        report(row)


def memory_columns(
    net: nn.Module, forward: Callable, forward_backward: Callable, device: torch.device
) -> dict[str, float]:
    net.zero_grad(set_to_none=True)
    saved = memory.saved_bytes(forward, [*net.parameters(), *net.buffers()])
    held = memory.memory_of(forward, device).held
    peak = memory.memory_of(forward_backward, device).peak
    net.zero_grad(set_to_none=True)
    return dict(saved_mib=saved / measure.MIB, held_mib=held / measure.MIB, peak_mib=peak / measure.MIB)


def report(row: dict) -> None:
    if 'forward_to_relu' not in row:
        print(f'  {row["name"]:<28} {row["note"]}', flush=True)
        return
    goal = f' (goal {row["goal_mib"]:.0f})' if row.get('goal_mib') else ''
    print(
        f'  {row["name"]:<28}{row["forward_ms"]:8.1f} ms ={row["forward_to_relu"]:5.2f} ReLU,  with backward'
        f'{row["forward_backward_ms"]:8.1f} ms ={row["forward_backward_to_relu"]:5.2f} ReLU,  saved'
        f'{row["saved_mib"]:7.1f} MiB{goal},  peak{row["peak_mib"]:7.1f} MiB',
        flush=True,
    )


def draw_chart(table: measure.Table, device: torch.device, date: str) -> None:
    rows = [row for row in table.rows if 'forward_to_relu' in row]
    if not rows:
        return
    several = len({row['depth'] for row in rows}) > 1
    keys = [
        (
            f'{row["name"]} (depth {row["depth"]})' if several else row['name'],
            f'frozen_stages={row["frozen_stages"]}, {row["dtype"]}',
        )
        for row in rows
    ]
    labels, series = (list(dict.fromkeys(names)) for names in zip(*keys))
    panels = [
        Panel(
            'forward, ReLU network = 1',
            values_of(keys, rows, 'forward_to_relu'),
            spans_of(keys, rows, 'forward'),
            reference=1.0,
        ),
        Panel(
            'forward + backward, ReLU network = 1',
            values_of(keys, rows, 'forward_backward_to_relu'),
            spans_of(keys, rows, 'forward_backward'),
            reference=1.0,
        ),
        Panel(
            'kept for backward, MiB (red: goal)',
            values_of(keys, rows, 'saved_mib'),
            marks={key: row['goal_mib'] for key, row in zip(keys, rows) if row.get('goal_mib')},
        ),
        Panel('peak of forward + backward, MiB', values_of(keys, rows, 'peak_mib')),
    ]
    depths = ', '.join(str(depth) for depth in dict.fromkeys(row['depth'] for row in rows))
    title = (
        f'Backbones of depth {depths}, training step on {rows[0]["shape"]}; lines: quartiles\n'
        f'{measure.hardware(device)}, torch {torch.__version__}, {date}'
    )
    draw_bars(table.path.with_suffix('.png'), title, labels, series, panels)


def values_of(keys: Sequence[tuple[str, str]], rows: Sequence[dict], column: str) -> dict[tuple[str, str], float]:
    return {key: row[column] for key, row in zip(keys, rows)}


def spans_of(keys: Sequence[tuple[str, str]], rows: Sequence[dict], step: str) -> dict[tuple[str, str], tuple]:
    """The quartiles in the unit of the ratio."""
    return {
        key: tuple(row[f'{step}_to_relu'] * row[f'{step}_ms_{end}'] / row[f'{step}_ms'] for end in ('low', 'high'))
        for key, row in zip(keys, rows)
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--shape',
        type=measure.shape,
        metavar='Nx3xHxW',
        help='of the image batch (default: 1x3x512x512; on a GPU 2x3x800x1333)',
    )
    parser.add_argument(
        '--depths', nargs='+', type=int, choices=(18, 34, 50, 101, 152), default=[50], help='default: %(default)s'
    )
    parser.add_argument('--frozen-stages', nargs='+', type=int, default=[1, -1], help='default: %(default)s')
    parser.add_argument(
        '--dtypes',
        nargs='+',
        choices=DTYPES,
        help='16-bit types by autocast (default: float32; on a GPU bfloat16 as well)',
    )
    measure.add_common_options(parser, rounds=10)
    args = parser.parse_args()
    args.shape = args.shape or SHAPES[args.device.type]
    if len(args.shape) != 4 or args.shape[1] != 3:
        parser.error(f'--shape {measure.shape_text(args.shape)} is not Nx3xHxW')
    args.dtypes = args.dtypes or ['float32', 'bfloat16'][: 1 + (args.device.type == 'cuda')]
    return args


def jobs_of(args: argparse.Namespace) -> list[tuple[int, int, str]]:
    return [(depth, frozen, dtype) for depth in args.depths for dtype in args.dtypes for frozen in args.frozen_stages]


def main() -> int:
    args = parse_args()
    described = measure.begin(args)
    table = measure.Table(args.out / f'backbone_{args.device.type}.csv', COLUMNS, described)
    clock = measure.clock_of(args.device, hold=False)
    jobs = jobs_of(args)
    for i, (depth, frozen, dtype) in enumerate(jobs, 1):
        print(
            f'[{i}/{len(jobs)}] depth {depth}, frozen_stages={frozen}, {dtype}, {measure.shape_text(args.shape)}, '
            f'{args.rounds} rounds',
            flush=True,
        )
        measure_networks(table, depth, frozen, DTYPES[dtype], args, clock)
        draw_chart(table, args.device, described['date'])
    print(f'written: {table.path}', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
