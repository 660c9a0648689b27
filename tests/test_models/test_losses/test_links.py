"""The links against naive formulas in float64, in value and slope, over the whole range of logits."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from apa_mmdet.models.losses import LINKS, APALink, build_link
from apa_mmdet.ops.apa import LAMBDA_FLOOR

RECIPES = [
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
        recipe = link if isinstance(link, dict) else dict(lambda_init=1, kappa_init=1)
        lambda_, kappa = np.longdouble(recipe['lambda_init']), np.longdouble(recipe['kappa_init'])
        y = np.log1p(lambda_ * np.exp(-kappa * x)) / lambda_
    return y, -np.log(-np.expm1(-y))


def slope(link, x, which, h=1e-5):
    """Central difference of the naive formula."""
    ahead, behind = (naive(link, x.double() + step)[which] for step in (h, -h))
    return torch.from_numpy(((ahead - behind) / (2 * h)).astype(np.float64))


@pytest.mark.parametrize('recipe', RECIPES, ids=str)
@pytest.mark.parametrize('which, name', [(0, 'neg_log'), (1, 'neg_log_complement')])
def test_value_and_slope(recipe, which, name):
    link = build_link(recipe)
    x = torch.linspace(-9.9, 9.9, 397, requires_grad=True)
    got = getattr(link, name)(x)
    assert got.dtype == torch.float32
    # 1 − p is within rounding of 1 for small p: an absolute 1e-7 there, relative elsewhere
    np.testing.assert_allclose(
        got.detach().numpy(), naive(recipe, x.detach())[which].astype(float), rtol=2e-5, atol=2e-7
    )
    (grad,) = torch.autograd.grad(got.sum(), x)
    torch.testing.assert_close(grad.double(), slope(recipe, x.detach(), which), rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize('recipe', RECIPES, ids=str)
def test_p_agrees_with_its_logarithms(recipe):
    link, x = build_link(recipe), torch.linspace(-4, 4, 33)
    p = link(x).detach().double()
    np.testing.assert_allclose(p.numpy(), np.exp(-naive(recipe, x)[0]).astype(float), rtol=1e-5)
    torch.testing.assert_close(-p.log(), link.neg_log(x).detach().double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(-torch.log1p(-p), link.neg_log_complement(x).detach().double(), rtol=1e-5, atol=1e-6)


def test_apa_contains_the_others():
    x = torch.linspace(-6, 6, 25)
    for recipe, other in [('apa', 'sigmoid'), (dict(type='apa', lambda_init=LAMBDA_FLOOR), 'gumbel')]:
        a, b = build_link(recipe), build_link(other)
        torch.testing.assert_close(a(x).detach(), b(x), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(a.neg_log_complement(x).detach(), b.neg_log_complement(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('recipe', RECIPES, ids=str)
@pytest.mark.parametrize('name', ['neg_log', 'neg_log_complement'])
def test_gradcheck(recipe, name):
    link = build_link(recipe).double()
    x = torch.linspace(-9, 9, 24, dtype=torch.float64).view(4, 6).requires_grad_()
    assert gradcheck(lambda x, *_: getattr(link, name)(x), (x, *link.parameters()))


def test_gradcheck_of_apa_where_p_rounds_to_one():
    link = build_link(dict(type='apa', lambda_init=0.5, kappa_init=6.0)).double()
    x = torch.tensor([5.5, 5.9, 6.2, 7.0, 9.0], dtype=torch.float64, requires_grad=True)  # κx = 36 is the switch
    assert gradcheck(lambda x, *_: link.neg_log_complement(x), (x, *link.parameters()))


@pytest.mark.parametrize('lambda_', [LAMBDA_FLOOR, 0.1, 1.0, 50.0])
@pytest.mark.parametrize('kappa', [-10.0, -1.0, 0.0, 1.0, 10.0])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_apa_stays_finite(lambda_, kappa, dtype):
    link = APALink(lambda_, kappa)
    x = torch.tensor([-6e4, -100.0, -10.0, -1.0, 0.0, 1.0, 10.0, 100.0, 6e4], dtype=dtype, requires_grad=True)
    loss = link.neg_log(x) + link.neg_log_complement(x)
    loss.sum().backward()
    for tensor in (loss, link.lambda_.grad, link.kappa.grad):
        assert tensor.isfinite().all()
    # κ/λ, the steepest slope there is, does not fit float16 at the floor of λ
    fits = dtype != torch.float16 or abs(kappa) / lambda_ < 65504
    assert x.grad.isfinite().all() if fits else not x.grad.isnan().any()


def test_a_wrong_certainty_keeps_its_slope():
    link, x = APALink(1.0, 10.0), torch.tensor([9.5], requires_grad=True)
    value = link.neg_log_complement(x)
    value.backward()
    torch.testing.assert_close(value.detach(), torch.tensor([95.0]))
    torch.testing.assert_close(x.grad, torch.tensor([10.0]))
    torch.testing.assert_close(link.kappa.grad, torch.tensor([9.5]))


@pytest.mark.parametrize('recipe', ['gumbel', 'apa'])
@pytest.mark.parametrize('name', ['neg_log', 'neg_log_complement'])
def test_clamped_outside_ten_without_gradient(recipe, name):
    function = getattr(build_link(recipe), name)
    x = torch.tensor([-30.0, -10.0, 10.0, 30.0], requires_grad=True)
    value = function(x)
    value.sum().backward()
    assert value[0] == value[1] and value[2] == value[3]
    assert x.grad[0] == x.grad[3] == 0


@pytest.mark.parametrize('recipe', RECIPES[:3])
def test_scores_are_not_clamped(recipe):
    x = torch.tensor([-6e4, -12.0, -11.0, 11.0, 12.0, 6e4], requires_grad=True)
    p = build_link(recipe)(x)
    p.sum().backward()
    assert x.grad.isfinite().all()
    assert p[3] < p[4] and (recipe == 'gumbel' or p[1] < p[2]) and p[0] == 0 and p[5] == 1


def test_sigmoid_is_not_clamped():
    x = torch.tensor([-30.0, 30.0], requires_grad=True)
    value = build_link('sigmoid').neg_log(x)
    value.sum().backward()
    assert value[0] == 30 and x.grad[0] == -1


@pytest.mark.parametrize('recipe', RECIPES, ids=str)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precisions_are_computed_in_float32(recipe, dtype):
    link = build_link(recipe)
    half = torch.linspace(-9, 9, 50).to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    for name in ('forward', 'neg_log', 'neg_log_complement'):
        a, b = getattr(link, name)(half), getattr(link, name)(full)
        assert a.dtype == torch.float32 and torch.equal(a, b)
        (grad,) = torch.autograd.grad(a.sum(), half)
        assert grad.dtype == dtype
        torch.testing.assert_close(grad, torch.autograd.grad(b.sum(), full)[0].to(dtype))


@pytest.mark.parametrize('recipe', RECIPES, ids=str)
def test_empty(recipe):
    x = torch.zeros(0, 3, requires_grad=True)
    value = build_link(recipe).neg_log_complement(x)
    value.sum().backward()
    assert value.shape == x.grad.shape == (0, 3)


def test_build_link():
    link = build_link(dict(type='apa', lambda_init=0.5, kappa_init=1.25))
    assert (link.lambda_.item(), link.kappa.item()) == (0.5, 1.25)
    assert link.lambda_.shape == link.kappa.shape == (1,)
    assert not list(build_link('sigmoid').parameters()) + list(build_link('gumbel').parameters())
    assert all(type(build_link(name)) is kind for name, kind in LINKS.items())


@pytest.mark.parametrize('link', ['probit', dict(type='probit'), dict(), None, 3, dict(type=['apa'])], ids=str)
def test_unknown_link(link):
    with pytest.raises(ValueError, match='known links are apa, gumbel, sigmoid'):
        build_link(link)


def test_lambda_below_its_floor():
    with pytest.raises(ValueError, match='at least 0.0001'):
        APALink(lambda_init=0.0)
