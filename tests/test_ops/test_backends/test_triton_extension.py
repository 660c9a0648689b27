"""The host side of Triton's kernels in C++, with a stub in the place of CUDA's driver; a GPU is not needed.

The stub computes what it is asked to launch by Triton's interpreter, so that values and gradients are those of the
parameters that C++ packed; test_triton.py tests the kernels themselves.
"""

import ctypes
import math
import threading

import pytest
import torch

pytest.importorskip('triton.runtime.interpreter', reason='Triton is not installed, or has no interpreter')
if torch.cuda.is_available():
    pytest.skip('the stub takes the place of the driver of this GPU', allow_module_level=True)

from helpers.preceding import BEFORE, EPS, draw, with_norms
from helpers.stub_driver import SHARED, STREAM, stub_driver

from apa_mmdet import ops
from apa_mmdet.ops import dispatch
from apa_mmdet.ops.backends import extension, triton_extension
from apa_mmdet.ops.backends import triton as launcher

pytestmark = pytest.mark.skipif(not extension.is_supported(), reason='torch is too old for the extension')


@pytest.fixture
def driver(stub):
    with stub_driver(stub) as driver:
        assert triton_extension.load() is not None, 'not built: run python -m apa_mmdet.ops.backends'
        yield driver


@pytest.fixture
def recorder(stub):
    """As ``driver``, but nothing is computed, which takes the most time."""
    with stub_driver(stub, computes=False) as driver:
        yield driver


def site(before, curve=(), size=(1, 6, 4, 5), dtype=torch.float32, memory_format=torch.contiguous_format):
    """Returns a call of AGLU with an input of ``size``, and the tensors that have a gradient, by name."""
    x = torch.randn(size)
    given, statistics = draw(BEFORE[before], x)
    given.update(lambda_=torch.rand(curve) + 0.1, kappa=torch.rand(curve), x=x)
    for name in ('x', 'residual'):
        if name in given:
            given[name] = given[name].to(dtype).to(memory_format=memory_format)
    return with_norms(ops.aglu, statistics), {name: t.requires_grad_() for name, t in given.items()}


def results(function, given, backend='triton-cpp', wanted=None):
    """Returns the value and the gradients."""
    wanted = [given[name] for name in wanted or given]
    with ops.use_backend(backend):
        out = function(**given)
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out)
        return [out.detach(), *torch.autograd.grad(out, wanted, weights)]


