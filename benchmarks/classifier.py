"""Images a second of training classifiers: SE-R50 with AGLU and APA, with ReLU and sigmoid, and MMPretrain's SE-R50.

    python benchmarks/classifier.py                                # on a CPU 8 images of 192x192
    python benchmarks/classifier.py --shape 64x3x192x192 --amp bfloat16 --rounds 20

Needs MMPretrain. A step is what MMEngine's training loop does with a batch: forward, loss, backward, optimizer. The
classifiers are built from their configs with random weights and take turns in one process on the same random images,
without mixup, which is the same for all. The learning rate is 0. measure.py describes how time is counted.
"""

from collections.abc import Callable
from functools import partial

import measure
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from apa_mmdet.utils.config import build_detector, load_config

APA, RELU, STOCK = 'AGLU, APA gate', 'ReLU, sigmoid gate', "MMPretrain's SE-ResNet-50"
CONFIGS = {
    APA: measure.ROOT / 'configs/imagenet/se_resnet50_apa_in1k.py',
    RELU: measure.ROOT / 'configs/imagenet/se_resnet50_relu_sigmoid_in1k.py',
}


def config_of(name: str) -> Config:
    """The config of a contender, MMPretrain's backbone in that of the baseline."""
    cfg = load_config(CONFIGS.get(name, CONFIGS[RELU]))
    if name == STOCK:
        cfg.model.backbone = dict(type='mmpretrain.SEResNet', depth=50)
    cfg.model.train_cfg = None
    cfg.model.data_preprocessor.to_onehot = True
    cfg.optim_wrapper.optimizer.lr = 0.0
    return cfg


def step_of(name: str, images: torch.Tensor, device: str, amp: str | None) -> dict[str, Callable]:
    """A training step of the contender, as a call without arguments."""
    from mmpretrain.structures import DataSample

    torch.manual_seed(0)
    cfg = config_of(name)
    model = build_detector(cfg, name).to(device).train()
    if amp:
        cfg.optim_wrapper.update(type='MixedPrecisionOptimWrapper', dtype=amp)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    samples = [DataSample().set_gt_label(i % model.head.num_classes) for i in range(len(images))]
    batch = dict(inputs=images, data_samples=samples)
    return {'step': lambda: model.train_step(batch, wrapper)}


def main() -> None:
    parser = measure.parser_of(__doc__, rounds=10)
    parser.add_argument('--shape', type=measure.shape, help='images (default: 8x3x192x192, on a GPU 64x3x192x192)')
    parser.add_argument('--amp', choices=measure.DTYPES[1:], help='mixed precision (default: float32)')
    args = parser.parse_args()
    table = measure.begin(args, 'classifier', 'name images_per_second ms to_relu', f'_{args.amp}' if args.amp else '')
    shape = args.shape or (64 if args.device == 'cuda' else 8, 3, 192, 192)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    contenders = {name: partial(step_of, name, images, args.device, args.amp) for name in (APA, RELU, STOCK)}
    calls, notes = measure.prepare(contenders)
    samples = measure.round_robin(calls, args.rounds, args.device)
    for name in contenders:
        row = dict(name=name, shape=measure.shape_text(shape), dtype=args.amp or 'float32', note=notes.get(name))
        if (name, 'step') in samples:
            row |= measure.milliseconds(samples[name, 'step'])
            row['images_per_second'] = len(images) * 1e3 / row['ms']
            if (RELU, 'step') in samples:
                row['to_relu'] = row['ms'] / measure.milliseconds(samples[RELU, 'step'])['ms']
        table.add(**row)


if __name__ == '__main__':
    main()
