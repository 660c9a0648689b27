"""Classifiers under official names, against logits recorded from the official networks."""

import json

import pytest
import torch
from helpers.recordings import DATA, image, load, value
from mmdet.registry import MODELS
from test_apis.test_convert_weights import marked
from torch import nn

from apa_mmdet.apis.convert_weights import convert_file
from apa_mmdet.checkpoint.official_names import classifier_names, convert_official_state_dict, depth_of, translate_names
from apa_mmdet.models.layers import CosineLinear

BACKBONES = dict(
    se_resnet50=dict(type='SEResNet', depth=50, out_indices=(3,)),
    se_resnext50=dict(type='SEResNeXt', depth=50, out_indices=(3,)),
    cb_resnet50=dict(type='SEResNet', depth=50, out_indices=(3,), se_cfg=dict(type='CBAM')),
    se_resnet32_cifar=dict(type='SEResNetCifar', depth=32),
)
CLASSIFIERS = dict(linear=nn.Linear, cosine=CosineLinear, lr_cosine=CosineLinear)
NETWORKS = [
    'se_resnet50_linear',
    'se_resnet50_cosine',
    'se_resnext50_cosine',
    'cb_resnet50_linear',
    'se_resnet32_cifar_cosine',
    'se_resnet32_cifar_lr_cosine',
]


def official(name):
    keys = json.loads((DATA / f'classifier_{name}_keys.json').read_text())
    return {key: torch.from_numpy(value(key, shape)) for key, shape in keys.items()}


def network(name, classes):
    """The network as MMPretrain's ImageClassifier names its parts."""
    net, kind = nn.Module(), next(kind for kind in BACKBONES if name.startswith(f'{kind}_'))
    classifier = name.removeprefix(f'{kind}_')
    options = dict(scale=25.0, learn_scale=True) if classifier == 'lr_cosine' else {}
    with torch.device('meta'):
        net.backbone = MODELS.build(BACKBONES[kind])
        net.head = nn.Module()
        net.head.fc = CLASSIFIERS[classifier](64 if 'cifar' in kind else 2048, classes, **options)
    return net


# the quick ones have each kind of attention and of classifier
SLOW = 'se_resnet50_linear', 'se_resnext50_cosine'


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETWORKS]
)
def test_logits_are_those_of_the_official_network(name):
    weights, want = official(name), torch.from_numpy(load('classifiers.npz')[name])
    ours = classifier_names(weights)
    net = network(name, want.shape[1])
    net.load_state_dict({ours[key]: tensor for key, tensor in weights.items()}, strict=True, assign=True)
    x = torch.from_numpy(image((4, 3, 32, 32) if 'cifar' in name else (2, 3, 96, 96)))
    with torch.no_grad():
        (features,) = net.eval().backbone(x)
        logits = net.head.fc(features.mean((2, 3)))
    assert (logits - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize('name', NETWORKS)
def test_names_come_back(name):
    keys = json.loads((DATA / f'classifier_{name}_keys.json').read_text())
    ours = classifier_names(keys)
    assert classifier_names(ours.values(), to_official=True) == {new: old for old, new in ours.items()}
    assert list(classifier_names(ours.values()).values()) == list(ours.values())  # ours are ours already
    backbone = convert_official_state_dict(dict.fromkeys(keys))
    assert {f'backbone.{key}' for key in backbone} == {new for new in ours.values() if not new.startswith('head.')}
    back = translate_names(backbone, to_official=True)
    assert {*back.values()} == {key for key in keys if not key.startswith(('fc.', 'linear.'))}
    assert depth_of(backbone) == (32 if 'cifar' in name else 50)


@pytest.mark.parametrize(
    'name, call',
    [
        ('cb_resnet50_linear', "dict(type='SEResNet', depth=50, se_cfg=dict(type='CBAM'))"),
        ('se_resnet32_cifar_cosine', "dict(type='SEResNetCifar', depth=32)"),
    ],
)
def test_the_backbone_is_inferred_and_comes_back_without_the_classifier(name, call, tmp_path):
    keys = json.loads((DATA / f'classifier_{name}_keys.json').read_text())
    source, ours, back = (tmp_path / file for file in ('official.pth', 'ours.pth', 'back.pth'))
    weights = marked(keys)
    torch.save(dict(model=weights), source)
    assert f'written: {ours}, for {call} with init_cfg' in convert_file(source, ours)
    convert_file(ours, back, to_official=True)
    returned = torch.load(back, weights_only=True)['model']
    assert list(returned) == [key for key in keys if not key.startswith(('fc.', 'linear.'))]
    assert all(torch.equal(tensor, weights[key]) for key, tensor in returned.items())
