"""The classifier by angle against the recorded figures, the density it is named after, and autograd."""

import math

import numpy as np
import pytest
import torch
from helpers.memory import memory_of, saved_bytes
from helpers.recordings import image, load, value
from helpers.torch_features import compiles_in_one_graph
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from torch.autograd import gradcheck

from apa_mmdet.models.layers import WrappedCauchyLinear
from apa_mmdet.ops.wrapped_cauchy import WrappedCauchyLogit

OFFICIAL_NAMES = {'scale': 's_'}  # ours: theirs


def logit(c, g, scale, u=None, b=None):
    u = torch.ones_like(g) if u is None else u
    return WrappedCauchyLogit.apply(c, u, torch.zeros_like(g) if b is None else b, g, scale)


def by_autograd(c, g, scale):
    gamma = g.sigmoid()
    return scale / (2 * math.pi) * (1 - gamma**2) / (1 + gamma**2 - 2 * gamma * c)


@pytest.mark.parametrize(
    'name, options', [('wc_linear_fixed', {}), ('wc_linear_trainable', dict(scale=50.0, learn_scale=True))]
)
def test_outputs_and_gradients_match_the_recorded_figures(name, options):
    recorded = {key.split('/')[1]: array for key, array in load('predictors.npz').items() if key.startswith(name)}
    linear = WrappedCauchyLinear(16, 9, **options)
    for key, parameter in linear.named_parameters():
        official = OFFICIAL_NAMES.get(key, key)
        parameter.data = torch.from_numpy(np.asarray(value(official, parameter.shape)))
    x = torch.from_numpy(image((6, 16), 1)).requires_grad_()
    out = linear(x)
    weights = np.random.default_rng([78, 0]).normal(0, 1, out.shape).astype(np.float32)
    (out * torch.from_numpy(weights)).sum().backward()
    got = dict(out=out.detach(), grad_input=x.grad)
    got.update({f'grad_{OFFICIAL_NAMES.get(key, key)}': p.grad for key, p in linear.named_parameters()})
    assert set(got) == set(recorded)
    for key, tensor in got.items():
        # the recorded code has 3.14 for π; the rest is rounding
        np.testing.assert_allclose(tensor.numpy(), recorded[key] * 3.14 / math.pi, rtol=5e-5, atol=5e-5, err_msg=key)


def test_logit_is_the_density_of_the_wrapped_cauchy_distribution():
    linear = WrappedCauchyLinear(2, 3, bias=False, scale=1.0, eps=0.0).double()
    linear.g.data = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    angles = torch.linspace(-math.pi, math.pi, 20001, dtype=torch.float64)[:-1]
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, 0.0]]))
        density = linear(torch.stack([angles.cos(), angles.sin()], 1))
    torch.testing.assert_close(density.mean(0) * 2 * math.pi, torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)
    # its first trigonometric moment is γ
    torch.testing.assert_close(
        (density * angles.cos()[:, None]).mean(0) * 2 * math.pi, linear.g.sigmoid(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize('highest', [0.85, 1.4])
def test_gradcheck_below_and_above_a_cosine_of_1(highest):
    """Within [−1, 1], and with some cosines that the bias has pushed above 1."""
    c = torch.linspace(-1.2, highest, 20, dtype=torch.float64).view(4, 5)
    c, g = c.requires_grad_(), torch.linspace(-2, 2.5, 5, dtype=torch.float64).requires_grad_()
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    u, b = (torch.linspace(*ends, 5, dtype=torch.float64).requires_grad_() for ends in ((0.9, 1.1), (-0.05, 0.02)))
    assert gradcheck(WrappedCauchyLogit.apply, (c, u, b, g, scale))
    if highest < 1:
        torch.testing.assert_close(logit(c, g, scale, u, b), by_autograd(c * u + b, g, scale))


def test_logit_follows_its_tangent_above_a_cosine_of_1():
    g = torch.ones(1, dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(300.0, dtype=torch.float64)
    at_one = by_autograd(one, g, scale)
    (slope,) = torch.autograd.grad(at_one, one)
    for step in (0.02, 0.05, 1.0):  # the pole lies at 1.05
        torch.testing.assert_close(logit(1 + step * torch.ones_like(one), g, scale), at_one + step * slope)


@compiles_in_one_graph
def test_two_calls_in_a_graph_compile_with_dynamic_shapes():
    linears = torch.nn.Sequential(WrappedCauchyLinear(6, 6, scale=2.0), WrappedCauchyLinear(6, 3))
    x = torch.randn(5, 6, requires_grad=True)
    torch._dynamo.reset()
    got = torch.compile(linears, backend='aot_eager', fullgraph=True, dynamic=True)(x)
    torch.testing.assert_close(got, linears(x))
    got.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize('g', [-100.0, -15.0, 15.0, 100.0])
def test_extreme_concentrations_are_finite(g):
    linear = WrappedCauchyLinear(4, 3)
    linear.g.data.fill_(g)
    x = torch.cat([linear.weight.detach(), -linear.weight.detach(), torch.zeros(1, 4)]).requires_grad_()
    out = linear(x)
    out.sum().backward()
    assert out.isfinite().all() and all(t.grad.isfinite().all() for t in (x, *linear.parameters()))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    linear, x = WrappedCauchyLinear(16, 9), torch.randn(6, 16).to(dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        under_autocast = linear(x)
    assert torch.equal(under_autocast, linear(x.float()))
    assert linear(x).dtype == torch.float32
    assert linear(x[:0]).shape == (0, 9)


def test_memory_of_13204_classes_is_two_tensors_of_the_logits():
    """Training must fit: one tensor of the logits' size is kept, and never more than two are made."""
    c, g = torch.rand(256, 13205).requires_grad_(), torch.ones(13205).requires_grad_()
    size, scale, grad = c.nbytes, torch.tensor(300.0), torch.rand(256, 13205)

    def step():
        logit(c, g, scale).backward(grad)

    assert memory_of(lambda: logit(c, g, scale), c.device).peak <= 2.1 * size
    assert memory_of(step, c.device).peak <= (1 + 2.1) * size  # the logits themselves, and two
    assert saved_bytes(lambda: logit(c, g, scale), (g, scale)) <= 1.01 * size


def test_it_serves_as_classifier_of_a_box_head():
    with DefaultScope.overwrite_default_scope('mmdet'):
        head = MODELS.build(
            dict(
                type='Shared2FCBBoxHead',
                in_channels=4,
                fc_out_channels=8,
                roi_feat_size=3,
                num_classes=5,
                cls_predictor_cfg=dict(type='WrappedCauchyLinear', scale=50.0, learn_scale=True),
            )
        )
    head.init_weights()
    assert type(head.fc_cls) is WrappedCauchyLinear and (head.fc_cls.g == 1).all() and head.fc_cls.scale == 50
    assert head.fc_cls.weight.std() < 0.02 and (head.fc_cls.bias == 0).all()
    scores, _ = head(torch.randn(2, 4, 3, 3))
    assert scores.shape == (2, 6)
    assert {'fc_cls.weight', 'fc_cls.bias', 'fc_cls.g', 'fc_cls.scale'} <= set(head.state_dict())
    assert 'scale' not in WrappedCauchyLinear(2, 2).state_dict() and 'scale=300' in repr(WrappedCauchyLinear(2, 2))


def test_shapes_are_known_without_data():
    out = WrappedCauchyLinear(7, 5).to('meta')(torch.empty(3, 7, dtype=torch.bfloat16, device='meta'))
    assert (out.device.type, out.shape, out.dtype) == ('meta', (3, 5), torch.float32)
