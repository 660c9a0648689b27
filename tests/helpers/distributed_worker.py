"""The run that tests/test_distributed.py starts in one and in two processes, and the hook that records it."""

import json
from pathlib import Path

import torch
from helpers import fast_host  # noqa: F401
from helpers.paths import ROOT
from helpers.shrink_config import shrunk
from helpers.tiny_runs import tinier
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

ALL = 10**6


@HOOKS.register_module()
class RecordHook(Hook):
    """Writes losses, weights, metrics and the random numbers of each step to rank0.pth, rank1.pth in the work dir."""

    priority = 'LOWEST'

    def before_train(self, runner):
        self.drawn = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        with torch.random.fork_rng():
            self.drawn.append(torch.rand(3))

    def after_train(self, runner):
        history = {key: buffer.data[0].tolist() for key, buffer in runner.message_hub.log_scalars.items()}
        weights = _weights(runner.model)
        empty = step_without_objects(runner) if get_world_size() > 1 else None
        torch.save(
            dict(history=history, weights=weights, drawn=torch.stack(self.drawn), empty=empty),
            Path(runner.work_dir) / f'rank{get_rank()}.pth',
        )


def _weights(model):
    return {key: p.detach().clone() for key, p in getattr(model, 'module', model).named_parameters()}


def step_without_objects(runner):
    """Returns losses and weights of a step in which the images of process 1 show no object."""
    batch = next(iter(runner.train_dataloader))
    if get_rank() == 1:
        for sample in batch['data_samples']:
            sample.gt_instances = sample.gt_instances[:0]
    losses = runner.model.train().train_step(batch, runner.optim_wrapper)
    return dict(losses={key: float(loss) for key, loss in losses.items()}, weights=_weights(runner.model))


def two_objects_each(data):
    """Reduces the training set in ``data`` to eight images of two objects each."""
    path = data / 'annotations/lvis_v1_train.json'
    content = json.loads(path.read_text())
    objects = {}
    for annotation in content['annotations']:
        objects.setdefault(annotation['image_id'], []).append(annotation)
    content['images'] = [image for image in content['images'] if len(objects.get(image['id'], ())) > 1][:8]
    content['annotations'] = [a for image in content['images'] for a in objects[image['id']][:2]]
    path.write_text(json.dumps(content))


def small_config(data, work_dir):
    """The narrowed tiny config with its evaluation."""
    cfg = tinier(data, work_dir)
    whole = shrunk(Config.fromfile(ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'), 'data/tiny_lvis/', data)
    cfg.update(val_cfg=whole.val_cfg, val_dataloader=whole.val_dataloader, val_evaluator=whole.val_evaluator)
    cfg.val_dataloader.batch_size = 2
    cfg.test_dataloader = cfg.val_dataloader
    cfg.model.test_cfg.rcnn.score_thr = 1e-3
    cfg.train_dataloader.dataset.oversample_thr = 1e-5  # no image twice
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint = None
    return cfg


def overfitting_config(data, work_dir):
    """A config that memorizes the validation images, so that there is something to evaluate."""
    cfg = small_config(data, work_dir)
    cfg.train_dataloader.batch_size = 5
    cfg.train_dataloader.dataset.dataset.ann_file = 'annotations/lvis_v1_val.json'
    cfg.train_cfg.update(max_epochs=40, val_interval=40)
    cfg.optim_wrapper.optimizer.lr = 4e-3
    cfg.default_hooks.logger.interval = 40
    return cfg


def deterministic_config(data, work_dir, load_from):
    """Two steps of four images, in which each image has as many samples, whichever process has it.

    Every anchor is sampled, and none ignored; every box of the RPN is proposed and sampled, however small, and only
    the ground truth is a positive RoI, so that each image has two. All classes are rare: DropLoss drops the
    negatives of foreground RoIs, and with r = 1 none of background RoIs.
    """
    cfg = small_config(data, work_dir)
    cfg.load_from = str(load_from)
    cfg.train_dataloader.update(batch_size=4, sampler=dict(type='DefaultSampler', shuffle=False))
    next(step for step in cfg.train_dataloader.dataset.dataset.pipeline if step.type == 'RandomFlip').prob = 0.0
    cfg.model.backbone.update(norm_eval=True, se_cfg=dict(dropout=0.0))
    train = cfg.model.train_cfg
    train.rpn.assigner.update(pos_iou_thr=0.7, neg_iou_thr=0.7)
    train.rpn_proposal.update(nms_pre=ALL, max_per_img=ALL, min_bbox_size=-1, nms=dict(type='nms', iou_threshold=1.0))
    train.rcnn.assigner.update(pos_iou_thr=0.99, neg_iou_thr=0.99, min_pos_iou=0.99)
    for sampler in (train.rpn.sampler, train.rcnn.sampler):
        sampler.update(num=ALL, pos_fraction=1.0, neg_pos_ub=-1)
    cfg.model.roi_head.bbox_head.loss_cls.frequency_threshold = 2.0
    # Adam's first steps are as long for a gradient of rounding errors as for any other
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.005, momentum=0.9)
    cfg.custom_imports.imports = ['apa_mmdet', 'helpers.distributed_worker']
    cfg.custom_hooks = [dict(type='RecordHook')]
    return cfg
