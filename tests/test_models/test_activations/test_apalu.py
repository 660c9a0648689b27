import pytest
import torch

from apa_mmdet.models.activations import APALU


def test_is_the_formula_of_its_parameters():
    act = APALU(5).double()
    for parameter in act.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    a, b = ((1 + raw.exp()).log()[:, None] for raw in (act.raw_a, act.raw_b))
    want = torch.where(x < 0, b * (x.exp() - 1), a * x * (1 + torch.sigmoid(1.702 * x)))
    torch.testing.assert_close(act(x), want)


@pytest.mark.parametrize('a, b', [(0.5, 0.75), (1e-3, 30.0), (90.0, 1e-6)])
def test_a_and_b_start_at_the_given_values(a, b):
    act = APALU(3, a, b)
    torch.testing.assert_close(act.a, torch.full((3,), a))
    torch.testing.assert_close(act.b, torch.full((3,), b))


def test_initially_has_no_kink_and_is_the_identity_far_out():
    act, x = APALU(1), torch.tensor([-1e-6, 1e-6, 100.0], requires_grad=True)
    (slope,) = torch.autograd.grad(act(x).sum(), x)
    assert slope.tolist() == pytest.approx([0.75, 0.75, 1.0], abs=1e-5)
    assert act(x)[2].item() == pytest.approx(100)


def test_a_and_b_stay_positive_under_a_large_learning_rate():
    act = APALU(2)
    optimizer = torch.optim.SGD(act.parameters(), lr=10.0)
    for _ in range(5):
        optimizer.zero_grad()
        (act.a.sum() + act.b.sum()).backward()
        optimizer.step()
    assert (act.a > 0).all() and (act.b > 0).all() and (act.a < 0.01).all()


@pytest.mark.parametrize('dtype, raw', [(torch.float32, -200.0), (torch.float16, -20.0), (torch.float64, -1e5)])
def test_a_and_b_do_not_fall_to_0_in_finite_precision(dtype, raw):
    act = APALU(2).to(dtype)
    for parameter in act.parameters():
        torch.nn.init.constant_(parameter, raw)
    assert (act.a > 0).all() and (act.b > 0).all()


@pytest.mark.parametrize(
    'arguments, line',
    [
        (dict(num_features=0), 'APALU: num_features must be at least 1, got 0'),
        (dict(num_features=None), 'takes the channel count of its slot'),
        (dict(num_features=2, a_init=0.0), 'APALU: a_init must be positive and finite, got 0.0'),
        (dict(num_features=2, b_init=float('nan')), 'APALU: b_init must be positive and finite, got nan'),
    ],
)
def test_bad_arguments_are_refused(arguments, line):
    with pytest.raises(ValueError, match=line):
        APALU(**arguments)


def test_an_input_with_other_channels_is_refused():
    with pytest.raises(ValueError, match=r'a has shape \(4,\), but an input of shape \(1, 6, 2, 2\) has 6 channels'):
        APALU(4)(torch.zeros(1, 6, 2, 2))
