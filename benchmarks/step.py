"""Time and memory of a training step of whole detectors, side by side; in several processes the bytes that they reduce.

    python tools/make_tiny_lvis.py                              # the data, once
    python benchmarks/step.py                                   # the configs of a study of studies.py, tiny LVIS
    python benchmarks/step.py configs/lvis/mask_rcnn_se_r50_apa.py configs/lvis/mask_rcnn_se_r50_relu_softmax.py
    python -m torch.distributed.run --nproc-per-node 2 benchmarks/step.py configs/tiny_lvis/mask_rcnn_se_r18_apa.py
    python benchmarks/step.py configs/lvis/mask_rcnn_se_r50_apa.py --drawn 2x3x800x1333 --amp bfloat16    # no data

A step is what MMEngine's training loop does with a batch: forward, losses, backward, optimizer. The detectors are
built from their configs, with random weights unless those name others, and take turns in one process, on the same
preloaded batches of the first config's training data; all must have the same classes. The learning rate is 0 and the
second stage gets the same boxes whatever the first proposes, so that the work does not depend on weights. Ratios are to
the first config. ``peak_bytes`` is the most that a step holds beyond weights and optimizer state, gradients included;
``process_mib`` the peak of the process so far.

Several processes train on batches of their own (the work grows with them); process 0 is measured, waiting included.
``reduced_mib`` is what DistributedDataParallel hands to the all-reduce in a step.
"""

import argparse
import contextlib
import itertools
import logging
import os
from pathlib import Path

import measure
import memory
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.runner.utils import set_random_seed
from mmengine.structures import InstanceData
from studies import STUDIES
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from apa_mmdet import ops
from apa_mmdet.utils import cli


def batches_of(cfg: Config, count: int) -> list[dict]:
    """Loads the first batches of its training data in this process."""
    set_random_seed(0)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    return list(itertools.islice(Runner.build_dataloader(cfg.train_dataloader, seed=0), count))


def drawn_batches(shape: tuple[int, ...], classes: int, objects: int = 10) -> list[dict]:
    """Returns a batch of random images Nx3xHxW, each with random boxes whose masks fill them."""
    count, _, height, width = shape
    generator = torch.Generator().manual_seed(0)
    batch: dict[str, list] = dict(inputs=[], data_samples=[])
    for _ in range(count):
        corners = torch.rand(objects, 2, 2, generator=generator).sort(1).values
        sides = corners.new_tensor([width, height])
        boxes = (corners * (sides - 8)).flatten(1) + corners.new_tensor([0, 0, 8, 8])  # of 8 pixels or more
        masks = torch.zeros(objects, height, width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
            mask[top:bottom, left:right] = 1
        sample = DetDataSample(metainfo=dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), (height, width)))
        sample.set_metainfo(dict(batch_input_shape=(height, width), scale_factor=(1.0, 1.0)))
        labels = torch.randint(classes, (objects,), generator=generator)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=BitmapMasks(masks.numpy(), height, width))
        batch['inputs'].append(torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8))
        batch['data_samples'].append(sample)
    return [batch]


def config_of_step(path: Path, drawn: bool, amp: str | None = None) -> Config:
    """Reads a config; what is trained on drawn images starts from random weights, and needs no file at all."""
    cfg = Config.fromfile(path)
    if drawn:
        cfg.model.backbone.init_cfg = None
    if amp:
        # MMEngine's gives mmcv's operators bfloat16, which they do not take
        wrapper = 'MixedPrecisionOptimWrapper' if amp == 'bfloat16' else 'AmpOptimWrapper'
        cfg.optim_wrapper.update(type=wrapper, dtype=amp)
    return cfg


def classes_of(cfg: Config) -> int:
    head = cfg.model.roi_head.bbox_head if 'roi_head' in cfg.model else cfg.model.bbox_head
    return (head[0] if isinstance(head, list) else head).num_classes


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
        if distributed.is_initialized():
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


def measure_steps(table: measure.Table, args: argparse.Namespace) -> None:
    """Adds a row for each config."""
    steps: dict[Path, Step] = {}
    first = Config.fromfile(args.configs[0])
    first.train_dataloader.batch_size = args.batch_size or first.train_dataloader.batch_size
    batches = drawn_batches(args.drawn, classes_of(first)) if args.drawn else batches_of(first, args.batches)
    for path in args.configs:
        steps[path] = Step(config_of_step(path, bool(args.drawn), args.amp), batches, args.device)
        for _ in range(2):  # the second one finds the buckets in the order of the gradients
            steps[path]()
    samples = measure.round_robin(steps, args.rounds, args.device)
    backend = args.backend or measure.serving(torch.empty(1, device=args.device))[0]
    for path, step in steps.items():
        row = dict(config=path.stem, device=args.device, amp=args.amp, backend=backend, processes=get_world_size())
        row['images'] = len(batches[0]['inputs'])
        row |= measure.milliseconds(samples[path], 'step_')
        row['to_first'] = row['step_ms'] / measure.milliseconds(samples[args.configs[0]])['ms']
        row |= dict(process_mib=memory.process_peak(args.device), peak_bytes=memory.memory_of(step, args.device).peak)
        row |= dict(reduced_mib=sum(step.reduced) / measure.MIB, buckets=len(step.reduced))
        row['parameters'] = sum(parameter.numel() for parameter in step.model.parameters())
        if is_main_process():
            table.add(**row)


def main() -> None:
    parser = measure.parser_of(__doc__, rounds=16)
    parser.add_argument('configs', nargs='*', type=Path, metavar='CONFIG', help='default: those of the study')
    parser.add_argument('--study', choices=STUDIES, default='tiny_lvis', help='of studies.py (default: %(default)s)')
    count = dict(type=measure.at_least(1), metavar='N')
    parser.add_argument('--batches', **count, default=4, help='different batches (default: %(default)s)')
    parser.add_argument('--batch-size', **count, help="images of a process (default: the first config's)")
    text = "random images of that shape with random objects instead of the first config's training data"
    parser.add_argument('--drawn', type=measure.shape, metavar='Nx3xHxW', help=text)
    parser.add_argument('--amp', choices=('bfloat16', 'float16'), help="mixed precision, as train.py's --amp; on a GPU")
    text = "backend of this project's operators (default: chosen by device)"
    parser.add_argument('--backend', choices=list(ops.backends()), help=text)
    args = parser.parse_args()
    name = 'step' if args.configs else f'step_{args.study}'
    args.configs = args.configs or STUDIES[args.study].configs()
    if args.drawn and (len(args.drawn) != 4 or args.drawn[1] != 3):
        parser.error(f'--drawn {measure.shape_text(args.drawn)} is not Nx3xHxW')
    if distributed.is_torchelastic_launched():  # MMDetection's tools set LOCAL_RANK for one process, too
        if args.device == 'cuda':
            torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        distributed.init_process_group('nccl' if args.device == 'cuda' else 'gloo')  # MMEngine's asks for a GPU
    shown = 'config step_ms to_first peak_bytes reduced_mib'
    suffix = ''.join(f'_{option}' for option in (args.amp, args.backend) if option)
    if distributed.is_initialized():
        name += f'_{get_world_size()}_processes'
    table = measure.begin(args, name, shown, suffix)
    init_default_scope('mmdet')
    logging.disable(logging.WARNING)  # the initialization of each parameter
    with ops.use_backend(args.backend) if args.backend else contextlib.nullcontext():
        measure_steps(table, args)
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == '__main__':
    cli.run(main)
