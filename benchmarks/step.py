"""Time and memory of a training step of whole detectors, side by side.

    python tools/make_tiny_lvis.py                                    # the data, once
    python benchmarks/step.py                                   # the contenders of ablation.py
    python benchmarks/step.py configs/lvis/mask_rcnn_se_r50_apa.py configs/lvis/mask_rcnn_se_r50_relu_softmax.py

A step is what MMEngine's training loop does with a batch: forward, losses, backward, optimizer. The detectors are
built from their configs, with random weights unless those name others, and take turns in one process, on the same
preloaded batches of the first config's training data; all must have the same classes. The learning rate is 0 and the
second stage gets the same boxes whatever the first proposes, so that the work does not depend on weights. Ratios are to
the first config. ``peak_bytes`` is the most that a step holds beyond weights and optimizer state, gradients included.
"""

import argparse
import importlib.metadata
import itertools
import logging
import sys
from pathlib import Path

import measure
import memory
import torch
from ablation import CONFIGS, CONTENDERS
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.runner.utils import set_random_seed
from mmengine.structures import InstanceData

from apa_mmdet.utils.missing_data_hints import explain

COLUMNS = ('config', 'device', 'step_ms', 'step_ms_low', 'step_ms_high', 'to_first', 'peak_bytes', 'parameters')


def batches_of(cfg: Config, count: int) -> list[dict]:
    """Loads the first batches of its training data in this process."""
    set_random_seed(0)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    return list(itertools.islice(Runner.build_dataloader(cfg.train_dataloader, seed=0), count))


class Step:
    """A detector; each call trains it on the next batch."""

    def __init__(self, cfg: Config, batches: list[dict], device: torch.device) -> None:
        set_random_seed(0)
        self.model = MODELS.build(cfg.model)
        self.model.init_weights()
        self.model.to(device).train()
        self.wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        for group in self.wrapper.param_groups:
            group['lr'] = 0.0
        self.order = itertools.cycle(batches)
        if hasattr(self.model, 'rpn_head'):
            propose = self.model.rpn_head.loss_and_predict
            self.model.rpn_head.loss_and_predict = lambda x, samples, **kwargs: (
                propose(x, samples, **kwargs)[0],
                [proposals(sample) for sample in samples],
            )

    def __call__(self) -> None:
        self.model.train_step(next(self.order), self.wrapper)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


def proposals(sample: DetDataSample) -> InstanceData:
    """16 boxes that overlap each object by more than half, and 200 anywhere; the same in each call."""
    generator = torch.Generator().manual_seed(0)
    boxes = sample.gt_instances.bboxes
    near = boxes.repeat(16, 1)
    shifts = torch.rand(len(near), 2, generator=generator).to(boxes) * 0.2 - 0.1
    near = near + ((near[:, 2:] - near[:, :2]) * shifts).repeat(1, 2)
    height, width = sample.img_shape
    corners = torch.rand(200, 4, generator=generator).to(boxes) * boxes.new_tensor([width, height] * 2)
    left, right = corners[:, :2], corners[:, 2:]
    anywhere = torch.cat([torch.minimum(left, right), torch.maximum(left, right)], 1)
    return InstanceData(bboxes=torch.cat([near, anywhere]))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'configs',
        nargs='*',
        type=Path,
        metavar='CONFIG',
        default=[CONFIGS / f'{contender.config}.py' for contender in CONTENDERS.values()],
        help='default: those of ablation.py',
    )
    parser.add_argument(
        '--batches', type=measure.at_least(1), default=4, help='different batches (default: %(default)s)'
    )
    measure.add_common_options(parser, rounds=16)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    described = dict(measure.begin(args), mmdet=importlib.metadata.version('mmdet'))
    init_default_scope('mmdet')
    logging.disable(logging.WARNING)  # the initialization of each parameter
    steps: dict[Path, Step] = {}
    try:
        batches = batches_of(Config.fromfile(args.configs[0]), args.batches)
        for path in args.configs:
            print(f'{path.stem}: a step to warm up', flush=True)
            steps[path] = Step(Config.fromfile(path), batches, args.device)
            steps[path]()
    except (FileNotFoundError, ValueError) as error:
        print(f'step: {explain(error) if isinstance(error, FileNotFoundError) else error}', file=sys.stderr)
        return 2
    samples = measure.round_robin(steps, args.rounds, measure.clock_of(args.device, hold=False))
    table = measure.Table(args.out / f'step_{args.device.type}.csv', COLUMNS, described)
    first = measure.milliseconds(samples[args.configs[0]])['ms']
    for path, step in steps.items():
        row = measure.milliseconds(samples[path], 'step_')
        row |= dict(
            config=path.stem,
            device=args.device.type,
            to_first=row['step_ms'] / first,
            peak_bytes=memory.memory_of(step, args.device).peak,
            parameters=step.parameters,
        )
        table.add(**row)
        print(
            f'  {path.stem:<32}{row["step_ms"]:9.1f} ms = {row["to_first"]:5.2f} of the first,  '
            f'{row["peak_bytes"] / measure.MIB:7.1f} MiB',
            flush=True,
        )
    print(f'written: {table.path}', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
