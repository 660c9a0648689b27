import copy

import pytest
import torch
from torch.nn import functional as F

from apa_mmdet.models.activations import APA
from apa_mmdet.models.backbones import SEResNet
from apa_mmdet.models.layers import CBAM

PLAIN = dict(norm_cfg=None, bias=False, spatial_norm_cfg=None)
CLASSIC = dict(**PLAIN, gate_cfg=dict(type='Sigmoid'))


def by_hand(layer, x, channel_gate, spatial_gate):
    """The paper's equations 1 to 3 with pooling layers and 1x1 convolutions, with norms and biases where there are any."""

    def mlp(pooled):
        if isinstance(layer.norm, torch.nn.LayerNorm):
            pooled = F.layer_norm(pooled.flatten(1), (x.shape[1],), layer.norm.weight, layer.norm.bias, layer.norm.eps)
        hidden = F.conv2d(pooled.view(*x.shape[:2], 1, 1), layer.fc1.weight[..., None, None], layer.fc1.bias).clamp(
            min=0
        )
        return F.conv2d(hidden, layer.fc2.weight[..., None, None], layer.fc2.bias)

    x = x * channel_gate(mlp(F.adaptive_avg_pool2d(x, 1)) + mlp(F.adaptive_max_pool2d(x, 1)))
    pooled = torch.stack((x.amax(1), x.sum(1) / x.shape[1]), 1)
    out = F.conv2d(pooled, layer.conv.weight, padding=layer.conv.kernel_size[0] // 2)
    norm = layer.spatial_norm
    if isinstance(norm, torch.nn.BatchNorm2d):
        statistics = (None, None) if norm.training else (norm.running_mean, norm.running_var)
        out = F.batch_norm(out, *statistics, norm.weight, norm.bias, norm.training, 0.0, norm.eps)
    return x * spatial_gate(out)


def apa(gate):
    lambda_, kappa = gate.lambda_.view(-1, 1, 1), gate.kappa.view(-1, 1, 1)
    return lambda z: (lambda_ * torch.exp(-kappa * z) + 1) ** (-1 / lambda_)


@pytest.mark.parametrize(
    'kwargs',
    [{}, PLAIN, CLASSIC, dict(gate_cfg=dict(type='APA', num_features=None)), dict(ratio=4, kernel_size=3)],
    ids=str,
)
def test_matches_the_equations(kwargs):
    layer = CBAM(32, **kwargs).double()
    x = torch.randn(3, 32, 5, 9, dtype=torch.float64, requires_grad=True)
    gates = [apa(gate) if isinstance(gate, APA) else torch.sigmoid for gate in (layer.channel_gate, layer.spatial_gate)]
    got, want = layer(x), by_hand(layer, x, *gates)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    weights, leaves = torch.randn_like(want), (x, *layer.parameters())
    for a, b in zip(*(torch.autograd.grad((out * weights).sum(), leaves) for out in (got, want))):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize('kwargs', [{}, CLASSIC], ids=str)
def test_gradcheck(kwargs):
    layer = CBAM(4, ratio=2, kernel_size=3, **kwargs).double().eval()
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *parameters: torch.func.functional_call(layer, dict(zip(names, parameters)), x),
        (x, *layer.parameters()),
    )


def test_slots_build_their_modules():
    layer = CBAM(
        8, ratio=16, act_cfg=dict(type='AGLU', num_features=None), gate_cfg=dict(type='APA', num_features=None)
    )
    assert layer.fc1.out_features == layer.act.num_features == 1
    assert (layer.channel_gate.num_features, layer.spatial_gate.num_features) == (8, 1)
    layer = CBAM(8)
    assert layer.channel_gate is not layer.spatial_gate and layer.channel_gate.num_features == 1
    assert not [name for name, _ in CBAM(8, **CLASSIC).named_parameters() if 'gate' in name or 'bias' in name]


@pytest.mark.parametrize('shape', [(0, 32, 4, 4), (1, 32, 1, 1), (2, 32, 2, 9)])
def test_empty_batches_and_small_maps(shape):
    layer, x = CBAM(32).eval(), torch.randn(shape, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert out.shape == x.grad.shape == shape
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize('kwargs', [{}, CLASSIC], ids=str)
def test_half_precision_is_close_to_float64(kwargs):
    layer, x = CBAM(32, **kwargs).eval(), torch.randn(2, 32, 6, 6).bfloat16().requires_grad_()
    want = copy.deepcopy(layer).double()(x.double())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = layer(x)
    mixed.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters())
    for out in (mixed, layer.bfloat16()(x)):
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.double(), want, rtol=0.05, atol=0.05)


def test_memory_format_and_device_are_kept():
    x = torch.randn(2, 32, 5, 7).to(memory_format=torch.channels_last)
    assert CBAM(32)(x).is_contiguous(memory_format=torch.channels_last)
    layer = CBAM(32).to('meta')
    assert layer(x.to('meta')).device.type == 'meta'


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match='CBAM: kernel_size must be odd, so that every position gets a gate; got 4'):
        CBAM(8, kernel_size=4)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('kwargs', [dict(norm_eval=False), dict(recompute_act=True), dict(with_cp=True)], ids=str)
def test_residual_block_matches_the_equations(kwargs, training):
    """The block adds in place to the result of the attention, which therefore must not need it in backward."""
    net = SEResNet(18, se_cfg=dict(type='CBAM'), base_channels=16, **kwargs).double().train(training)
    block, x = net.layer2[1], torch.randn(2, 32, 6, 5, dtype=torch.float64, requires_grad=True)
    want = block.norm2(block.conv2(block.act_conv1(block.norm1(block.conv1(x)))))
    want = block.act_out(by_hand(block.se, want, apa(block.se.channel_gate), apa(block.se.spatial_gate)) + x)
    got = block(x)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    for a, b in zip(*(torch.autograd.grad(out.square().sum(), (x, *block.parameters())) for out in (got, want))):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
