"""Recomputing activations in the backward pass."""

import gc
import weakref

import pytest
import torch
from helpers.memory import memory_of, saved_bytes
from torch import nn

from apa_mmdet import ops


class Chain(nn.Module):
    """Convolutions and activations, with residuals or without."""

    def __init__(self, length, recompute, residual=True):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(length))
        self.lambda_, self.kappa = nn.Parameter(torch.tensor([0.4])), nn.Parameter(torch.tensor([1.2]))
        self.recompute, self.residual = recompute, residual

    def forward(self, x):
        x = ops.aglu(self.convs[0](x), self.lambda_, self.kappa, recompute=self.recompute)
        for conv in self.convs[1:]:
            residual = x if self.residual else None
            x = ops.aglu(
                ops.call_with_recomputation(conv, x),
                self.lambda_,
                self.kappa,
                residual=residual,
                recompute=self.recompute,
            )
        return x


def gradients(net, x):
    out = net(x)
    return out, *torch.autograd.grad(out.square().sum(), (x, *net.parameters()))


def test_gradients_are_bitwise_equal_with_recomputation():
    plain, recomputed = Chain(5, False), Chain(5, True)
    recomputed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 9, 9, requires_grad=True)
    assert all(torch.equal(a, b) for a, b in zip(gradients(plain, x), gradients(recomputed, x)))


@pytest.mark.parametrize('residual', [False, True])
def test_only_the_results_of_convolutions_are_kept(residual):
    x = torch.randn(2, 4, 9, 9, requires_grad=True)

    def kept(recompute):
        net = Chain(5, recompute, residual)
        return saved_bytes(lambda: net(x), net.parameters()) // (4 * x.numel())

    assert kept(False) == 5 + 4 + 1  # results of convolutions, of the activations that convolutions take, x
    assert kept(True) == 5 + 1


@pytest.mark.parametrize('recompute', [False, True])
def test_memory_held_is_that_of_the_saved_tensors(recompute):
    x, net = torch.randn(2, 4, 64, 64, requires_grad=True), Chain(8, recompute)
    counted = saved_bytes(lambda: net(x), net.parameters(), with_results=True) - 4 * x.numel()
    assert memory_of(lambda: net(x), torch.device('cpu')).held == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize('residual', [False, True])
def test_every_activation_is_recomputed_once_and_released(residual, monkeypatch):
    net, results = Chain(6, True, residual), []
    out = net(torch.randn(1, 4, 5, 5))
    again = ops.recompute.Recomputation.__call__

    def counted(recomputation):
        fresh = recomputation.result is None
        result = again(recomputation)
        if fresh:
            results.append(weakref.ref(result))
        return result

    monkeypatch.setattr(ops.recompute.Recomputation, '__call__', counted)
    out.sum().backward()
    assert len(results) == 5  # nobody needs the last
    del out  # it could be asked for, with all that it is made of
    gc.collect()
    assert not any(result() is not None for result in results), 'kept longer than needed'


@pytest.mark.parametrize(
    'change',
    [
        lambda conv: lambda x: conv(x.mul_(3)),
        lambda conv: nn.Sequential(nn.ReLU(inplace=True), conv),
        lambda conv: lambda x: conv(x.transpose(2, 3)),
        lambda conv: lambda x: conv(x.flip(3)),
    ],
    ids=['product', 'relu', 'transposed', 'flipped'],
)
def test_a_module_that_changes_its_input_gets_right_gradients(change):
    conv, results = nn.Conv2d(4, 4, 3), []
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    for recompute in (False, True):
        y = ops.aglu(x * 1, torch.tensor([0.4]), torch.tensor([1.2]), recompute=recompute)
        out = ops.call_with_recomputation(change(conv), y)
        results.append(torch.autograd.grad(out.square().sum(), (x, *conv.parameters())))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_a_weight_changed_before_the_backward_is_reported():
    conv, x = nn.Conv2d(4, 4, 3), torch.randn(1, 4, 6, 6, requires_grad=True)
    out = ops.call_with_recomputation(conv, ops.aglu(x, torch.tensor([0.4]), torch.tensor([1.2]), recompute=True))
    with torch.no_grad():
        conv.weight.mul_(2)
    with pytest.raises(
        RuntimeError, match=r'modified by an inplace operation: a tensor of shape \(4, 4, 3, 3\) that Conv2d'
    ):
        out.sum().backward()


def test_a_module_that_keeps_its_own_result_does_not_leak():
    conv = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Sigmoid())
    out = ops.call_with_recomputation(
        conv,
        ops.aglu(torch.randn(1, 4, 6, 6, requires_grad=True), torch.tensor([0.4]), torch.tensor([1.2]), recompute=True),
    )
    result = weakref.ref(out)
    del out
    gc.collect()
    assert result() is None


def test_a_result_with_a_recomputation_can_be_saved(tmp_path):
    out = ops.aglu(torch.randn(3, requires_grad=True), torch.ones(1), torch.ones(1), recompute=True)
    torch.save(out.detach(), tmp_path / 'detached.pt')
    torch.save(dict(feature=out), tmp_path / 'out.pt')
    assert torch.equal(torch.load(tmp_path / 'out.pt', weights_only=False)['feature'], out)


def test_a_second_backward_through_the_same_graph_gives_the_same_gradients():
    net = Chain(4, True)
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    out = net(x).sum()
    (first,) = torch.autograd.grad(out, x, retain_graph=True)
    (second,) = torch.autograd.grad(out, x)
    assert torch.equal(first, second)


def test_nothing_is_attached_without_a_backward():
    net = Chain(2, True)
    with torch.no_grad():
        assert not hasattr(net(torch.randn(1, 4, 5, 5)), '_apa_recomputation')
    assert not hasattr(ops.aglu(torch.randn(3), torch.ones(1), torch.ones(1), recompute=True), '_apa_recomputation')


def test_a_tensor_without_a_recomputation_is_kept_itself():
    conv, x = nn.Conv2d(4, 4, 3), torch.randn(1, 4, 5, 5)
    assert torch.equal(ops.call_with_recomputation(conv, x), conv(x))


def test_under_autocast_the_half_precision_copy_is_kept():
    conv, results = nn.Conv2d(4, 4, 3), []
    for recompute in (False, True):
        x = torch.linspace(-2, 2, 144).view(1, 4, 6, 6).requires_grad_()
        y = ops.aglu(x, torch.tensor([0.4]), torch.tensor([1.2]), recompute=recompute)  # float32
        with torch.autocast('cpu', dtype=torch.bfloat16):
            out = ops.call_with_recomputation(conv, y)
        assert out.dtype == torch.bfloat16
        results.append(torch.autograd.grad(out.float().square().sum(), (x, *conv.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*results))
