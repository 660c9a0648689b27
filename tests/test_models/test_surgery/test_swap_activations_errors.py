"""SwapError: code and names of each case, one test for each sentence, and the module unchanged."""

import pytest
from mmcv.cnn.bricks.transformer import FFN
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

from apa_mmdet.models.activations import AGLU
from apa_mmdet.models.surgery import SwapError, swap_activations

TO_AGLU = dict(type='AGLU')
RESNET = dict(
    type='ResNet', depth=18, base_channels=4, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1)
)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


class ThreeInputs(nn.Module):
    """Calls one activation three times, in a method that takes more inputs than are guessed."""

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


def swap_error(build, **kwargs):
    with pytest.raises(SwapError) as error:
        build(**kwargs)
    assert '\n' not in str(error.value)
    return error.value


SWAP = dict(ReLU=TO_AGLU)
CASES = [  # config, code, names, sentence
    (
        dict(module=RESNET, swap=dict(GELU=TO_AGLU)),
        'missing-type',
        ['GELU'],
        'no GELU in ResNet; its activations are ReLU (5)',
    ),
    (dict(module=RESNET, swap=dict(ReLU=TO_AGLU, Relu=TO_AGLU)), 'missing-type', ['Relu'], None),
    (
        dict(module=RESNET, swap={}),
        'invalid-swap',
        [],
        "swap must map types to new activations, such as swap=dict(ReLU=dict(type='AGLU')); got {}",
    ),
    (dict(module=RESNET), 'invalid-swap', [], None),
    (
        dict(module=RESNET, swap=dict(ReLU='AGLU')),
        'invalid-activation',
        ['ReLU'],
        "swap={'ReLU': …} must give a config, such as dict(type='AGLU'); got 'AGLU'",
    ),
    (
        dict(module=RESNET, swap=SWAP, exclude='layer5.*'),
        'unmatched-pattern',
        ['layer5.*'],
        "pattern 'layer5.*' matches none of the 9 call sites in ResNet, which are relu, layer1.0.relu.0, "
        'layer1.0.relu.1 …',
    ),
    (
        dict(module=RESNET, swap=SWAP, exclude='*'),
        'nothing-to-swap',
        ['ReLU'],
        'nothing to swap in ResNet: every ReLU is excluded, or never called',
    ),
    (dict(), 'invalid-module', [], "module must be a config, such as module=dict(type='ResNet'); got None"),
    (dict(module='ResNet'), 'invalid-module', [], None),
    (dict(module=dict(depth=18)), 'invalid-module', [], None),
    (
        dict(module=dict(type='ReLU'), swap=SWAP),
        'module-is-activation',
        ['ReLU'],
        'the module is itself a ReLU; only the children of a module can be swapped, so build the other activation '
        'instead',
    ),
]


@pytest.mark.parametrize('cfg, code, names, sentence', CASES, ids=[f'{i} {case[1]}' for i, case in enumerate(CASES)])
def test_error_of_a_config_has_code_and_names(cfg, code, names, sentence):
    error = swap_error(MODELS.build, cfg=dict(type='SwapActivations', **cfg))
    assert (error.code, error.names) == (code, names)
    assert sentence is None or str(error) == f'SwapActivations: {sentence}'


def test_unregistered_activation_is_refused():
    with pytest.raises(KeyError, match="activation 'NoSuch' is not registered"):
        swap_activations(nn.Sequential(nn.ReLU()), dict(ReLU=dict(type='NoSuch')))


def test_one_error_names_all_activations_with_unknown_call_sites():
    net = nn.Sequential(nn.ReLU(), ThreeInputs(), ThreeInputs(), nn.Sequential(NoForward()))
    error = swap_error(swap_activations, module=net, swap=SWAP, exclude='0')
    assert (error.code, error.names) == ('unknown-call-sites', ['1.relu', '2.relu', '3.0.relu'])
    line = str(error)
    assert line.startswith(
        'SwapActivations: the call sites of some activations are unknown (ThreeInputs.relu: no guessed input suits it '
        '(none could be made); NoForward.relu: no guessed input suits it (NotImplementedError: Module [NoForward] is'
    )
    assert line.endswith("; keep these activations with exclude=['0', '1.relu', '2.relu', '3.0.relu']")
    assert type(net[0]) is nn.ReLU and not any(part._forward_hooks for part in net.modules())
    swap_activations(net, SWAP, exclude=error.names)
    assert type(net[0]) is AGLU and type(net[1].relu) is nn.ReLU


def test_one_error_names_all_call_sites_with_unknown_channels():
    net, swap = nn.Sequential(FFN(8, 16), FFN(8, 16), nn.Sequential(nn.ReLU())), dict(ReLU=dict(type='AconC'))
    error = swap_error(swap_activations, module=net, swap=swap, exclude='2.*')
    assert (error.code, error.names) == ('unknown-channels', ['0.layers.0.1', '1.layers.0.1'])
    assert str(error) == (
        'SwapActivations: AconC needs the channel count, but the channels are not in dimension 1 (tokens), or no '
        'guessed input suits the module; set num_features=1, or keep these activations with '
        "exclude=['2.*', '0.layers.0.1', '1.layers.0.1']"
    )
    error = swap_error(swap_activations, module=nn.ModuleList([nn.ReLU()]), swap=swap)
    assert (error.code, error.names) == ('unknown-channels', ['0'])
