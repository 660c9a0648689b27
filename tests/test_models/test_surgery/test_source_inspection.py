from torch import nn
from torch.nn import functional as F
from torch.nn.functional import relu6

from apa_mmdet.models.surgery.source_inspection import count_uses, functional_calls


class Head(nn.Module):
    def __init__(self, flag=False):
        super().__init__()
        self.relu, self.silu, self.unused = nn.ReLU(), nn.SiLU(), nn.ReLU()
        self.flag = flag

    def forward(self, x):
        x = self.relu(x)
        if self.flag:
            x = F.gelu(x)
        return [self.silu(part) for part in x]

    def loss(self, x):
        return F.leaky_relu_(x) + x.tanh()


class Child(Head):
    def forward(self, x):
        return self.unused(x)


class Grandchild(Child):
    def forward(self, x):
        return self.unused(super().forward(x))


def test_functional_calls_are_found_in_reachable_methods():
    assert functional_calls([Head()], 'ReLU') == ([], []), 'self.relu is a module'
    assert functional_calls([Head()], 'LeakyReLU') == (['Head.loss'], [])
    assert functional_calls([Head(), Head(), Grandchild()], 'Tanh') == (['Head.loss'], [])
    assert functional_calls([Head()], 'GELU') == ([], []), 'its flag is off'
    assert functional_calls([Head(flag=True)], 'GELU') == (['Head.forward'], [])
    assert functional_calls([Child(flag=True)], 'GELU') == ([], []), 'forward is overridden'


class Stored(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.block, self.blocks = F.relu, nn.ModuleDict(dict(gelu=nn.GELU())), nn.ModuleList()

    def helper(self, x):
        return self.act(relu6(x))

    def forward(self, x):
        return self.block.gelu(self.blocks[0].gelu(F.silu(x))) + self.block(x).tanh()


def test_functions_are_found_under_other_names_but_children_are_not():
    assert functional_calls([Stored()], 'ReLU') == (['Stored.__init__'], []), 'stored to be called later'
    assert functional_calls([Stored()], 'ReLU6') == (['Stored.helper'], []), 'imported by its name'
    assert functional_calls([Stored()], 'GELU') == ([], []), "a child's module"
    assert functional_calls([Stored()], 'Swish') == (['Stored.forward'], []), 'torch calls it silu'
    assert functional_calls([Stored()], 'Tanh') == (['Stored.forward'], [])


def test_uses_of_an_activation_are_counted_up_to_two():
    assert [count_uses(Head(), name) for name in ('relu', 'silu', 'unused')] == [1, 2, 0], (
        'a loop counts as more than one'
    )
    assert count_uses(Stored(), 'act') == 2, 'a helper may be called any number of times'
    assert [count_uses(Child(), name) for name in ('relu', 'unused')] == [0, 1]
    assert count_uses(Grandchild(), 'unused') == 2


def test_missing_source_code_is_reported_as_unknown():
    made = type('Made', (nn.Module,), dict(__module__='nowhere'))()
    assert functional_calls([made], 'ReLU') == ([], ['Made']) and count_uses(made, 'relu') is None
    assert functional_calls([nn.ReLU()], 'ReLU') == ([], []), 'torch is not inspected'