def assert_equal(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


CASES = {
    'nothing': dict(before='nothing'),
    'per channel': dict(before='nothing', curve=(6,)),
    'norm, bfloat16': dict(before='norm', dtype=torch.bfloat16),
    'norm gate residual': dict(before='norm gate residual', size=(2, 6, 4, 5)),
    'all, channels_last': dict(before='all', curve=(6,), size=(2, 6, 4, 5), memory_format=torch.channels_last),
    'norm, float64, (N, C)': dict(before='norm', dtype=torch.float64, size=(9, 6)),
}


@pytest.mark.parametrize('case', CASES)
def test_values_and_gradients_are_those_of_python_and_python_is_asked_once(case, driver, monkeypatch):
    function, given = site(**CASES[case])
    want = results(function, given, 'triton')
    assert_equal(results(function, given), want)
    assert driver.names() == ['forward_kernel'], 'Triton itself launches the first backward pass'
    driver.launches.clear()
    monkeypatch.setattr(launcher, 'start', None)
    assert_equal(results(function, given), want)
    assert driver.names() == ['forward_kernel', 'backward_kernel', 'finish_kernel']


def test_a_launch_has_the_grid_and_the_parameters_of_triton(recorder):
    function, given = site('norm gate residual', size=(2, 6, 32, 40))
    results(function, given)
    recorder.launches.clear()
    results(function, given)
    forward, backward, finish = recorder.launches
    x = given['x']
    tiling = launcher.tiling_of(launcher.Layout(2, 6, 1280, False), launcher.TILE)
    assert forward.grid == (2 * tiling.blocks * tiling.spans, 1, 1) and tiling.blocks * tiling.spans > 1
    for launch in recorder.launches:
        assert launch.block == (32 * launcher.WARPS, 1, 1)
        assert (launch.shared, launch.stream) == (SHARED, STREAM)
    numbers = dict(inner=1280 // 8, outer=6, blocks=tiling.blocks, spans=tiling.spans, tiles=tiling.tiles)
    assert {name: forward.values[name] for name in numbers} == numbers
    assert forward.values['x_ptr'].data_ptr() == x.data_ptr()
    assert forward.values['residual_mean_ptr'] is None
    assert finish.values['partials_ptr'].data_ptr() == backward.values['partials_ptr'].data_ptr()
    assert finish.values['curve_ptr'].data_ptr() == backward.values['curve_ptr'].data_ptr()
    assert finish.values['programs'] == backward.grid[0]


def test_the_sums_of_a_backward_pass_lie_at_multiples_of_16_bytes(recorder):
    """Triton compiles kernels for such pointers: here the first sums have 24 bytes."""
    function, given = site('norm', size=(1, 3, 4, 4))
    for _ in range(2):
        results(function, given)
    backward, finish = recorder.launches[-2:]
    assert backward.values['partials_ptr'].nbytes == 24
    for launch in (backward, finish):
        assert all(launch.values[name].data_ptr() % 16 == 0 for name in ('partials_ptr', 'curve_ptr'))


def test_gradients_to_parameters_share_one_allocation_and_none_is_in_the_way_of_another(driver):
    function, given = site('norm gate', size=(1, 3, 4, 5))
    results(function, given)
    want = results(function, given)
    gradients = dict(zip(['out', *given], want))
    parameters = {name: t for name, t in gradients.items() if name not in ('out', 'x')}
    assert len({t.untyped_storage().data_ptr() for t in parameters.values()}) == 1
    for name, t in parameters.items():
        before = {other: u.clone() for other, u in parameters.items() if other != name}
        t.zero_()
        assert all(torch.equal(parameters[other], u) for other, u in before.items())
        assert t.data_ptr() % 16 == 0 and t.is_contiguous() and t.shape == given[name].shape


def test_gradients_that_nobody_needs_are_not_computed(driver):
    function, given = site('norm residual')
    given['kappa'].requires_grad_(False)
    given['weight'].requires_grad_(False)
    wanted = ['x', 'lambda_', 'residual', 'bias']
    want = results(function, given, 'triton', wanted)
    for _ in range(2):
        assert_equal(results(function, given, wanted=wanted), want)
    finish = driver.launches[-1].values
    assert finish['to_kappa_ptr'] is None and finish['to_weight_ptr'] is None and finish['to_bias_ptr'] is not None
    with torch.no_grad():
        assert not function(**given).requires_grad


def unaligned(t):
    return torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape)


@pytest.mark.parametrize(
    'change',
    [
        dict(x=unaligned),
        dict(weight=unaligned),
        dict(x=lambda t: t.transpose(2, 3)),
        dict(residual=lambda t: t.to(memory_format=torch.channels_last)),
        dict(weight=lambda t: t.repeat(2, 1).T.contiguous().T[0]),
        dict(kappa=lambda t: t.expand(6).contiguous()),
        dict(x=lambda t: torch.complex(torch.zeros_like(t), t).conj().imag),
        dict(x=lambda t: t.as_subclass(type('Named', (torch.Tensor,), {}))),
        dict(x=lambda t: t[:0], residual=lambda t: t[:0]),
    ],
    ids=[
        'x unaligned',
        'weight unaligned',
        'x transposed',
        'residual in another order',
        'weight in steps',
        'kappa per channel',
        'x negated',
        'subclass',
        'empty',
    ],
)
def test_what_is_not_served_goes_through_python(change, recorder):
    function, given = site('norm residual', size=(2, 6, 4, 6))
    if given['x'].shape != (shape := change.get('x', lambda t: t)(given['x']).shape):
        given['residual'] = given['residual'].detach().reshape(-1)[: shape.numel()].view(shape)
    changed = {name: change.get(name, lambda t: t)(t.detach()).requires_grad_() for name, t in given.items()}
    for _ in range(2):
        assert [t.shape for t in results(function, changed)[1:]] == [t.shape for t in changed.values()]
    assert recorder.launches == []


def test_a_gradient_in_another_order_is_copied_first(driver):
    function, given = site('norm')
    results(function, given)
    grad = torch.randn(1, 6, 4, 5)
    with ops.use_backend('triton-cpp'):
        out = function(**given)
        want = torch.autograd.grad(out, list(given.values()), grad, retain_graph=True)
        for other in (grad.to(memory_format=torch.channels_last), unaligned(grad)):
            assert_equal(torch.autograd.grad(out, list(given.values()), other, retain_graph=True), want)
    assert driver.names()[-6:] == ['backward_kernel', 'finish_kernel'] * 3


def test_hooks_of_saved_tensors_may_change_their_order(driver):
    function, given = site('norm', memory_format=torch.channels_last)
    want = results(function, given)
    results(function, given)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.contiguous()):
        got = results(function, given)
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b)


def test_a_batch_of_gradients_is_refused_as_by_python(recorder):
    function, given = site('nothing')
    for backend in ('triton', 'triton-cpp'):
        with ops.use_backend(backend):
            out = function(**given)
            with pytest.raises(RuntimeError):
                torch.autograd.grad(out, given['x'], torch.ones(3, *out.shape), is_grads_batched=True)


