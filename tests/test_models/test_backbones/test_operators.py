"""The operators that PyTorch dispatches for a network with AGLU and APA: no more than for one with ReLU and sigmoid."""

import pytest
import torch
from helpers.preceding import require_extension
from torch.profiler import ProfilerActivity, profile

from apa_mmdet.models.backbones import SEResNet

NARROW = dict(base_channels=8, stem_channels=8, frozen_stages=1, norm_eval=True)
RELU = dict(act_cfg=dict(type='ReLU'), se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0))


def leaves(events):
    """Operators that call no other."""
    return sum('::' in e.name and not any('::' in child.name for child in e.cpu_children) for e in events)


def count(net):
    net, x = net.train(), torch.randn(1, 3, 32, 32)
    with profile(activities=[ProfilerActivity.CPU]) as forward:
        loss = sum(f.sum() for f in net(x))
    with profile(activities=[ProfilerActivity.CPU]) as backward:
        loss.backward()
    net.eval()
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as inference:
        net(x)
    return [leaves(p.events()) for p in (forward, backward, inference)]


@pytest.mark.parametrize('depth', [18, pytest.param(50, marks=pytest.mark.slow)])
def test_no_more_operators_than_with_relu_and_sigmoid(depth):
    require_extension()
    ours, relu = count(SEResNet(depth, **NARROW)), count(SEResNet(depth, **NARROW, **RELU))
    assert all(a <= b for a, b in zip(ours, relu)), f'forward, backward, inference: {ours} against {relu}'
    assert min(ours) > 0
