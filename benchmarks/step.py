"""Time and memory of a training step of whole detectors, side by side; in several processes the bytes that they reduce.

    python tools/make_tiny_lvis.py                              # the data, once
    python benchmarks/step.py                                   # the contenders of ablation.py
    python benchmarks/step.py configs/lvis/mask_rcnn_se_r50_apa.py configs/lvis/mask_rcnn_se_r50_relu_softmax.py
    python -m torch.distributed.run --nproc-per-node 2 benchmarks/step.py configs/tiny_lvis/mask_rcnn_se_r18_apa.py

A step is what MMEngine's training loop does with a batch: forward, losses, backward, optimizer. The detectors are
built from their configs, with random weights unless those name others, and take turns in one process, on the same
preloaded batches of the first config's training data; all must have the same classes. The learning rate is 0 and the
second stage gets the same boxes whatever the first proposes, so that the work does not depend on weights. Ratios are to
the first config. ``peak_bytes`` is the most that a step holds beyond weights and optimizer state, gradients included;
``process_mib`` the peak of the process so far.

Several processes train on batches of their own (the work grows with them); process 0 is measured, waiting included.
``reduced_mib`` is what DistributedDataParallel hands to the all-reduce in a step.
"""

import itertools
import logging
import os
from pathlib import Path

import measure
import memory
import torch
from ablation import CONTENDERS, config_of
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.runner.utils import set_random_seed
from mmengine.structures import InstanceData
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from apa_mmdet.utils import cli


def batches_of(cfg: Config, count: int) -> list[dict]:
    """Loads the first batches of its training data in this process."""
    set_random_seed(0)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    return list(itertools.islice(Runner.build_dataloader(cfg.train_dataloader, seed=0), count))


class Step:
    """A detector; each call trains it on the next batch. ``reduced`` has the bytes of each bucket of the last one."""

    def __init__(self, cfg: Config, batches: list[dict], device: str) -> None:
        set_random_seed(0)
        self.model = MODELS.build(cfg.model)
        self.model.init_weights()
        self.model.to(device).train()
        self.wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        for group in self.wrapper.param_groups:
            group['lr'] = 0.0
        self.order, self.reduced = itertools.cycle(batches), []
        if hasattr(self.model, 'rpn_head'):
            propose = self.model.rpn_head.loss_and_predict
            self.model.rpn_head.loss_and_predict = lambda x, samples, **kwargs: (
                propose(x, samples, **kwargs)[0],
                [proposals(sample) for sample in samples],
            )
        self.train_step = self.model.train_step
        if get_world_size() > 1:
            parallel = MMDistributedDataParallel(self.model, broadcast_buffers=False)
            parallel.register_comm_hook(None, self.reduce)
            self.train_step = parallel.train_step

    def reduce(self, state: None, bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.reduced.append(bucket.buffer().nbytes)
        return allreduce_hook(state, bucket)

    def __call__(self) -> None:
        self.reduced.clear()
        self.train_step(next(self.order), self.wrapper)


def proposals(sample: DetDataSample) -> InstanceData:
    """16 boxes that overlap each object by more than half, and 200 anywhere; the same in each call."""
    generator = torch.Generator().manual_seed(0)
    boxes = sample.gt_instances.bboxes
    near = boxes.repeat(16, 1)
    shifts = torch.rand(len(near), 2, generator=generator).to(boxes) * 0.2 - 0.1
    near = near + ((near[:, 2:] - near[:, :2]) * shifts).repeat(1, 2)
    height, width = sample.img_shape
    corners = torch.rand(200, 2, 2, generator=generator).to(boxes) * boxes.new_tensor([width, height])
    anywhere = corners.sort(1).values.flatten(1)
    return InstanceData(bboxes=torch.cat([near, anywhere]))


def main() -> None:
    parser = measure.parser_of(__doc__, rounds=16)
    default = [config_of(name) for name in CONTENDERS]
    parser.add_argument('configs', nargs='*', type=Path, metavar='CONFIG', default=default, help='default: ablation.py')
    count = dict(type=measure.at_least(1), metavar='N')
    parser.add_argument('--batches', **count, default=4, help='different batches (default: %(default)s)')
    parser.add_argument('--batch-size', **count, help="images of a process (default: the first config's)")
    args = parser.parse_args()
    if distributed.is_torchelastic_launched():  # MMDetection's tools set LOCAL_RANK for one process, too
        if args.device == 'cuda':
            torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        distributed.init_process_group('nccl' if args.device == 'cuda' else 'gloo')  # MMEngine's asks for a GPU
    processes = get_world_size()
    shown = 'config step_ms to_first peak_bytes reduced_mib'
    table = measure.begin(args, 'step' if processes == 1 else f'step_{processes}_processes', shown)
    init_default_scope('mmdet')
    logging.disable(logging.WARNING)  # the initialization of each parameter
    steps: dict[Path, Step] = {}
    first = Config.fromfile(args.configs[0])
    first.train_dataloader.batch_size = args.batch_size or first.train_dataloader.batch_size
    batches = batches_of(first, args.batches)
    for path in args.configs:
        steps[path] = Step(Config.fromfile(path), batches, args.device)
        for _ in range(2):  # the second one finds the buckets in the order of the gradients
            steps[path]()
    samples = measure.round_robin(steps, args.rounds, args.device)
    for path, step in steps.items():
        row = dict(config=path.stem, device=args.device, processes=processes, images=len(batches[0]['inputs']))
        row |= measure.milliseconds(samples[path], 'step_')
        row['to_first'] = row['step_ms'] / measure.milliseconds(samples[args.configs[0]])['ms']
        row |= dict(process_mib=memory.process_peak(args.device), peak_bytes=memory.memory_of(step, args.device).peak)
        row |= dict(reduced_mib=sum(step.reduced) / measure.MIB, buckets=len(step.reduced))
        row['parameters'] = sum(parameter.numel() for parameter in step.model.parameters())
        if is_main_process():
            table.add(**row)
    if processes > 1:
        distributed.destroy_process_group()


if __name__ == '__main__':
    cli.run(main)
