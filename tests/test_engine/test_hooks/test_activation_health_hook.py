import torch
from helpers.tiny_runs import log_of, toy
from torch import nn

from apa_mmdet.models.activations import AGLU


def test_activations_out_of_range_are_reported_once(tmp_path):
    runner = toy(tmp_path, epochs=3)
    with torch.no_grad():
        runner.model.act.lambda_.fill_(-1.0)
        runner.model.act.kappa.fill_(-40.0)
    runner.train()
    warnings = [line.split(' - WARNING - ')[1] for line in log_of(tmp_path).splitlines() if ' activations: ' in line]
    assert len(warnings) == 2
    assert warnings[0] == 'λ is at its floor of 0.0001, where it has no gradient, in 1 of 1 activations: act.lambda_ -1'
    assert warnings[1].startswith('|κ| is above 30, in 1 of 1 activations: act.kappa -40')


def test_new_ones_are_reported_without_the_known_and_counted_with_them(tmp_path):
    runner = toy(tmp_path, hooks=dict(activations=dict(type='ActivationHealthHook', max_kappa=50.0)))
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
    assert warnings[0].startswith('|κ| is above 50, in 9 of 12 activations: more.0.kappa 60, ')
    assert warnings[0].endswith(', more.7.kappa 60 and 1 more')
    assert warnings[1:] == ['|κ| is above 50, in 10 of 12 activations, 1 of them new: more.10.kappa 70']
