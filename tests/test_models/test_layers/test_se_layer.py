import pytest
import torch
from torch import nn

from apa_mmdet.models.activations import APA
from apa_mmdet.models.layers import CBAM, SELayer, build_attention

BASELINE = dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0)


def by_hand(layer, x, gate):
    """The formula with explicit sums."""
    z = x.flatten(2).sum(2) / x[0, 0].numel()
    if isinstance(layer.norm, nn.LayerNorm):
        z = (z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        z = z * layer.norm.weight + layer.norm.bias
    hidden = (z @ layer.fc1.weight.T).clamp(min=0)
    return x * gate(hidden @ layer.fc2.weight.T)[..., None, None]


def test_matches_the_formula():
    x = torch.randn(3, 32, 5, 7, dtype=torch.float64, requires_grad=True)
    layer = SELayer(32).double().eval()
    nn.init.normal_(layer.norm.weight)
    lambda_, kappa = layer.gate.lambda_, layer.gate.kappa
    want = by_hand(layer, x, lambda e: (lambda_ * torch.exp(-kappa * e) + 1) ** (-1 / lambda_))
    torch.testing.assert_close(layer(x), want, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(want)
    leaves = (x, *layer.parameters())
    for got, expected in zip(*(torch.autograd.grad((o * weights).sum(), leaves) for o in (layer(x), want))):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


def test_classic_options_match_the_classic_layer():
    x = torch.randn(2, 32, 4, 4)
    layer = SELayer(32, **BASELINE)
    assert not [name for name, _ in layer.named_parameters() if 'norm' in name or 'gate' in name]
    torch.testing.assert_close(layer.train()(x), by_hand(layer, x, torch.sigmoid))


def test_slots_build_their_modules():
    layer = SELayer(
        8, ratio=16, act_cfg=dict(type='AGLU', num_features=None), gate_cfg=dict(type='APA', num_features=None)
    )
    assert layer.fc1.out_features == 1 and layer.act.num_features == 1 and layer.gate.num_features == 8
    assert isinstance(layer.gate, APA)


def test_dropout_acts_only_in_training():
    x = torch.randn(2, 32, 4, 4)
    layer = SELayer(32, dropout=0.5)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize('shape', [(0, 32, 4, 4), (1, 32, 1, 1)])
def test_empty_batch_and_smallest_map(shape):
    assert SELayer(32)(torch.randn(shape)).shape == shape


def test_build_attention_builds_a_new_layer_from_a_config():
    assert build_attention({}, 32).fc1.weight.shape == (2, 32)
    cfg = dict(type='CBAM', ratio=8)
    layer = build_attention(cfg, 32)
    assert isinstance(layer, CBAM) and layer.fc1.weight.shape == (4, 32)
    assert layer is not build_attention(cfg, 32) and cfg == dict(type='CBAM', ratio=8)
    assert isinstance(build_attention(dict(type=SELayer), 32), SELayer)
