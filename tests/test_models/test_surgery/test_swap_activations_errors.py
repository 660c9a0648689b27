"""Each error of SwapActivations is one line that says what to do, and leaves the model as it was."""

import pytest
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

from apa_mmdet.models.activations import AGLU
from apa_mmdet.models.surgery import swap_activations

TO_AGLU = dict(type='AGLU')
RESNET = dict(
    type='ResNet', depth=18, base_channels=4, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1)
)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


@pytest.mark.parametrize(
    'kwargs, line',
    [
        (dict(swap=dict(GELU=TO_AGLU)), 'no GELU in ResNet; its activations are ReLU (5)'),
        (dict(swap=dict(ReLU=TO_AGLU, Relu=TO_AGLU)), 'no Relu in ResNet'),
        (dict(swap={}), "swap must say what goes and what comes, such as swap=dict(ReLU=dict(type='AGLU')); got {}"),
        (dict(swap=None), 'got None'),
        (dict(swap=dict(ReLU='AGLU')), "must give a recipe, such as dict(type='AGLU'); got 'AGLU'"),
        (
            dict(swap=dict(ReLU=TO_AGLU), exclude='layer5.*'),
            "pattern 'layer5.*' matches none of the 9 sites in ResNet, "
            'which are relu, layer1.0.relu.0, layer1.0.relu.1 …',
        ),
        (dict(swap=dict(ReLU=TO_AGLU), exclude='*'), 'nothing to swap in ResNet: every ReLU is excluded'),
    ],
    ids=str,
)
def test_errors(kwargs, line):
    net = MODELS.build(RESNET)
    with pytest.raises(ValueError) as error:
        swap_activations(net, **kwargs)
    said = str(error.value)
    assert said.startswith('SwapActivations: ') and line in said and '\n' not in said


def test_an_unknown_recipe_is_an_error():
    with pytest.raises(KeyError, match="activation 'NoSuch' is not registered"):
        swap_activations(nn.Sequential(nn.ReLU()), dict(ReLU=dict(type='NoSuch')))


@pytest.mark.parametrize(
    'cfg, line',
    [
        (dict(), "module must be a config, such as module=dict(type='ResNet'); got None"),
        (dict(module='ResNet'), "got 'ResNet'"),
        (dict(module=dict(depth=18)), "got {'depth': 18}"),
        (dict(module=RESNET), "what comes, such as swap=dict(ReLU=dict(type='AGLU')); got None"),
        (
            dict(module=dict(type='ReLU'), swap=dict(ReLU=TO_AGLU)),
            'the module is itself a ReLU, and only what a module',
        ),
    ],
    ids=str,
)
def test_errors_of_a_config(cfg, line):
    with pytest.raises(ValueError) as error:
        MODELS.build(dict(type='SwapActivations', **cfg))
    said = str(error.value)
    assert said.startswith('SwapActivations: ') and line in said and '\n' not in said


class Untold(nn.Module):
    """Calls one activation three times, in a method that only its unknown arguments lead to."""

    def __init__(self):
        super().__init__()
        self.convs, self.relu = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3)), nn.ReLU()

    def activate(self, i, x):
        return self.relu(self.convs[i](x))

    def forward(self, x, y, z):
        return self.activate(2, self.activate(1, self.activate(0, x) + y) + z)


class NoForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

    def loss(self, x):
        return self.relu(self.conv(self.relu(self.conv(x))))


def test_all_that_cannot_be_told_is_in_one_error_that_says_what_to_exclude():
    net = nn.Sequential(nn.ReLU(), Untold(), Untold(), nn.Sequential(NoForward()))
    with pytest.raises(ValueError) as error:
        swap_activations(net, dict(ReLU=TO_AGLU), exclude='0')
    line = str(error.value)
    assert line.startswith('SwapActivations: cannot tell at how many sites Untold calls its relu: no guessed input')
    assert 'NotImplementedError: Module [NoForward] is missing' in line and '\n' not in line
    assert line.endswith("exclude=['0', '1.relu', '2.relu', '3.0.relu']")
    assert type(net[0]) is nn.ReLU and not any(part._forward_hooks for part in net.modules())
    swap_activations(net, dict(ReLU=TO_AGLU), exclude=['1.relu', '2.relu', '3.0.relu'])
    assert type(net[0]) is AGLU and type(net[1].relu) is nn.ReLU
