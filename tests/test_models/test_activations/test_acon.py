import numpy as np
import pytest
import torch
from helpers.recordings import image, load, value

from apa_mmdet.models.activations import AconA, AconB, AconC

LEARNED = {AconA: {'beta'}, AconB: {'p2', 'beta'}, AconC: {'p1', 'p2', 'beta'}}
every_type = pytest.mark.parametrize('cls', LEARNED)


def test_agrees_with_the_official_implementation():
    recorded, act = load('acon.npz'), AconC(32)
    act.load_state_dict({name: torch.from_numpy(value(name, (1, 32, 1, 1))) for name in ('p1', 'p2', 'beta')})
    x = torch.from_numpy(image((4, 32, 5, 7), 2)).requires_grad_()
    out = act(x)
    out.backward(torch.from_numpy(np.random.default_rng([79, 0]).normal(0, 1, out.shape).astype(np.float32)))
    got = dict(out=out.detach(), grad_input=x.grad, **{f'grad_{name}': p.grad for name, p in act.named_parameters()})
    for name, tensor in got.items():
        want = recorded[f'acon_c/{name}'].reshape(tensor.shape)
        np.testing.assert_allclose(tensor.numpy(), want, rtol=1e-6, atol=1e-6 * abs(want).max(), err_msg=name)


@every_type
def test_parameters_have_the_official_names(cls):
    shapes = {name: tuple(t.shape) for name, t in cls(5).state_dict().items()}
    assert shapes == dict.fromkeys(LEARNED[cls], (5,))


def test_official_shapes_load_within_a_model_and_others_are_refused():
    net = torch.nn.Sequential(AconC(5))
    published = {f'0.{name}': torch.randn(1, 5, 1, 1) for name in LEARNED[AconC]}
    net.load_state_dict(published)
    assert all(torch.equal(p, published[name].flatten()) for name, p in net.state_dict().items())
    with pytest.raises(RuntimeError, match='size mismatch for 0.beta'):
        net.load_state_dict(dict(published, **{'0.beta': torch.randn(1, 6, 1, 1)}))


@every_type
def test_is_the_formula_of_its_parameters(cls):
    act, x = cls(5).double(), torch.randn(3, 5, 4, 2, dtype=torch.float64)
    torch.nn.init.uniform_(act.beta)
    own = {'p1': 1.0, 'p2': 0.0, **{name: p.view(5, 1, 1) for name, p in act.named_parameters()}}
    d = own['p1'] - own['p2']
    torch.testing.assert_close(act(x), d * x * torch.sigmoid(own['beta'] * d * x) + own['p2'] * x)


def test_initial_values():
    act = AconC(20000)
    for p in (act.p1, act.p2):
        assert abs(p.mean().item()) < 0.03 and p.std().item() == pytest.approx(1, abs=0.03)
    assert not torch.equal(act.p1, act.p2) and (act.beta == 1).all()
    x = torch.randn(2, 5, 3, 3)
    torch.testing.assert_close(AconA(5)(x), torch.nn.functional.silu(x))


@every_type
def test_one_set_of_parameters_serves_any_input(cls):
    act = cls(1)
    assert act(torch.randn(7)).shape == (7,) and act(torch.randn(2, 5, 3)).shape == (2, 5, 3)


@every_type
def test_bad_channel_counts_are_refused(cls):
    with pytest.raises(ValueError, match=rf'{cls.__name__}: num_features must be at least 1, got 0'):
        cls(0)
    with pytest.raises(ValueError, match=rf'{cls.__name__}\(num_features=None\) takes the channel count of its slot'):
        cls(None)
    with pytest.raises(ValueError, match=r'has shape \(4,\), but an input of shape \(1, 6, 2, 2\) has 6 channels'):
        cls(4)(torch.zeros(1, 6, 2, 2))
