"""What a training step of a detector spends its time on: operators, kernels, the GPU's idle time.

    python benchmarks/profile_step.py configs/lvis/mask_rcnn_se_r50_apa.py configs/lvis/mask_rcnn_se_r50_relu_gol.py
    python benchmarks/profile_step.py CONFIG --drawn 2x3x800x1333

The steps of step.py on random images, so that loading data has no part in them. ``profile_DEVICE.csv`` has a line a
config: ``step_ms`` is the median without the profiler; ``kernels`` and ``device_ms`` count what the profiler saw on the
GPU in one step, copies included, and ``idle`` is the share of ``step_ms`` in which the GPU had nothing to do.
``operators`` are the leaf calls of ATen on the host. ``profile_DEVICE_CONFIG.csv`` has the kernels (on a CPU: the
operators) that took the most time.
"""

import logging
from pathlib import Path

import measure
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from step import Step, classes_of, config_of_step, drawn_batches
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from apa_mmdet.utils import cli

ROWS = 40


def profiled(step: Step, device: str) -> profile:
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == 'cuda')
    with profile(activities=activities) as record:
        step()
        if device == 'cuda':
            torch.cuda.synchronize()
    return record


def summary(record: profile) -> dict[str, float]:
    events = record.events()
    kernels = [event for event in events if event.device_type == DeviceType.CUDA]
    leaves = [
        e
        for e in events
        if e.name.startswith('aten::') and not any(c.name.startswith('aten::') for c in e.cpu_children)
    ]
    busy = sum(event.self_device_time_total for event in kernels) / 1e3
    return dict(operators=len(leaves), kernels=len(kernels), device_ms=busy)


def slowest(record: profile, device: str) -> list[dict]:
    wanted = DeviceType.CUDA if device == 'cuda' else DeviceType.CPU
    column = 'self_device_time_total' if device == 'cuda' else 'self_cpu_time_total'
    found = [average for average in record.key_averages() if average.device_type == wanted]
    found.sort(key=lambda average: -getattr(average, column))
    return [dict(name=a.key[:100], calls=a.count, total_ms=getattr(a, column) / 1e3) for a in found[:ROWS]]


def main() -> None:
    parser = measure.parser_of(__doc__, rounds=5)
    parser.add_argument('configs', nargs='+', type=Path, metavar='CONFIG')
    text = 'default: %(default)s'
    parser.add_argument('--drawn', type=measure.shape, default=(2, 3, 800, 1333), metavar='Nx3xHxW', help=text)
    args = parser.parse_args()
    table = measure.begin(args, 'profile', 'config step_ms operators kernels device_ms idle')
    init_default_scope('mmdet')
    logging.disable(logging.WARNING)  # the initialization of each parameter
    first = Config.fromfile(args.configs[0])
    batches = drawn_batches(args.drawn, classes_of(first))
    for path in args.configs:
        step = Step(config_of_step(path, True), batches, args.device)
        for _ in range(3):
            step()
        samples = measure.round_robin({path: step}, args.rounds, args.device)
        record = profiled(step, args.device)
        row = dict(config=path.stem, device=args.device, shape=measure.shape_text(args.drawn))
        row |= measure.milliseconds(samples[path], 'step_') | summary(record)
        row['idle'] = max(0.0, 1 - row['device_ms'] / row['step_ms']) if args.device == 'cuda' else None
        table.add(**row)
        top = measure.Table(args.out / f'profile_{args.device}_{path.stem}.csv', table.described, 'name calls total_ms')
        for line in slowest(record, args.device):
            top.add(**line)
        del step
        if args.device == 'cuda':
            torch.cuda.empty_cache()


if __name__ == '__main__':
    cli.run(main)
