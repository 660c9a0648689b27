"""Time and memory of SE-ResNets with AGLU and APA gates (also recomputed), with ReLU and sigmoid; mmdet's ResNet.

    python benchmarks/backbone.py                          # SE-R50; on a CPU one image of 512x512
    python benchmarks/backbone.py --depths 50 101 --rounds 20 --keep-memory

As in training: train mode, batch norms in eval mode (``norm_eval=True``), a random gradient for every feature map.
Weights and statistics of the norms are random, so that no branch is zero. measure.py describes how time and memory
are counted; a step of the whole network starts on an idle GPU, so that waiting for the host counts.

Memory: ``saved_mib`` is what autograd keeps for backward, in distinct storages, parameters and buffers excluded (the
copies of them that autocast makes are not); ``held_mib`` is what the allocator holds after the forward, the features
included, so that nothing large can hide from the count; ``peak_mib`` is the most during forward and backward, the
gradients of the parameters included.
"""

import argparse
import itertools
from collections.abc import Callable
from functools import partial

import measure
import memory
import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

import apa_mmdet  # noqa: F401  registers the backbones
from apa_mmdet import ops

RELU = 'ReLU, sigmoid gate'
APA, RECOMPUTED = 'AGLU, APA gate', 'AGLU, APA gate, recomputed'
FROM_PYTHON = 'AGLU, APA gate, launched from Python'  # on a GPU, where C++ launches the other's kernels once tested
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
SHAPES = dict(cpu=(1, 3, 512, 512), cuda=(2, 3, 800, 1333))


def build(name: str, depth: int, frozen_stages: int, device: str) -> nn.Module:
    """Builds the network with random weights, equal in all networks that have them."""
    torch.manual_seed(0)
    net = MODELS.build(
        dict(
            NETWORKS[APA if name == FROM_PYTHON else name],
            depth=depth,
            frozen_stages=frozen_stages,
            norm_eval=True,
            init_cfg=None,
        )
    )
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.1, 0.1)
    net.to(device).train()  # mmdet's returns None
    return net


def backends_of(device: str) -> dict[str, str]:
    """Returns who computes AGLU and APA in the networks that have them."""
    default = measure.serving(torch.empty(1, device=device))[0]
    # the activations that are recomputed go through Python, the gates do not
    recomputed = 'triton, triton-cpp' if default == 'triton-cpp' else default
    return {APA: default, RECOMPUTED: recomputed, FROM_PYTHON: 'triton'}


def contenders(device: str) -> list[str]:
    return [*NETWORKS, *[FROM_PYTHON] * (device == 'cuda')]


def steps(net: nn.Module, image: Tensor, dtype: torch.dtype, from_python: bool = False) -> dict[str, Callable]:
    """Forward, and forward with backward, as calls without arguments; float32, or autocast to ``dtype``."""
    if from_python:
        calls = steps(net, image, dtype)
        return {name: ops.use_backend('triton')(call) for name, call in calls.items()}

    def forward() -> tuple[Tensor, ...]:
        half = dtype if dtype != torch.float32 else None  # torch 2.1 refuses float32 even if it is not enabled
        with torch.autocast(image.device.type, dtype=half, enabled=half is not None):
            return net(image)

    features = forward()
    if not all(f.isfinite().all() and f.float().std() > 1e-3 for f in features):
        raise RuntimeError('the features are constant or not finite, so the network is not timed')
    # a frozen network has no backward through the features of its frozen stages
    trainable = [i for i, feature in enumerate(features) if feature.requires_grad]
    gradients = [torch.randn_like(features[i]) for i in trainable]

    def forward_backward() -> tuple[Tensor, ...]:
        net.zero_grad()
        features = forward()
        torch.autograd.backward([features[i] for i in trainable], gradients)
        return features

    return dict(forward=forward, forward_backward=forward_backward)


def measure_networks(
    table: measure.Table, depth: int, frozen_stages: int, dtype: str, args: argparse.Namespace
) -> None:
    """Adds a row for each network."""
    layout = torch.channels_last if args.memory_format == 'channels_last' else torch.contiguous_format
    image, nets = torch.randn(args.shape, device=args.device).to(memory_format=layout), {}

    def prepare(name: str) -> dict[str, Callable]:
        nets[name] = build(name, depth, frozen_stages, args.device).to(memory_format=layout)
        return steps(nets[name], image, getattr(torch, dtype), name == FROM_PYTHON)

    calls, notes = measure.prepare({name: partial(prepare, name) for name in contenders(args.device)})
    samples, backends = measure.round_robin(calls, args.rounds, args.device), backends_of(args.device)
    for name in contenders(args.device):
        row = dict(name=name, backend=backends.get(name, ''), depth=depth, frozen_stages=frozen_stages)
        row |= dict(device=args.device, dtype=dtype)
        row |= dict(shape=measure.shape_text(args.shape), memory_format=args.memory_format, note=notes.get(name, ''))
        if name not in notes:
            net, forward, forward_backward = nets[name], *(calls[name, step] for step in measure.STEPS)
            row |= measure.times(samples, name, RELU, 'to_relu')
            net.zero_grad()
            row['saved_mib'] = memory.saved_bytes(forward, [*net.parameters(), *net.buffers()]) / measure.MIB
            row['held_mib'] = memory.memory_of(forward, args.device).held / measure.MIB
            row['peak_mib'] = memory.memory_of(forward_backward, args.device).peak / measure.MIB
            net.zero_grad()
        table.add(**row)


def main() -> None:
    parser = measure.parser_of(__doc__, rounds=10)
    parser.add_argument(
        '--shape', type=measure.shape, metavar='Nx3xHxW', help='default: 1x3x512x512; on a GPU 2x3x800x1333'
    )
    parser.add_argument('--depths', nargs='+', type=int, choices=(18, 34, 50, 101, 152), default=[50])
    parser.add_argument('--frozen-stages', nargs='+', type=int, default=[1, -1], help='default: %(default)s')
    text = '16-bit types by autocast (default: float32; on a GPU bfloat16 as well)'
    parser.add_argument('--dtypes', nargs='+', choices=measure.DTYPES, help=text)
    layout = dict(dest='memory_format', action='store_const', const='channels_last', default='contiguous')
    parser.add_argument('--channels-last', **layout, help='images and weights in that memory format')
    args = parser.parse_args()
    args.shape = args.shape or SHAPES[args.device]
    if len(args.shape) != 4 or args.shape[1] != 3:
        parser.error(f'--shape {measure.shape_text(args.shape)} is not Nx3xHxW')
    shown = 'name dtype frozen_stages forward_ms forward_backward_ms forward_backward_to_relu saved_mib peak_mib note'
    suffix = '_channels_last' * (args.memory_format == 'channels_last')
    table = measure.begin(args, 'backbone', shown, suffix)
    dtypes = args.dtypes or ['float32', 'bfloat16'][: 1 + (args.device == 'cuda')]
    for depth, dtype, frozen_stages in itertools.product(args.depths, dtypes, args.frozen_stages):
        measure_networks(table, depth, frozen_stages, dtype, args)
        panels = {
            'forward': 'forward_ms',
            'forward + backward': 'forward_backward_ms',
            'kept for backward': 'saved_mib',
            'peak of forward + backward': 'peak_mib',
        }
        measure.draw_ratios(table, RELU, panels, series=('depth', 'frozen_stages', 'dtype'))


if __name__ == '__main__':
    main()