def test_autograd_refuses_what_it_refuses_elsewhere(recorder):
    function, given = site('norm')
    results(function, given)
    with ops.use_backend('triton-cpp'):
        changed = given['x'] * 1
        out = function(**dict(given, x=changed))
        changed.mul_(2)
        with pytest.raises(RuntimeError, match='modified by an inplace operation'):
            out.sum().backward()
        out = function(**given).sum()
        out.backward()
        with pytest.raises(RuntimeError, match='backward through the graph a second time'):
            out.backward()
        (once,) = torch.autograd.grad(function(**given).sum(), given['weight'], create_graph=True)
        with pytest.raises(RuntimeError, match='differentiate twice'):
            once.sum().backward()


def test_checkpoints_modes_and_inference(driver):
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.checkpoint import checkpoint

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    function, given = site('norm')
    want, seen = results(function, given), []
    assert_equal(results(lambda **given: checkpoint(function, use_reentrant=False, **given), given), want)
    with Seen():
        results(function, given)
    assert seen.count('apa_mmdet.parametric.default') == seen.count('apa_mmdet.parametric_backward.default') == 1
    driver.launches.clear()
    with torch.inference_mode(), ops.use_backend('triton-cpp'):
        assert torch.equal(function(**dict(given, x=given['x'].clone())), want[0])
    assert driver.names() == ['forward_kernel']


def test_what_the_driver_reports_is_an_error_with_its_name(recorder):
    function, given = site('nothing')
    results(function, given)
    recorder.error = 700
    with ops.use_backend('triton-cpp'), pytest.raises(RuntimeError, match=r'CUDA_ERROR_ILLEGAL_ADDRESS \(700\)'):
        function(**given)
    recorder.error = 1
    with ops.use_backend('triton-cpp'), pytest.raises(RuntimeError, match=r'reports an error \(1\)'):
        function(**given)


@pytest.mark.parametrize('step', ['plan_forward', 'plan_backward'])
def test_an_error_of_python_ends_the_call(step, stub, monkeypatch):
    def fails(*_):
        raise ValueError('no compiler')

    monkeypatch.setattr(triton_extension, step, fails)
    with stub_driver(stub):
        function, given = site('nothing')
        with pytest.raises(ValueError, match='no compiler'):
            results(function, given)


def test_a_thread_without_a_context_gets_that_of_the_device_once(recorder):
    function, given = site('nothing')
    current, retained = (ctypes.c_int.in_dll(recorder.library, name) for name in ('current', 'retained'))
    for _ in range(2):
        current.value = -1
        thread = threading.Thread(target=results, args=(function, given))
        thread.start()
        thread.join()
        assert current.value == 0
    assert retained.value <= 1, 'zero where another test came first'
    assert recorder.streams == [-1], 'the stream is asked for once, of a device without a number here'


def test_threads_may_call_at_once(stub):
    with stub_driver(stub, computes=False, listens=False):
        function, given = site('norm')
        threads = [threading.Thread(target=lambda: [results(function, given) for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_other_shapes_and_constants_are_other_plans(recorder):
    sizes = [(2, 6, 4, 5), (2, 6, 8, 8), (1, 6, 4, 5)] * 2
    for before in ('norm', 'weight'):
        for size in sizes:
            results(*site(before, size=size))
    numbers = [
        [launch.values[name] for name in ('inner', 'outer', 'spans')]
        + [launch.grid[0], launch.values['var_ptr'] is None]
        for launch in recorder.launches
        if 'out_ptr' in launch.values
    ]
    want = []
    for images, channels, *positions in sizes:
        layout = launcher.Layout(images, channels, math.prod(positions), False)
        tiling = launcher.tiling_of(layout, launcher.TILE)
        unit = 8 if layout.positions % 8 == 0 else 1
        want.append([layout.positions // unit, channels, tiling.spans, images * tiling.blocks * tiling.spans])
    assert len({tuple(each) for each in want}) == 3
    assert numbers == [[*each, False] for each in want] + [[*each, True] for each in want]
    one, x, weight = torch.ones(1), torch.randn(2, 6, 4, 5), torch.rand(6)
    with ops.use_backend('triton-cpp'):
        for eps in (EPS, 2 * EPS, EPS):
            ops.aglu(x, one, one, ops.Norm(weight, weight, eps=eps))
    first, second, third = (launch.function for launch in recorder.launches[-3:])
    assert first == third != second


def test_without_a_driver_or_where_it_is_not_built_there_is_no_such_backend(tmp_path, stub, monkeypatch):
    assert 'triton-cpp' not in ops.backends(), 'this machine has no libcuda'
    with pytest.raises(ValueError, match="backend 'triton-cpp' is not available"), ops.use_backend('triton-cpp'):
        pass
    monkeypatch.setattr(triton_extension, 'library', lambda: tmp_path / 'none.so')
    with stub_driver(stub):
        assert 'triton-cpp' not in ops.backends()
    monkeypatch.undo()
    with stub_driver(stub):
        assert 'triton-cpp' in ops.backends()
        assert dispatch.extension() is not None, 'nothing chooses it by itself'
