"""Every tool takes the same weights: as the modules take them, with parts that the model lacks, whole and finite."""

import pytest
import torch
from helpers.tiny_runs import Toy
from mmdet.registry import MODELS
from torch import nn

from apa_mmdet.apis.det_inferencer import StrictDetInferencer
from apa_mmdet.checkpoint.compare import WrongWeights
from apa_mmdet.checkpoint.loading import load_whole
from apa_mmdet.deploy.export_onnx import load_weights
from apa_mmdet.models.losses import DropLoss
from apa_mmdet.utils.config import build_detector, load_config

CONFIG = """
_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
backbone = dict(
    _delete_=True, type='SEResNet', depth=18, base_channels=8, stem_channels=8, num_stages=2, strides=(1, 2),
    dilations=(1, 1), out_indices=(0, 1), act_cfg=dict(type='AconC'),
)
neck = dict(in_channels=[8, 16], out_channels=16, start_level=0, num_outs=5)
head = dict(num_classes=2, in_channels=16, feat_channels=32, stacked_convs=1)
model = dict(backbone=backbone, neck=neck, bbox_head=head)
test_dataloader = dict(dataset=dict(metainfo=dict(classes=('date', 'fig'))))
"""


@pytest.fixture(scope='module')
def fcos(tmp_path_factory):
    """The path of the config of a small detector, and weights of it as older versions and official files have them."""
    path = tmp_path_factory.mktemp('fcos') / 'config.py'
    path.write_text(CONFIG)
    model = build_detector(load_config(path), path)
    weights = model.state_dict()
    old = {'data_preprocessor.mean': model.data_preprocessor.mean}  # early versions saved it
    for name, tensor in weights.items():
        if name.endswith(('.p1', '.p2', '.beta')):
            tensor = tensor.view(1, -1, 1, 1)
        old[name.replace('bbox_head.conv_cls.', 'bbox_head.fcos_cls.')] = tensor
    assert sum(tensor.dim() == 4 for tensor in old.values()) > sum(tensor.dim() == 4 for tensor in weights.values())
    return path, weights, {**old, 'auxiliary_head.weight': torch.ones(1)}


def loaded(path, checkpoint):
    model = build_detector(load_config(path), path)
    load_whole(model, torch.load(checkpoint), str(checkpoint))
    return model


def inferred(path, checkpoint):
    return StrictDetInferencer(path, checkpoint, 'cpu').model


def exported(path, checkpoint, part='detector'):
    model = build_detector(load_config(path), path)
    load_weights(model, checkpoint, part)
    return model


TOOLS = loaded, inferred, exported, lambda *args: exported(*args, 'backbone')


@pytest.mark.parametrize('tool', TOOLS, ids=['test', 'inferencer', 'export', 'export of the backbone'])
def test_every_tool_decides_alike_whether_weights_fit(tool, fcos, tmp_path):
    path, weights, old = fcos
    torch.save(old, tmp_path / 'old.pth')
    found = tool(path, tmp_path / 'old.pth').state_dict()
    names = [name for name in weights if tool is not TOOLS[-1] or name.startswith(('backbone.', 'neck.'))]
    assert all(torch.equal(found[name], weights[name]) for name in names) and len(names) > 50
    torch.save({**old, 'backbone.conv1.weight': old['backbone.conv1.weight'] * torch.nan}, tmp_path / 'nan.pth')
    torch.save({**old, 'backbone.act_stem.lambda_': torch.ones(8)}, tmp_path / 'other.pth')
    for name, key in (('nan.pth', 'not-finite'), ('other.pth', 'unexpected')):
        with pytest.raises(WrongWeights) as refused:
            tool(path, tmp_path / name)
        assert [found for found, names in refused.value.differences.items() if names] == [key]


def test_means_of_other_images_are_refused(fcos):
    path, _, old = fcos
    other = {**old, 'data_preprocessor.mean': old['data_preprocessor.mean'] + 1}
    with pytest.raises(WrongWeights) as refused:
        load_whole(build_detector(load_config(path), path), other, 'a.pth')
    assert refused.value.differences == dict(unexpected=['data_preprocessor.mean'])


def with_loss(loss):
    return nn.ModuleDict(dict(fc=nn.Linear(2, 2), loss_cls=loss))


def test_counts_of_a_loss_are_no_weights_of_another_model():
    torch.manual_seed(0)
    counting, other = (with_loss(MODELS.build(dict(type=name))) for name in ('EQLV2Loss', 'CrossEntropyLoss'))
    load_whole(other, counting.state_dict(), 'a.pth')
    learned, fixed = (with_loss(DropLoss(2, link=link)) for link in ('apa', 'sigmoid'))
    with pytest.raises(WrongWeights):  # scores are computed by the link
        load_whole(fixed, learned.state_dict(), 'a.pth')


def test_the_learned_link_of_a_loss_is_no_activation_of_the_backbone(tmp_path):
    parts = dict(backbone=nn.Conv2d(3, 4, 3), roi_head=with_loss(DropLoss(2, link='apa')))
    torch.save(nn.ModuleDict(parts).state_dict(), tmp_path / 'a.pth')
    model = nn.ModuleDict(dict(backbone=nn.Conv2d(3, 4, 3)))
    load_weights(model, tmp_path / 'a.pth', 'backbone')
    assert torch.equal(model.backbone.weight, parts['backbone'].weight)


def test_counters_inside_a_module_are_no_weights_of_another_model():
    weights = {**Toy().state_dict(), 'conv.num_batches_tracked': torch.tensor(3)}
    load_whole(Toy(), weights, 'a.pth')
