"""Recipes in place of activations."""
import gc
import weakref

import torch
from torch import nn

from apa_mmdet import ops


class Chain(nn.Module):
    """Residual blocks in which all that has to be kept are results of convolutions."""

    def __init__(self, length, recompute):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(length))
        self.lambda_, self.kappa = nn.Parameter(torch.tensor([.4])), nn.Parameter(torch.tensor([1.2]))
        self.recompute = recompute

    def forward(self, x):
        x = ops.aglu(self.convs[0](x), self.lambda_, self.kappa, recompute=self.recompute)
        for conv in self.convs[1:]:
            x = ops.aglu(ops.keep_recipe(conv, x), self.lambda_, self.kappa, residual=x, recompute=self.recompute)
        return x


def gradients(net, x):
    out = net(x)
    return out, *torch.autograd.grad(out.square().sum(), (x, *net.parameters()))


def test_gives_the_same_bits():
    plain, lean = Chain(5, False), Chain(5, True)
    lean.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 9, 9, requires_grad=True)
    assert all(torch.equal(a, b) for a, b in zip(gradients(plain, x), gradients(lean, x)))


def kept(net, x):
    storages = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: storages.setdefault(t.data_ptr(), t), lambda t: t):
        net(x)
    own = {p.data_ptr() for p in net.parameters()}
    return sum(pointer not in own and t.dim() == 4 for pointer, t in storages.items())


def test_keeps_the_results_of_convolutions_alone():
    x = torch.randn(2, 4, 9, 9, requires_grad=True)
    assert kept(Chain(5, False), x) == 5 + 4 + 1  # results of convs, of activations that convs take, x
    assert kept(Chain(5, True), x) == 5 + 1


def test_every_activation_is_computed_again_once_and_let_go():
    net, calls, results = Chain(6, True), [], []
    x = torch.randn(1, 4, 5, 5)
    out = net(x)
    function = out._apa_recipe.function

    def counted(*args):
        calls.append(1)
        result = function(*args)
        results.append(weakref.ref(result))
        return result

    recipe = out._apa_recipe
    for _ in range(6):
        recipe.function = counted
        recipe = next((arg for arg in recipe.args if isinstance(arg, ops.recompute.Recipe)), None)
    assert recipe is None
    out.sum().backward()
    assert len(calls) == 5  # nobody needs the last
    del out
    gc.collect()
    assert not any(result() is not None for result in results)


def test_a_second_backward_through_the_same_graph():
    net = Chain(4, True)
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    out = net(x).sum()
    first, = torch.autograd.grad(out, x, retain_graph=True)
    second, = torch.autograd.grad(out, x)
    assert torch.equal(first, second)


def test_without_a_backward_nothing_is_attached():
    net = Chain(2, True)
    with torch.no_grad():
        assert not hasattr(net(torch.randn(1, 4, 5, 5)), '_apa_recipe')
    assert not hasattr(ops.aglu(torch.randn(3), torch.ones(1), torch.ones(1), recompute=True), '_apa_recipe')


def test_a_tensor_without_a_recipe_is_kept_itself():
    conv, x = nn.Conv2d(4, 4, 3), torch.randn(1, 4, 5, 5)
    assert torch.equal(ops.keep_recipe(conv, x), conv(x))


def test_autocast_keeps_its_own_copy_for_the_convolution():
    plain, lean = Chain(3, False), Chain(3, True)
    lean.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        results = [gradients(net, x) for net in (plain, lean)]
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)
