import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from apa_mmdet.models.activations import AGLU, APALU, AconC, MetaAconC
from apa_mmdet.models.backbones import SEResNet
from apa_mmdet.models.losses import DropLoss

OURS = 'ActivationOptimWrapperConstructor'


def net():
    loss = DropLoss(2, link='apa', class_frequency=[0.5, 0.5])
    return nn.ModuleDict(
        dict(conv=nn.Conv2d(2, 2, 1), agl=AGLU(), acon=AconC(2), meta=MetaAconC(2), apalu=APALU(2), loss=loss)
    )


def decays(model, weight_decay=0.1, constructor=OURS, **paramwise_cfg):
    """The weight decay of each parameter by name, and the number of groups."""
    optimizer = dict(type='SGD', lr=1.0, **({} if weight_decay is None else dict(weight_decay=weight_decay)))
    cfg = dict(optimizer=optimizer, constructor=constructor, paramwise_cfg=paramwise_cfg or None)
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: group['weight_decay'] for group in groups for p in group['params']}
    assert found.keys() == set(names.values()) and sum(len(g['params']) for g in groups) == len(found)
    return found, len(groups)


LEARNED = {
    *('agl.lambda_', 'agl.kappa', 'acon.p1', 'acon.p2', 'acon.beta', 'meta.p1', 'meta.p2'),
    *('apalu.raw_a', 'apalu.raw_b', 'loss.link.lambda_', 'loss.link.kappa'),
}


@pytest.mark.parametrize('paramwise_cfg, groups', [({}, 2), (dict(norm_decay_mult=1.0), 21)])
def test_what_activations_learn_does_not_decay(paramwise_cfg, groups):
    """Layers inside them do, and settings of single parameters change nothing of it."""
    found, count = decays(net(), **paramwise_cfg)
    assert {name for name, decay in found.items() if decay == 0} == LEARNED and count == groups
    assert {found[name] for name in found.keys() - LEARNED} == {0.1}


def test_a_factor_for_some_classes():
    found, groups = decays(net(), activation_decay_mult=dict(AGLU=1.0, APALU=0.5))
    assert (found['agl.kappa'], found['apalu.raw_a'], found['acon.beta'], groups) == (0.1, 0.05, 0.0, 3)


def test_a_key_with_a_factor_of_its_own_comes_first_and_one_without_does_not():
    found, _ = decays(net(), custom_keys=dict(acon=dict(decay_mult=2.0), agl=dict(lr_mult=0.1)))
    assert (found['acon.p1'], found['agl.kappa'], found['conv.weight']) == (0.2, 0.0, 0.1)


def test_a_model_without_learnable_activations_has_the_one_group_of_mmengine():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU())
    model[0].bias.requires_grad_(False)
    assert decays(model) == decays(model, constructor='DefaultOptimWrapperConstructor')


def test_without_weight_decay_there_is_none():
    assert set(decays(net(), weight_decay=None)[0].values()) == {0}


@pytest.mark.parametrize('mult', ['no', -1, True, dict(AGLU=None), float('nan')])
def test_a_factor_that_is_none(mult):
    with pytest.raises(ValueError, match=r'activation_decay_mult has .*; give a number'):
        decays(net(), activation_decay_mult=mult)


def test_only_the_decay_of_activations_differs_after_a_step():
    """The rest of a network is trained as by MMEngine's constructor, to the bit."""
    after = []
    for constructor in (OURS, 'DefaultOptimWrapperConstructor'):
        torch.manual_seed(0)
        model = SEResNet(18, base_channels=8, stem_channels=8, frozen_stages=-1, norm_eval=False)
        cfg = dict(optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1), constructor=constructor)
        wrapper = build_optim_wrapper(model, cfg)
        wrapper.update_params(sum(out.square().mean() for out in model(torch.randn(2, 3, 32, 32))))
        after.append(dict(model.named_parameters()))
    differ = {name for name, p in after[0].items() if not torch.equal(p, after[1][name])}
    assert differ == {name for name in after[0] if name.endswith(('.lambda_', '.kappa'))} != set()
