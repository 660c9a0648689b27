"""Counts the Triton kernels that multi-scale training of SE-R50 would compile, without a GPU.

    TRITON_INTERPRET=1 PYTHONPATH=. python tests/helpers/triton_variants.py

A step of the flagship recipe (frozen_stages=1, norm_eval, two images, shorter side 640 to 800 and longer side up to
1333, padded to multiples of 32) is replayed at the launcher: the network runs once on a small image, and every call is
then made again with tensors of the size that an image gives it, whose memory is never touched.
"""

import random
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from mmdet.registry import MODELS

import apa_mmdet  # noqa: F401  registers the backbone
from apa_mmdet import ops
from apa_mmdet.ops.backends import triton as launcher
from apa_mmdet.ops.memory_layout import Arguments

SMALL = 64  # an image of SMALL x SMALL has maps of SMALL/2 to SMALL/32
SHORT_SIDES, LONG_SIDE, STEPS = range(640, 801, 32), 1333, 300


@contextmanager
def recorded_launches():
    """Launches nothing in the block, and yields the list of ``(kernel, programs, values, constants)`` instead."""
    launches, start = [], launcher.start

    def record(launch):
        def launched(*values, **constants):
            launches.append(SimpleNamespace(kernel=name, programs=programs, values=values, constants=constants))

        kernels = 'forward_kernel', 'backward_kernel', 'finish_kernel'
        name = next(name for name in kernels if getattr(launcher, name) is launch.kernel)
        programs = launch.programs
        return start(launch._replace(kernel={(programs,): launched}))

    launcher.start = record
    try:
        yield launches
    finally:
        launcher.start = start


def variant(launch):
    """What Triton compiles a kernel for: constants, dtypes, alignment, and which pointers are None."""

    def kind(value):
        if isinstance(value, torch.Tensor):
            return value.dtype, value.data_ptr() % 16 == 0
        return value if value is None else ('int', value.bit_length() > 31)  # do_not_specialize

    return launch.kernel, tuple(map(kind, launch.values)), tuple(sorted(launch.constants.items()))


@contextmanager
def recorded_calls():
    """Yields the list of calls of the launcher: ``(formula, args, needed)``, ``needed`` None for a forward pass."""
    calls, forward, backward = [], launcher.forward, launcher.backward

    def recorded_forward(formula, args):
        calls.append((formula, args, None))
        return forward(formula, args).zero_()  # nothing was launched, and memory may hold NaN

    def recorded_backward(formula, grad, args, needed):
        calls.append((formula, args, needed))
        return [t if t is None else t.zero_() for t in backward(formula, grad, args, needed)]

    launcher.forward, launcher.backward = recorded_forward, recorded_backward
    try:
        yield calls
    finally:
        launcher.forward, launcher.backward = forward, backward


def calls_of_a_step(dtype, memory_format):
    net = MODELS.build(dict(type='mmdet.SEResNet', depth=50, frozen_stages=1, norm_eval=True)).train()
    net, image = net.to(memory_format=memory_format), torch.randn(2, 3, SMALL, SMALL).to(memory_format=memory_format)
    with ops.use_backend('triton'), recorded_launches(), recorded_calls() as calls:
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=dtype != torch.float32):
            features = net(image)
        sum(f.float().sum() for f in features).backward()
    return calls


def resized(args, height, width):
    """The arguments with maps of the size that an image of height x width has there."""

    def like(t):
        size = t.shape[0], t.shape[1], *(side * t.shape[2] // SMALL for side in (height, width))
        channels_last = not t.is_contiguous() or (t.shape[2] == 1 and t.stride(1) == 1)
        return torch.empty(
            size, dtype=t.dtype, memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )

    if args.x.dim() != 4:
        return args  # a gate
    return Arguments._make(like(t) if isinstance(t, torch.Tensor) and t.dim() == 4 else t for t in args)


def sizes_of_training(steps, seed=0):
    """Heights and widths of padded batches of two images with sides in a ratio of 1:2 to 2:1."""
    draw = random.Random(seed)
    for _ in range(steps):
        sides = []
        for _ in range(2):
            ratio, short = draw.uniform(1, 2), draw.choice(SHORT_SIDES)
            short = min(short, LONG_SIDE / ratio)
            sides.append((short, short * ratio) if draw.random() < 0.5 else (short * ratio, short))
        yield tuple(-(-int(max(side) + 0.5) // 32) * 32 for side in zip(*sides))


def variants(dtype, memory_format, sizes):
    """Returns the set of variants."""
    calls = calls_of_a_step(dtype, memory_format)
    with recorded_launches() as launches:
        for height, width in dict.fromkeys(sizes):
            for formula, args, needed in calls:
                args = resized(args, height, width)
                if needed is None:
                    launcher.forward(formula, args)
                else:
                    launcher.backward(formula, torch.empty_like(args.x), args, needed)
    return {variant(launch) for launch in launches}


if __name__ == '__main__':
    sizes = list(sizes_of_training(STEPS))
    print(f'{STEPS} steps, {len(set(sizes))} sizes of batches')
    for dtype in (torch.float32, torch.bfloat16):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            print(f'{dtype}, {memory_format}: {len(variants(dtype, memory_format, sizes))} variants')
