"""Cost of a training step in one and in several processes: time, all-reduced bytes, memory of a process.

    python benchmarks/ranks.py                        # 1 and 2 processes, two images each
    python benchmarks/ranks.py --processes 1 2 4 8 --device cuda --config configs/lvis/mask_rcnn_se_r50_apa.py

The model of the config is trained on images of noise with random objects, the same number in every process (weak
scaling: the batch grows with the processes). Without GPUs each process has one thread and communicates through gloo.
``step_ms`` is the median over the steps of process 0, waiting included; ``reduced_mib`` is what DistributedDataParallel
hands to the all-reduce in a step; ``peak_mib`` is the peak memory of process 0 (on a CPU its resident memory, on a GPU
torch's allocations).
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import measure
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

COLUMNS = (
    'processes',
    'images',
    'device',
    'parameters',
    'step_ms',
    'step_ms_low',
    'step_ms_high',
    'reduced_mib',
    'buckets',
    'peak_mib',
)
OBJECTS = 5


def noise_image(side: int, classes: int) -> dict:
    """An image of noise with random objects, in the form of a data set's item."""
    corner = torch.rand(OBJECTS, 2) * side * 0.5
    boxes = torch.cat([corner, corner + side * (0.1 + 0.4 * torch.rand(OBJECTS, 2))], 1)
    masks = torch.zeros(OBJECTS, side, side, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
        mask[top:bottom, left:right] = 1
    instances = InstanceData(
        bboxes=boxes, labels=torch.randint(0, classes, (OBJECTS,)), masks=BitmapMasks(masks.numpy(), side, side)
    )
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(side, side), ori_shape=(side, side), batch_input_shape=(side, side), scale_factor=(1.0, 1.0)
        ),
        gt_instances=instances,
    )
    return dict(inputs=torch.randint(0, 256, (3, side, side), dtype=torch.uint8), data_samples=sample)


class Process:
    """The model and the batch of one process."""

    def __init__(self, args: argparse.Namespace) -> None:
        MMLogger.get_instance('ranks', log_level='ERROR')  # without the initialization of each weight
        cfg = Config.fromfile(args.config)
        init_default_scope('mmdet')
        head = cfg.model.roi_head.bbox_head
        cfg.model.backbone.init_cfg = None
        if 'class_frequency' in head.loss_cls:  # no file of a data set is needed: every other class is rare
            head.loss_cls.class_frequency = [1.0 - i % 2 for i in range(head.num_classes)]
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
        gpu = int(os.environ['LOCAL_RANK']) if args.device.type == 'cuda' else None
        self.device = torch.device(args.device.type, gpu)
        model = model.to(self.device).train()
        self.parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.buckets: list[int] = []
        if distributed.get_world_size() > 1:
            model = MMDistributedDataParallel(model, broadcast_buffers=False)
            model.register_comm_hook(None, self._count)
        self.model, self.optim_wrapper = model, build_optim_wrapper(model, cfg.optim_wrapper)
        torch.manual_seed(distributed.get_rank())
        images = [noise_image(args.side, head.num_classes) for _ in range(args.images)]
        self.batch = {key: [image[key] for image in images] for key in images[0]}

    def _count(self, state: None, bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.buckets.append(bucket.buffer().nbytes)
        return allreduce_hook(state, bucket)

    def step(self) -> None:
        self.buckets.clear()
        self.model.train_step(self.batch, self.optim_wrapper)

    def peak(self) -> int:
        if self.device.type == 'cuda':
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(args: argparse.Namespace) -> None:
    """Trains in one of the processes; process 0 writes its figures."""
    if args.device.type == 'cuda':
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    distributed.init_process_group('nccl' if args.device.type == 'cuda' else 'gloo')
    process = Process(args)
    for _ in range(2):  # the second one finds the buckets in the order of the gradients
        process.step()
    clock = measure.clock_of(process.device, hold=False)
    samples = [clock(process.step) for _ in range(args.rounds)]
    if distributed.get_rank() == 0:
        torch.save(
            dict(
                parameters=process.parameters,
                **measure.milliseconds(samples, 'step_'),
                reduced_mib=sum(process.buckets) / measure.MIB,
                buckets=len(process.buckets),
                peak_mib=process.peak() / measure.MIB,
            ),
            args.figures,
        )
    distributed.destroy_process_group()


def measured(processes: int, arguments: list[str]) -> dict[str, float]:
    """Starts the processes and returns the figures of process 0."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / 'figures.pth'
        subprocess.run(
            [
                sys.executable,
                '-m',
                'torch.distributed.run',
                '--standalone',
                '--local-addr=127.0.0.1',
                f'--nproc-per-node={processes}',
                __file__,
                *arguments,
                '--figures',
                str(figures),
            ],
            check=True,
            env=dict(os.environ, OMP_NUM_THREADS='1'),
        )
        return torch.load(figures, weights_only=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default=str(measure.ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'))
    parser.add_argument('--processes', type=measure.at_least(1), nargs='+', default=[1, 2], help='default: 1 2')
    parser.add_argument('--images', type=measure.at_least(1), default=2, help='of each process (default: %(default)s)')
    parser.add_argument('--side', type=measure.at_least(64), default=160, help='of an image (default: %(default)s)')
    parser.add_argument('--figures', help=argparse.SUPPRESS)  # set in the processes: process 0 writes there
    measure.add_common_options(parser, rounds=5)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    if args.figures:
        work(args)
        return 0
    described = measure.begin(args)
    table = measure.Table(args.out / f'ranks_{args.device.type}.csv', COLUMNS, described)
    for processes in args.processes:
        row = dict(measured(processes, sys.argv[1:]), processes=processes, images=args.images, device=args.device.type)
        table.add(**row)
        print(
            '  {processes} processes: {step_ms:9.1f} ms a step, {reduced_mib:7.1f} MiB all-reduced in {buckets} '
            'buckets, peak {peak_mib:7.1f} MiB'.format(**row),
            flush=True,
        )
    print(f'written: {table.path}', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
