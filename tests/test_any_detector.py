"""Detectors of MMDetection with activations swapped by their config: two training steps and an evaluation."""

import pytest
import torch
from helpers.paths import ROOT
from helpers.shrink_config import shrunk, two_steps
from helpers.strict_operators import DTYPES
from mmdet.models.losses import focal_loss
from mmengine.config import Config
from mmengine.runner import Runner

BACKBONE = dict(depth=18, base_channels=8)
NECK = dict(in_channels=[8, 16, 32, 64], out_channels=16)
HEAD = dict(in_channels=16, feat_channels=16)
ROI_HEAD = dict(bbox_roi_extractor=dict(out_channels=16), bbox_head=dict(in_channels=16, fc_out_channels=32))
FFN = dict(num_layers=2, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=32)))
NARROW = dict(
    dino_r50_aglu=dict(
        backbone=BACKBONE, neck=dict(in_channels=[16, 32, 64]), encoder=FFN, decoder=FFN, num_queries=20
    ),
    faster_rcnn_r50_aglu=dict(backbone=BACKBONE, neck=NECK, rpn_head=HEAD, roi_head=ROI_HEAD),
    retinanet_r50_aglu=dict(backbone=BACKBONE, neck=NECK, bbox_head=HEAD),
    rtmdet_tiny_aglu=dict(
        backbone=dict(widen_factor=0.125), neck=dict(in_channels=[32, 64, 128], out_channels=16), bbox_head=HEAD
    ),
)
NARROW['mask_rcnn_swin-t_aglu'] = dict(
    backbone=dict(embed_dims=24, depths=[1, 1, 2, 1]),
    neck=dict(NECK, in_channels=[24, 48, 96, 192]),
    rpn_head=HEAD,
    roi_head=dict(
        mask_roi_extractor=dict(out_channels=16), mask_head=dict(in_channels=16, conv_out_channels=16), **ROI_HEAD
    ),
)

NUM_ACTIVATIONS = {
    'dino_r50_aglu': 4,
    'faster_rcnn_r50_aglu': 19,
    'mask_rcnn_swin-t_aglu': 5,
    'retinanet_r50_aglu': 25,
    'rtmdet_tiny_aglu': 76,
}
# one activation for each level, which gets no gradient if the level has no object
MAY_BE_UNCHANGED = dict(rtmdet_tiny_aglu='bbox_head.reg_convs.')


@pytest.fixture(scope='module')
def data(tiny_data):
    return tiny_data('coco', train=4, val=2, size=(96, 64))


def small(name, data, work_dir):
    cfg = two_steps(shrunk(Config.fromfile(ROOT / f'configs/any_detector/{name}.py'), 'data/coco/', data))
    cfg.merge_from_dict(dict(model=NARROW[name], work_dir=str(work_dir), randomness=dict(seed=0)))
    test = cfg.model.test_cfg
    (test.rcnn if 'rcnn' in test else test).update(score_thr=0.0, max_per_img=10)
    if 'rpn' in test:
        test.rpn.max_per_img = 5
    cfg.optim_wrapper.optimizer = dict(type='AdamW', lr=0.01, weight_decay=0.0)  # changes whatever has a gradient
    return cfg


@pytest.mark.parametrize('name', sorted(path.stem for path in (ROOT / 'configs/any_detector').glob('*.py')))
def test_swapped_detector_trains_and_evaluates(name, data, tmp_path):
    runner = Runner.from_cfg(small(name, data, tmp_path))
    learnable = [(key, p) for key, p in runner.model.named_parameters() if key.endswith(('kappa', 'lambda_'))]
    before = [p.detach().clone() for _, p in learnable]
    runner.train()
    history = {key: buffer.data[0] for key, buffer in runner.message_hub.log_scalars.items()}
    assert len(history['train/loss']) >= 2 and all(torch.tensor(h).isfinite().all() for h in history.values())
    assert 'val/coco/bbox_mAP' in history and ('val/coco/segm_mAP' in history) == ('mask' in name)
    unchanged = [key for (key, p), old in zip(learnable, before) if p.equal(old)]
    assert len(learnable) == 2 * NUM_ACTIVATIONS[name]
    assert [key for key in unchanged if not key.startswith(MAY_BE_UNCHANGED.get(name, 'none'))] == []


def test_a_transformer_trains_in_bfloat16_with_mmcvs_operators_as_a_gpu_has_them(
    data, strict_operators, monkeypatch, tmp_path
):
    """Deformable attention and the focal loss get what their CUDA code takes."""
    monkeypatch.setattr(focal_loss, 'py_sigmoid_focal_loss', focal_loss_of_a_gpu(focal_loss.py_sigmoid_focal_loss))
    cfg = small('dino_r50_aglu', data, tmp_path)
    cfg.optim_wrapper.update(type='MixedPrecisionOptimWrapper', dtype='bfloat16')
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    cfg.train_dataloader.batch_size = 4
    runner = Runner.from_cfg(cfg)
    dtypes = []
    layer = runner.model.encoder.layers[0]
    layer.ffn.layers[0][0].register_forward_hook(lambda module, inputs, result: dtypes.append(result.dtype))
    runner.train()
    assert dtypes == [torch.bfloat16]
    assert {'ms_deform_attn_forward', 'ms_deform_attn_backward'} <= strict_operators
    assert not any(module._forward_pre_hooks for module in runner.model.modules()), 'hooks outlive the step'
    assert all(p.isfinite().all() for p in runner.model.parameters())


def focal_loss_of_a_gpu(function):
    def strict(pred, *args, **kwargs):
        assert pred.dtype in DTYPES, f'sigmoid_focal_loss is not implemented for {pred.dtype}'
        return function(pred, *args, **kwargs)

    return strict
