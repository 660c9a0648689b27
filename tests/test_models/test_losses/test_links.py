"""Links against naive formulas in extended precision, value and derivative, over the whole range of logits."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from apa_mmdet.models.losses import LINKS, APALink, build_link
from apa_mmdet.ops import LAMBDA_FLOOR

LINK_CFGS = [
    'sigmoid',
    'gumbel',
    'apa',
    dict(type='apa', lambda_init=0.3, kappa_init=1.7),
    dict(type='apa', lambda_init=2.5, kappa_init=-0.8),
]


def naive(link, x):
    """−log p and −log(1 − p) in 80-bit floats, straight from the definitions."""
    x = x.double().numpy().astype(np.longdouble)
    if link == 'sigmoid':
        return np.log1p(np.exp(-x)), np.log1p(np.exp(x))
    x = np.clip(x, -10, 10)
    if link == 'gumbel':
        y = np.exp(-x)
    else:
        cfg = link if isinstance(link, dict) else dict(lambda_init=1, kappa_init=1)
        lambda_, kappa = np.longdouble(cfg['lambda_init']), np.longdouble(cfg['kappa_init'])
        y = np.log1p(lambda_ * np.exp(-kappa * x)) / lambda_
    return y, -np.log(-np.expm1(-y))


def derivative(link, x, which, h=1e-5):
    """Central difference of the naive formula."""
    ahead, behind = (naive(link, x.double() + step)[which] for step in (h, -h))
    return torch.from_numpy(((ahead - behind) / (2 * h)).astype(np.float64))


@pytest.mark.parametrize('cfg', LINK_CFGS, ids=str)
@pytest.mark.parametrize('which, name', [(0, 'neg_log'), (1, 'neg_log_complement')])
def test_logarithms_and_derivatives_match_the_naive_formula(cfg, which, name):
    link = build_link(cfg)
    x = torch.linspace(-9.9, 9.9, 397, requires_grad=True)
    got = getattr(link, name)(x)
    assert got.dtype == torch.float32
    # 1 − p is within rounding of 1 for small p: an absolute 1e-7 there, relative elsewhere
    np.testing.assert_allclose(got.detach().numpy(), naive(cfg, x.detach())[which].astype(float), rtol=2e-5, atol=2e-7)
    (grad,) = torch.autograd.grad(got.sum(), x)
    torch.testing.assert_close(grad.double(), derivative(cfg, x.detach(), which), rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize('cfg', LINK_CFGS, ids=str)
def test_p_agrees_with_its_logarithms(cfg):
    link, x = build_link(cfg), torch.linspace(-4, 4, 33)
    p = link(x).detach().double()
    np.testing.assert_allclose(p.numpy(), np.exp(-naive(cfg, x)[0]).astype(float), rtol=1e-5)
    torch.testing.assert_close(-p.log(), link.neg_log(x).detach().double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(-torch.log1p(-p), link.neg_log_complement(x).detach().double(), rtol=1e-5, atol=1e-6)


def test_apa_contains_the_others():
    x = torch.linspace(-6, 6, 25)
    for cfg, other in [('apa', 'sigmoid'), (dict(type='apa', lambda_init=LAMBDA_FLOOR), 'gumbel')]:
        a, b = build_link(cfg), build_link(other)
        torch.testing.assert_close(a(x).detach(), b(x), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(a.neg_log_complement(x).detach(), b.neg_log_complement(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('cfg', LINK_CFGS, ids=str)
def test_gradcheck(cfg):
    link = build_link(cfg).double()
    x = torch.linspace(-9, 9, 24, dtype=torch.float64).view(4, 6).requires_grad_()
    for function in (link.neg_log, link.neg_log_complement):
        assert gradcheck(lambda x, *_: function(x), (x, *link.parameters()))  # noqa: B023


def test_gradcheck_of_apa_where_p_rounds_to_1():
    link = build_link(dict(type='apa', lambda_init=0.5, kappa_init=6.0)).double()
    x = torch.tensor([5.5, 5.9, 6.2, 7.0, 9.0], dtype=torch.float64, requires_grad=True)  # κx = 36 is the switch
    assert gradcheck(lambda x, *_: link.neg_log_complement(x), (x, *link.parameters()))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_apa_and_its_gradients_are_finite(dtype):
    for lambda_, kappa in product([LAMBDA_FLOOR, 0.1, 1.0, 50.0], [-10.0, -1.0, 0.0, 1.0, 10.0]):
        link = APALink(lambda_, kappa)
        x = torch.tensor([-6e4, -100.0, -10.0, -1.0, 0.0, 1.0, 10.0, 100.0, 6e4], dtype=dtype, requires_grad=True)
        loss = link.neg_log(x) + link.neg_log_complement(x)
        loss.sum().backward()
        for tensor in (loss, link.lambda_.grad, link.kappa.grad):
            assert tensor.isfinite().all(), (lambda_, kappa)
        # κ/λ, the largest derivative, exceeds float16 at the floor of λ
        fits = dtype != torch.float16 or abs(kappa) / lambda_ < 65504
        assert x.grad.isfinite().all() if fits else not x.grad.isnan().any(), (lambda_, kappa)


def test_a_confident_wrong_prediction_keeps_its_gradient():
    link, x = APALink(1.0, 10.0), torch.tensor([9.5], requires_grad=True)
    value = link.neg_log_complement(x)
    value.backward()
    torch.testing.assert_close(value.detach(), torch.tensor([95.0]))
    torch.testing.assert_close(x.grad, torch.tensor([10.0]))
    torch.testing.assert_close(link.kappa.grad, torch.tensor([9.5]))


@pytest.mark.parametrize('cfg', ['gumbel', 'apa'])
@pytest.mark.parametrize('name', ['neg_log', 'neg_log_complement'])
def test_logarithms_are_clamped_without_gradient_outside_10(cfg, name):
    function = getattr(build_link(cfg), name)
    x = torch.tensor([-30.0, -10.0, 10.0, 30.0], requires_grad=True)
    value = function(x)
    value.sum().backward()
    assert value[0] == value[1] and value[2] == value[3]
    assert x.grad[0] == x.grad[3] == 0


@pytest.mark.parametrize('cfg', LINK_CFGS[:3])
def test_scores_are_not_clamped(cfg):
    x = torch.tensor([-6e4, -12.0, -11.0, 11.0, 12.0, 6e4], requires_grad=True)
    p = build_link(cfg)(x)
    p.sum().backward()
    assert x.grad.isfinite().all()
    assert p[3] < p[4] and (cfg == 'gumbel' or p[1] < p[2]) and p[0] == 0 and p[5] == 1


def test_sigmoid_is_not_clamped():
    x = torch.tensor([-30.0, 30.0], requires_grad=True)
    value = build_link('sigmoid').neg_log(x)
    value.sum().backward()
    assert value[0] == 30 and x.grad[0] == -1


@pytest.mark.parametrize('cfg', LINK_CFGS, ids=str)
def test_half_precisions_are_computed_in_float32(cfg):
    link = build_link(cfg)
    for dtype, name in product((torch.float16, torch.bfloat16), ('forward', 'neg_log', 'neg_log_complement')):
        half = torch.linspace(-9, 9, 50).to(dtype).requires_grad_()
        full = half.detach().float().requires_grad_()
        a, b = getattr(link, name)(half), getattr(link, name)(full)
        assert a.dtype == torch.float32 and torch.equal(a, b)
        (grad,) = torch.autograd.grad(a.sum(), half)
        assert grad.dtype == dtype
        torch.testing.assert_close(grad, torch.autograd.grad(b.sum(), full)[0].to(dtype))


@pytest.mark.parametrize('cfg', LINK_CFGS, ids=str)
def test_empty_logits_have_an_empty_gradient(cfg):
    x = torch.zeros(0, 3, requires_grad=True)
    value = build_link(cfg).neg_log_complement(x)
    value.sum().backward()
    assert value.shape == x.grad.shape == (0, 3)


def test_build_link_from_a_name_or_a_config():
    link = build_link(dict(type='apa', lambda_init=0.5, kappa_init=1.25))
    assert (link.lambda_.item(), link.kappa.item()) == (0.5, 1.25)
    assert link.lambda_.shape == link.kappa.shape == (1,)
    assert not list(build_link('sigmoid').parameters()) + list(build_link('gumbel').parameters())
    assert all(type(build_link(name)) is link_type for name, link_type in LINKS.items())


@pytest.mark.parametrize('link', ['probit', dict(type='probit'), dict(), None, 3, dict(type=['apa'])], ids=str)
def test_unknown_link_is_refused(link):
    with pytest.raises(ValueError, match='known links are apa, gumbel, sigmoid'):
        build_link(link)


def test_lambda_below_its_floor_is_refused():
    with pytest.raises(ValueError, match='at least 0.0001'):
        APALink(lambda_init=0.0)
