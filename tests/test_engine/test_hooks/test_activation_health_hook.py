import pytest
import torch
from helpers.tiny_runs import log_of, toy
from torch import nn

from apa_mmdet.engine.hooks import ActivationHealthHook
from apa_mmdet.models.activations import AGLU, APALU, AconC, Healthy, LearnableActivation, Symbol
from apa_mmdet.models.losses import DropLoss


def test_activations_out_of_range_are_reported_once(tmp_path):
    runner = toy(tmp_path, epochs=3)
    with torch.no_grad():
        runner.model.act.lambda_.fill_(-1.0)
        runner.model.act.kappa.fill_(-40.0)
    runner.train()
    warnings = [line.split(' - WARNING - ')[1] for line in log_of(tmp_path).splitlines() if ' activations: ' in line]
    assert len(warnings) == 2
    assert warnings[0] == 'λ is at its floor of 0.0001, where it has no gradient, in 1 of 1 activations: act.lambda_ -1'
    assert warnings[1].startswith('κ is not between -30 and 30, in 1 of 1 activations: act.kappa -40')


def test_new_ones_are_reported_without_the_known_and_counted_with_them(tmp_path):
    runner = toy(tmp_path, hooks=dict(activations=dict(type='ActivationHealthHook', healthy=dict(kappa=(-50.0, 50.0)))))
    runner.model.more = nn.ModuleList(AGLU() for _ in range(11))  # which the model does not call
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'ActivationHealthHook')
    with torch.no_grad():
        for activation in runner.model.more[:9]:
            activation.kappa.fill_(60.0)
        hook.after_train_epoch(runner)
        runner.model.more[10].kappa.fill_(70.0)
        hook.after_train_epoch(runner)
        hook.after_train_epoch(runner)
    warnings = [line.split(' - WARNING - ')[1] for line in log_of(tmp_path).splitlines() if ' activations' in line]
    assert warnings[0].startswith('κ is not between -50 and 50, in 9 of 12 activations: more.0.kappa 60, ')
    assert warnings[0].endswith(', more.7.kappa 60 and 1 more')
    assert warnings[1:] == ['κ is not between -50 and 50, in 10 of 12 activations, 1 of them new: more.10.kappa 70']


class Own(LearnableActivation):
    """As a user writes one: the slope has a name and a range, the bias neither."""

    symbols = dict(slope=Symbol('s', (0, 1), 1, Healthy(low=0, otherwise='s falls')))

    def __init__(self):
        super().__init__(1)
        self.slope = nn.Parameter(torch.tensor([-1.0]))


class Unnamed(LearnableActivation):
    """As a user writes one that says nothing of its parameters."""

    def __init__(self):
        super().__init__(2)
        self.bias = nn.Parameter(torch.tensor([0.0, torch.inf]))


def test_every_learnable_activation_is_checked(tmp_path):
    runner = toy(tmp_path)
    runner.model.more = nn.ModuleList([AconC(3), APALU(2), Own(), Unnamed()])  # which the model does not call
    with torch.no_grad():
        runner.model.more[0].beta[1] = torch.nan
        runner.model.more[1].raw_a.fill_(torch.nan)
        runner.model.act.lambda_.fill_(torch.nan)
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'ActivationHealthHook')
    hook.after_train_epoch(runner)
    warnings = [line.split(' - WARNING - ')[1] for line in log_of(tmp_path).splitlines() if ' activations' in line]
    assert warnings == [
        'λ is not finite, in 1 of 1 activations: act.lambda_ nan',
        'β is not finite, in 1 of 1 activations: more.0.beta nan',
        'a is not finite, in 1 of 1 activations: more.1.a nan (2 values)',
        's falls, in 1 of 1 activations: more.2.slope -1',
        'bias is not finite, in 1 of 1 activations: more.3.bias inf',
    ]


def test_the_link_of_a_loss_is_checked_too(tmp_path):
    runner = toy(tmp_path)
    runner.model.loss = DropLoss(3, link='apa', frequency_threshold=0.0)  # which the model does not call
    with torch.no_grad():
        runner.model.loss.link.lambda_.fill_(1e-5)
    runner.train()
    assert 'λ is at its floor of 0.0001, where it has no gradient, in 1 of 2 activations: loss.link.lambda_' in log_of(
        tmp_path
    )


@pytest.mark.parametrize('bounds', [50, (50, -50), (1, 2, 3), ('low', 'high'), None, (0, 0)], ids=str)
def test_a_range_that_is_none_is_refused(bounds):
    with pytest.raises(ValueError, match=r'ActivationHealthHook: healthy.kappa is .*; it must be \(lowest, highest\)'):
        ActivationHealthHook(healthy=dict(kappa=bounds))


def test_a_range_of_a_parameter_that_no_activation_has_is_refused(tmp_path):
    runner = toy(tmp_path, hooks=dict(activations=dict(type='ActivationHealthHook', healthy=dict(kapa=(0, 1)))))
    with pytest.raises(
        ValueError, match='healthy names kapa, but the activations of the model have kappa, lambda_; rem'
    ):
        runner.train()
