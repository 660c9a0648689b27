"""Pretrained weights of our backbones: checked in every form of ``init_cfg``, read once, what stays random is said."""

import pytest
import torch
from mmdet.models.backbones import ResNet
from mmengine.logging import MMLogger
from mmengine.model import ModuleList, PretrainedInit

from apa_mmdet.checkpoint import scheme
from apa_mmdet.checkpoint.compare import WrongWeights
from apa_mmdet.checkpoint.pretrained import all_checked_pretrained
from apa_mmdet.models.backbones import SEResNet

NARROW = dict(depth=18, base_channels=8, stem_channels=8)
NORM = dict(type='Constant', layer='BatchNorm2d', val=1)


@pytest.fixture
def warnings_of(monkeypatch):
    """The warnings of this test."""
    lines, log = [], MMLogger.log
    monkeypatch.setattr(
        MMLogger, 'log', lambda self, level, line, *args: lines.append(line) if level == 30 else log(self, level, line)
    )
    return lines


def forms(path):
    return {
        'dict': dict(type='Pretrained', checkpoint=path),
        'class': dict(type=PretrainedInit, checkpoint=path),
        'list': [NORM, dict(type='Pretrained', checkpoint=path)],
        'override': dict(NORM, override=dict(type='Pretrained', name='layer1', checkpoint=path, prefix='layer1.')),
    }


