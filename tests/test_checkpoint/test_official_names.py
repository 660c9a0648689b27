"""SE-ResNets of MMPretrain and timm under our names: the same network, by a formula of their own."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F

from apa_mmdet.apis.convert_weights import NotConvertible, convert_file, infer_backbone
from apa_mmdet.checkpoint.compare import WrongWeights
from apa_mmdet.checkpoint.official_names import convert_official_state_dict
from apa_mmdet.models.backbones import SEResNet

NARROW = dict(
    depth=50,
    base_channels=4,
    stem_channels=4,
    act_cfg=dict(type='ReLU'),
    se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0, bias=True, ratio=2),
)
ATTENTION = {'timm': ('se.fc1', 'se.fc2'), 'mmpretrain': ('se_layer.conv1.conv', 'se_layer.conv2.conv')}


@cache
def weights_elsewhere(house):
    """Random weights of a narrow SE-ResNet-50 under the names and in the shapes of timm or MMPretrain."""
    state = {}
    for name, tensor in SEResNet(**NARROW).state_dict().items():
        for ours, theirs in zip(('se.fc1', 'se.fc2'), ATTENTION[house]):
            if f'.{ours}.' in name:
                name = name.replace(ours, theirs)
                tensor = tensor[:, :, None, None] if name.endswith('weight') else tensor
        state[name] = tensor + 0.1 * torch.rand(tensor.shape) if tensor.is_floating_point() else tensor
    if house == 'mmpretrain':
        return {f'backbone.{name}': tensor for name, tensor in state.items()} | {'head.fc.weight': torch.ones(10, 128)}
    return {**state, 'fc.weight': torch.ones(10, 128), 'fc.bias': torch.ones(10)}


def features_elsewhere(x, weights, house):
    """The last feature map of their network, in evaluation, from their weights."""
    weights = {name.removeprefix('backbone.'): tensor for name, tensor in weights.items()}

    def conv_norm(x, conv, norm, **options):
        x = F.conv2d(x, weights[f'{conv}.weight'], **options)
        statistics = (weights[f'{norm}.{part}'] for part in ('running_mean', 'running_var', 'weight', 'bias'))
        return F.batch_norm(x, *statistics, eps=1e-5)

    def attention(x, block):
        first, second = (f'{block}.{name}' for name in ATTENTION[house])
        pooled = F.adaptive_avg_pool2d(x, 1)
        hidden = F.relu(F.conv2d(pooled, weights[f'{first}.weight'], weights[f'{first}.bias']))
        return x * torch.sigmoid(F.conv2d(hidden, weights[f'{second}.weight'], weights[f'{second}.bias']))

    x = F.max_pool2d(F.relu(conv_norm(x, 'conv1', 'bn1', stride=2, padding=3)), 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for i in range(blocks):
            block, stride = f'layer{stage}.{i}', 2 if stage > 1 and i == 0 else 1
            out = F.relu(conv_norm(x, f'{block}.conv1', f'{block}.bn1'))
            out = F.relu(conv_norm(out, f'{block}.conv2', f'{block}.bn2', stride=stride, padding=1))
            out = attention(conv_norm(out, f'{block}.conv3', f'{block}.bn3'), block)
            if i == 0:
                x = conv_norm(x, f'{block}.downsample.0', f'{block}.downsample.1', stride=stride)
            x = F.relu(x + out)
    return x


@pytest.mark.parametrize('house', ATTENTION)
def test_a_converted_network_computes_what_theirs_computes(house, tmp_path):
    weights = weights_elsewhere(house)
    torch.save(dict(state_dict=weights), tmp_path / 'theirs.pth')
    (tmp_path / 'config.py').write_text(
        f"default_scope = 'mmdet'\nmodel = dict(backbone=dict(type='SEResNet', **{NARROW}))"
    )
    report = convert_file(tmp_path / 'theirs.pth', tmp_path / 'ours.pth', str(tmp_path / 'config.py'))
    assert 'fc.weight' in report.split('dropped')[1]
    net = SEResNet(**NARROW, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'ours.pth')))
    net.init_weights()
    x = torch.randn(2, 3, 64, 48)
    expected = features_elsewhere(x, weights, house)
    got = net.eval()(x)[-1]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize('house', ATTENTION)
def test_their_weights_are_not_taken_for_ours_unconverted(house, tmp_path):
    weights = {name.removeprefix('backbone.'): value for name, value in weights_elsewhere(house).items()}
    torch.save(weights, tmp_path / 'a.pth')
    net = SEResNet(**NARROW, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth')))
    with pytest.raises(
        WrongWeights, match='convert the official names with tools/convert_official_weights.py'
    ) as error:
        net.init_weights()
    assert error.value.code == 'official-names'


def test_a_converted_classifier_is_known_by_its_weights():
    shapes = {
        name: torch.empty(tensor.shape, device='meta') for name, tensor in weights_elsewhere('mmpretrain').items()
    }
    assert infer_backbone(convert_official_state_dict(shapes)) == dict(
        type='SEResNet',
        depth=50,
        act_cfg=dict(type='ReLU'),
        se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0, bias=True),
    )


@pytest.mark.parametrize(
    'change, code',
    [
        ({'layer1.0.se.fc1.weight': torch.zeros(9, 16, 1, 1)}, 'other-model'),  # rounded to another width
        ({'layer1.0.se.bn.weight': torch.zeros(8)}, 'other-model'),  # a norm within the attention
        ({'conv1.0.weight': torch.zeros(4, 3, 3, 3)}, 'other-model'),  # a stem of three convolutions
    ],
)
def test_other_kinds_of_their_networks_are_refused(change, code, tmp_path):
    torch.save({**weights_elsewhere('timm'), **change}, tmp_path / 'a.pth')
    (tmp_path / 'config.py').write_text(
        f"default_scope = 'mmdet'\nmodel = dict(backbone=dict(type='SEResNet', **{NARROW}))"
    )
    with pytest.raises(WrongWeights) as refused:
        convert_file(tmp_path / 'a.pth', tmp_path / 'b.pth', str(tmp_path / 'config.py'))
    assert refused.value.code == code and not (tmp_path / 'b.pth').exists()


def test_a_network_of_another_design_is_refused(tmp_path):
    torch.save(
        {'layer0.conv1.weight': torch.zeros(4, 3, 7, 7), 'layer1.0.se_module.fc1.weight': torch.zeros(1, 4, 1, 1)},
        tmp_path / 'a.pth',
    )
    with pytest.raises(NotConvertible) as refused:
        convert_file(tmp_path / 'a.pth', tmp_path / 'b.pth')
    assert refused.value.code == 'unknown-backbone'
