"""In a training step the host waits for a GPU only where MMEngine and MMDetection wait, and where a line here says."""

from collections import Counter

import pytest
import torch
from helpers.host_waits import READS, HostWaits
from helpers.tiny_runs import Stop, tinier
from torch import nn

from apa_mmdet.engine.runner import SafeRunner
from apa_mmdet.models.activations import build_activation, learnable_activations
from apa_mmdet.models.layers import CBAM, LearnableNormedConv2d, SELayer, WrappedCauchyLinear
from apa_mmdet.models.losses import LINKS, DropLoss, MemoryEfficientCrossEntropyLoss

CPU_CHECK = {  # on a GPU it is an assertion of the device
    ('models/losses/drop_loss.py', '_check', '__bool__'): 1,
    ('models/losses/drop_loss.py', '_check', '_local_scalar_dense'): 1,
}
STEP = {
    **CPU_CHECK,
    # in place of a copy that FCNMaskHead makes, one for each of the two images
    ('models/roi_heads/mask_heads/partially_labeled_mask_head.py', 'loss_and_target', 'cpu'): 2,
    ('models/roi_heads/mask_heads/partially_labeled_mask_head.py', 'loss_and_target', 'numpy'): 2,
    # before the step, which cannot be undone
    ('engine/hooks/skip_non_finite_hook.py', '_finite', 'tolist'): 1,
}
LOGGING = {  # one copy each, here in every second step, by default in one of a hundred and of a thousand
    ('models/activations/sites.py', 'watched_values', 'cpu'): 2,  # for both hooks
    ('models/activations/sites.py', 'watched_values', 'numpy'): 2,
}
PACKAGE = """
def reads(x, mask):
    import torch
    if x.sum() > 0:
        float(x[0]), int(x[0]), x[0].item(), x.tolist(), x.cpu(), x.numpy(), torch.nonzero(x), x.unique()
        x[mask], x.to('cpu'), torch.tensor(1.0, device='cpu'), torch.equal(x, x), x.masked_select(mask)
    x[mask] = x[mask] + 1

def keeps(x, mask):
    x[mask] = 0.0
    return x.masked_fill(mask, 1).to('cpu', non_blocking=True).to(x.dtype).where(mask, x).any()
"""


def test_a_training_step_waits_only_where_it_must(tiny_data, tmp_path):
    cfg = tinier(tiny_data(), tmp_path)
    cfg.model.roi_head.mask_head.type = 'PartiallyLabeledMaskHead'
    cfg.default_hooks['activations'] = dict(type='ActivationHealthHook', interval=2)
    cfg.default_hooks['activation_stats'] = dict(type='ActivationStatsHook', interval=2)
    runner = SafeRunner.from_cfg(cfg)
    runner.register_hook(Stop(after=2))
    steps, run_iter = [], runner.train_loop.run_iter

    def watched(*args):
        with HostWaits() as waits:
            steps.append(waits)
            run_iter(*args)

    runner.train_loop.run_iter = watched
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert [Counter(step.found) for step in steps] == [STEP, {**STEP, **LOGGING}]


def _loss(loss):
    labels = torch.tensor([0, 5, 1])
    return lambda x: loss(x, labels)


def _drop_loss(link):
    loss, labels = DropLoss(6, link=link, class_frequency=[1e-4, 0.1] * 3), torch.tensor([0, 6, 1])
    return lambda x: loss(x, labels) + loss.get_accuracy(x, labels)['acc_classes']


PARTS = {
    **{name: (lambda name=name: build_activation(dict(type=name), 6)) for name in learnable_activations()},
    **{f'DropLoss {link}': (lambda link=link: _drop_loss(link)) for link in LINKS},
    'SELayer': lambda: SELayer(6),
    'CBAM': lambda: CBAM(6),
    'LearnableNormedConv2d': lambda: LearnableNormedConv2d(6, 4, 1),
    'WrappedCauchyLinear': lambda: WrappedCauchyLinear(6, 4, learn_scale=True),
    'MemoryEfficientCrossEntropyLoss': lambda: _loss(MemoryEfficientCrossEntropyLoss()),
}
ROWS = 'Linear', 'Loss'  # their input is (N, C)


def _input(name):
    return torch.randn(3, 6, *(() if any(kind in name for kind in ROWS) else (4, 5)), requires_grad=True)


@pytest.mark.parametrize('name', PARTS)
def test_parts_of_a_model_do_not_wait(name):
    part, x = PARTS[name](), _input(name)
    with HostWaits() as waits:
        part(x).sum().backward()
    assert x.grad is not None
    assert Counter(waits.found) == (CPU_CHECK if 'DropLoss' in name else {})


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('name', PARTS)
def test_parts_of_a_model_do_not_wait_for_this_gpu(name):
    with torch.device('cuda'):
        part, x = PARTS[name](), _input(name)
    part(x).sum().backward()  # compiles the kernels
    torch.cuda.set_sync_debug_mode('error')
    try:
        part(x).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode('default')


def _reads_inside_operators(call, namespace):
    """Operators that read, called inside operators of a namespace, which a dispatch mode does not see."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    found = []
    for event in profile.events():
        outer = event.cpu_parent if event.name in READS or event.name == 'aten::item' else None
        while outer and not outer.name.startswith(f'{namespace}::'):
            outer = outer.cpu_parent
        if outer:
            found.append((outer.name, event.name))
    return found


@pytest.mark.parametrize('name', ['APA', 'AGLU'])
def test_the_operator_does_not_wait(name):
    # float64 runs the code of devices without kernels of their own; the C kernels are for a CPU and may read
    act, x = build_activation(dict(type=name), 6).double(), torch.randn(2, 6, 4, 5).double().requires_grad_()
    with HostWaits() as waits:
        assert _reads_inside_operators(lambda: act(x).sum().backward(), 'apa_mmdet') == []
    assert waits.found == []


reading = torch.library.Library('reading', 'DEF')  # kept: an exporter of ONNX looks at every operator of a process
reading.define('scaled(Tensor x) -> Tensor')
reading.impl('scaled', lambda x: x * x.sum().item(), 'CompositeExplicitAutograd')


def test_waits_inside_registered_operators_are_found():
    found = _reads_inside_operators(lambda: torch.ops.reading.scaled(torch.ones(2)), 'reading')
    assert ('reading::scaled', 'aten::_local_scalar_dense') in found


def test_every_wait_is_found(tmp_path):
    (tmp_path / 'file.py').write_text(PACKAGE)
    package = {}
    exec(compile(PACKAGE, f'{tmp_path}/file.py', 'exec'), package)
    x, mask = torch.ones(4), torch.tensor([True, False, True, False])
    with HostWaits(tmp_path) as waits:
        package['reads'](x, mask)
    found = {what for *_, what in waits.found}
    names = '__bool__ __float__ __int__ item tolist cpu numpy nonzero _unique2 index to tensor equal masked_select'
    assert set(names.split()) | {'index_put_', '_local_scalar_dense'} <= found
    with HostWaits(tmp_path) as waits:
        package['keeps'](x, mask)
        nn.Identity()(x[:1]).item()  # the test's own
    assert waits.found == []
