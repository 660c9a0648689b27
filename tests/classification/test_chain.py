"""From images to a detector, in miniature: pretrain, fine-tune with frozen stages and norms, evaluate."""

import pytest
import torch
from helpers.paths import ROOT
from helpers.tiny_images import narrow
from helpers.tiny_runs import tinier
from mmengine.registry import RUNNERS

from apa_mmdet.checkpoint.compare import WrongWeights
from apa_mmdet.utils.config import load_config

IMAGENET = ROOT / 'configs/imagenet/se_resnet18_apa_in1k.py'


def pretrained(data, work_dir):
    cfg = narrow(load_config(IMAGENET), data, work_dir)
    cfg.model.backbone.update(base_channels=8, stem_channels=8)
    cfg.model.head.in_channels = 64
    RUNNERS.build(cfg).train()
    return work_dir / 'epoch_1.pth'


def detector(data, work_dir, weights, **backbone):
    cfg = tinier(data, work_dir)
    cfg.model.backbone.update(init_cfg=dict(type='Pretrained', checkpoint=str(weights)), **backbone)
    return RUNNERS.build(cfg)


@pytest.mark.slow
def test_a_detector_starts_from_what_was_pretrained_here(tiny, tiny_data, tmp_path):
    weights = pretrained(tiny('imagenet'), tmp_path / 'imagenet')
    runner = detector(tiny_data(), tmp_path / 'detector', weights, frozen_stages=1, norm_eval=True)
    runner.train()
    saved = torch.load(weights, weights_only=True)['state_dict']
    net = {f'backbone.{name}': tensor for name, tensor in runner.model.backbone.state_dict().items()}
    assert {*net} == {name for name in saved if name.startswith('backbone.')}
    same = {name for name in net if torch.equal(net[name], saved[name])}
    frozen = {
        name
        for name in net
        if name.startswith(('backbone.conv1.', 'backbone.bn1.', 'backbone.act_stem.', 'backbone.layer1.'))
    }
    statistics = {name for name in net if 'running' in name or 'tracked' in name}
    assert frozen | statistics <= same and 'backbone.layer4.1.conv2.weight' not in same
    assert runner.test()


@pytest.mark.slow
def test_weights_of_another_depth_are_refused_before_training(tiny, tiny_data, tmp_path):
    weights = pretrained(tiny('imagenet'), tmp_path / 'imagenet')
    with pytest.raises(WrongWeights) as refused:
        detector(tiny_data(), tmp_path / 'detector', weights, depth=34).train()
    assert refused.value.code == 'other-depth'
