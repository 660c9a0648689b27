"""Training runs of seconds: the narrowed tiny LVIS config and a model of a few pixels, both with all our hooks."""

from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT
from helpers.shrink_config import shrunk, two_steps
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner
from torch import nn
from torch.utils.data import Dataset

from apa_mmdet.models.activations import AGLU


def tinier(data, work_dir, **options):
    """The config on the data set in ``data``, with ``options`` as of ``--cfg-options``."""
    tiny = Config.fromfile(ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py')
    cfg = two_steps(shrunk(tiny, 'data/tiny_lvis/', data))
    model, head = cfg.model, cfg.model.roi_head
    model.backbone.update(base_channels=8, stem_channels=8)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    head.bbox_roi_extractor.out_channels = head.mask_roi_extractor.out_channels = 16
    head.bbox_head.update(in_channels=16, fc_out_channels=32)
    head.mask_head.update(in_channels=16, conv_out_channels=16, num_convs=1)
    head.mask_head.upsample_cfg.compressed_channels = 8
    model.train_cfg.rcnn.sampler.num = 16
    model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=20)
    cfg.work_dir = str(work_dir)
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    cfg.merge_from_dict(options)
    if 'max_iters' in cfg.train_cfg:
        del cfg.train_cfg.max_epochs
    cfg.default_hooks = {name: hook for name, hook in cfg.default_hooks.items() if hook}
    return cfg


class Points(Dataset):
    """Twelve images of 3x4x4 numbers; ``broken`` ones are changed by ``change``."""

    def __init__(self, broken=(), change=None):
        self.broken, self.change = broken, change

    def __len__(self):
        return 12

    def __getitem__(self, index):
        image = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(index))
        return dict(inputs=self.change(image) if index in self.broken else image)


class Toy(BaseModel):
    """Convolution, norm, AGLU, linear map; two losses, of which the gradient of the second is infinite at 0."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.conv, self.norm, self.act, self.out = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), AGLU(), nn.Linear(16, 2)
        self.weight = weight

    def forward(self, inputs, mode='tensor', **_):
        if mode == 'predict':
            return list(inputs)
        inputs = torch.stack(list(inputs))
        out = self.out(self.act(self.norm(self.conv(inputs))).flatten(1))
        root = (out.float() * inputs.any(1).any(1).any(1)[:, None]).square().sum(1).sqrt().mean()
        return dict(loss_square=self.weight * (out.float() - 1).square().mean(), loss_root=root)


def toy(
    work_dir,
    dataset=None,
    weight=1.0,
    epochs=2,
    hooks=(),
    optim_wrapper=(),
    resume=False,
    name='',
    launcher='none',
    runner_type=Runner,
    loader=(),
    options=(),
    **checkpoint,
):
    """A Runner for it: four steps of three images an epoch, in order."""
    runtime = Config.fromfile(ROOT / 'configs/_base_/default_runtime.py')
    default_hooks = runtime.default_hooks
    del default_hooks['visualization'], default_hooks['activation_stats']  # drawing takes longer than training the toy
    default_hooks.update(dict(hooks))
    default_hooks['checkpoint'] = dict(default_hooks['checkpoint'], **checkpoint)
    torch.manual_seed(0)
    train_dataloader = dict(
        dataset=dataset or Points(), batch_size=3, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)
    )
    return runner_type(
        **{
            **dict(
                model=Toy(weight),
                work_dir=str(work_dir),
                launcher=launcher,
                default_scope='mmdet',
                resume=resume,
                experiment_name=f'{work_dir} {name}',  # or runs that begin in the same second would share their logs
                train_dataloader=dict(train_dataloader, **dict(loader)),
                train_cfg=dict(type='ResumableEpochBasedTrainLoop', max_epochs=epochs),
                randomness=dict(seed=0),
                default_hooks=default_hooks,
                optim_wrapper=dict(
                    dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=0.01)), **dict(optim_wrapper)
                ),
            ),
            **dict(options),
        }
    )


class Stop(Hook):
    """Ends a run after a step, as an error would."""

    def __init__(self, after):
        self.after = after

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.after:
            raise KeyboardInterrupt


def train_until(runner, stop=None):
    """Trains until after a step, where it ends as by an error, or to the end."""
    if stop is None:
        runner.train()
        return
    runner.register_hook(Stop(stop), 'LOWEST')
    with pytest.raises(KeyboardInterrupt):
        runner.train()


def saved_at(path):
    """Loads a checkpoint."""
    return CheckpointLoader.load_checkpoint(str(path), 'cpu', 'silent')


def log_of(work_dir):
    """The logs of all runs of a work dir."""
    return ''.join(file.read_text() for file in sorted(Path(work_dir).glob('*/*.log')))