@pytest.mark.parametrize('form', forms(''))
def test_every_form_of_init_cfg_is_checked_and_loaded(form, tmp_path):
    path = tmp_path / 'a.pth'
    source = SEResNet(**NARROW)
    torch.save(source.state_dict(), path)
    net = SEResNet(**NARROW, init_cfg=forms(str(path))[form])
    net.init_weights()
    assert torch.equal(net.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    torch.save({'stem.weight': torch.zeros(1), 'layer1.stem.weight': torch.zeros(1)}, path)
    with pytest.raises(WrongWeights) as refused:
        SEResNet(**NARROW, init_cfg=forms(str(path))[form]).init_weights()
    assert refused.value.code == 'nothing-in-common'
    with pytest.raises(FileNotFoundError, match='pretrained weights .*b.pth. not found: put ImageNet weights'):
        SEResNet(**NARROW, init_cfg=forms(str(tmp_path / 'b.pth'))[form]).init_weights()


@pytest.mark.parametrize('way', ['{}', 'apa_mmdet://file://{}'])
def test_a_file_is_read_once_whatever_its_path_looks_like(way, tmp_path, monkeypatch):
    source = SEResNet(**NARROW)
    torch.save(source.state_dict(), tmp_path / 'a.pth')
    read, load = [], scheme.load_as_data
    monkeypatch.setattr(scheme, 'load_as_data', lambda file, *args: (read.append(file), load(file, *args))[1])
    net = SEResNet(**NARROW, init_cfg=dict(type='Pretrained', checkpoint=way.format(tmp_path / 'a.pth')))
    net.init_weights()
    assert torch.equal(net.conv1.weight, source.conv1.weight) and read == [str(tmp_path / 'a.pth')]


def test_weights_of_a_plain_resnet_say_what_stays_random_and_what_of_it_is_frozen(tmp_path, warnings_of):
    torch.save(ResNet(**NARROW).state_dict(), tmp_path / 'a.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    SEResNet(**NARROW, frozen_stages=1, act_cfg=dict(type='ReLU'), init_cfg=init_cfg).init_weights()
    random, frozen = (line for line in warnings_of if 'these' in line or 'stay' in line)
    assert 'weights are not in' in random and 'stay random: layer*.*.se.norm.weight' in random
    assert frozen.startswith('12 of these are frozen and will never be trained: layer*.*.se.norm.weight')
    del warnings_of[:]
    torch.save(SEResNet(**NARROW).state_dict(), tmp_path / 'a.pth')
    SEResNet(**NARROW, frozen_stages=1, init_cfg=init_cfg).init_weights()
    assert not [line for line in warnings_of if 'these' in line or 'stay' in line]


def test_weights_of_other_activations_are_named(tmp_path, warnings_of):
    source = SEResNet(**NARROW)
    weights = {f'backbone.{name}': value for name, value in source.state_dict().items()}
    torch.save({**weights, 'head.fc.weight': torch.zeros(2, 64)}, tmp_path / 'a.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    SEResNet(**NARROW, init_cfg=init_cfg).init_weights()
    assert not any('ignored' in line for line in warnings_of)
    net = SEResNet(**NARROW, act_cfg=dict(type='ReLU'), init_cfg=init_cfg)
    net.init_weights()
    (line,) = (line for line in warnings_of if 'ignored' in line)
    lost = source.state_dict().keys() - net.state_dict().keys()
    assert line.startswith(f'{len(lost)} weights of') and 'kappa' in line and 'fc' not in line


def test_official_shapes_of_activations_are_taken(tmp_path, warnings_of):
    source = SEResNet(**NARROW, act_cfg=dict(type='AconC'))
    weights = source.state_dict()
    official = {
        name: w.view(1, -1, 1, 1) if name.endswith(('.p1', '.p2', '.beta')) else w for name, w in weights.items()
    }
    torch.save(official, tmp_path / 'a.pth')
    net = SEResNet(
        **NARROW, act_cfg=dict(type='AconC'), init_cfg=dict(type='Pretrained', checkpoint=f'{tmp_path}/a.pth')
    )
    net.init_weights()
    assert torch.equal(net.act_stem.p1, source.act_stem.p1) and not warnings_of


def test_backbones_of_mmdet_are_checked_too(tmp_path, warnings_of):
    torch.save(ResNet(**NARROW).state_dict(), tmp_path / 'a.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    deeper = ResNet(**dict(NARROW, depth=34), init_cfg=init_cfg)
    with pytest.raises(WrongWeights) as refused, all_checked_pretrained(ModuleList([deeper])):
        pytest.fail('refused before anything is initialized')
    assert refused.value.code == 'other-depth'
    gray = ModuleList([ResNet(**NARROW, in_channels=1, init_cfg=init_cfg)])
    with all_checked_pretrained(gray):
        gray.init_weights()
    assert any('1 of 60 weights are not in' in line and 'stay random: conv1.weight' in line for line in warnings_of)


def test_a_prefix_that_no_weight_has_is_refused(tmp_path):
    torch.save(SEResNet(**NARROW).state_dict(), tmp_path / 'a.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix='backbone.')
    with pytest.raises(WrongWeights, match="no weights under the prefix 'backbone.', but conv1.weight, bn1.weight"):
        SEResNet(**NARROW, init_cfg=init_cfg).init_weights()


def test_the_backbone_of_a_whole_classifier_loads_without_a_prefix(tmp_path):
    source, path = SEResNet(**NARROW), str(tmp_path / 'epoch_100.pth')
    classifier = {'head.fc.weight': torch.zeros(5, 64), 'head.fc.bias': torch.zeros(5)}
    weights = {f'backbone.{name}': tensor for name, tensor in source.state_dict().items()}
    torch.save(dict(state_dict={**weights, **classifier}), path)
    net = SEResNet(**NARROW, init_cfg=dict(type='Pretrained', checkpoint=path))
    net.init_weights()
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in source.state_dict().items())
    deeper = SEResNet(**dict(NARROW, depth=34), init_cfg=dict(type='Pretrained', checkpoint=path))
    plain = SEResNet(**NARROW, act_cfg=dict(type='ReLU'), init_cfg=dict(type='Pretrained', checkpoint=path))
    plain.init_weights()  # ignores what it has no place for, as of any weights
    with pytest.raises(WrongWeights) as refused:
        deeper.init_weights()
    assert refused.value.code == 'other-depth'
    torch.save(dict(state_dict=classifier), path)
    with pytest.raises(WrongWeights) as refused:
        SEResNet(**NARROW, init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()
    assert refused.value.code == 'nothing-in-common'
