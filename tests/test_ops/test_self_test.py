"""The self-test of launches from C++, with a stub in the place of CUDA's driver; and what its record changes."""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch._subclasses import FakeTensorMode

pytest.importorskip('triton.runtime.interpreter', reason='Triton is not installed, or has no interpreter')
if torch.cuda.is_available():
    pytest.skip('the stub takes the place of the driver of this GPU', allow_module_level=True)

from helpers.stub_driver import stub_driver

from apa_mmdet.ops import dispatch, self_test
from apa_mmdet.ops.backends import extension, triton, triton_extension

pytestmark = pytest.mark.skipif(not extension.is_supported(), reason='torch is too old for the extension')
CPU, GPU = torch.device('cpu'), torch.device('cuda', 0)


@pytest.fixture
def small(monkeypatch):
    sizes = {name: (3, 6) if '(N, C)' in name else (1, 6, 4, 5) for name in self_test.SITES}
    sites = {name: (formula, dict(options, shape=sizes[name])) for name, (formula, options) in self_test.SITES.items()}
    monkeypatch.setattr(self_test, 'SITES', sites)


def test_it_passes_where_the_kernels_are_launched_as_from_python(stub, small):
    with stub_driver(stub) as driver:
        self_test.self_test(CPU)
        launched = driver.names()
    sites = len(self_test.SITES)
    assert launched.count('forward_kernel') == 2 * self_test.REPEATS * sites  # with and without gradients
    assert launched.count('backward_kernel') == (self_test.REPEATS - 1) * sites, 'Python launches the first of a kind'


def test_it_names_what_differs(stub, small, monkeypatch):
    with stub_driver(stub) as driver:
        forward = triton.forward_kernel

        def wrong(programs, values, constants):
            type(forward).compute(forward, programs, values, constants)
            if driver.launches:  # of C++
                values[2].mul_(2)

        monkeypatch.setattr(forward, 'compute', wrong)
        with pytest.raises(ValueError, match='^AGLU: value, value without gradients differ$'):
            self_test.self_test(CPU)


def test_an_error_of_the_driver_ends_it(stub, small):
    with stub_driver(stub) as driver:
        driver.error = 700
        with pytest.raises(RuntimeError, match='CUDA_ERROR_ILLEGAL_ADDRESS'):
            self_test.self_test(CPU)


@pytest.fixture
def gpu(stub, monkeypatch, tmp_path):
    """Yields the GPU's record: of an extension that can be loaded, and a GPU that has no part in it."""
    library = tmp_path / triton_extension.library().name
    library.symlink_to(triton_extension.library())
    monkeypatch.setattr(triton_extension, 'library', lambda: library)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'NVIDIA H200')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(triton, 'works', lambda device: True)
    triton_extension.is_tested.cache_clear()
    with stub_driver(stub):
        yield lambda: triton_extension.record_of(GPU)
    triton_extension.is_tested.cache_clear()


def test_what_python_would_compute_is_no_launch_from_cpp(stub, small, monkeypatch):
    monkeypatch.setattr(triton_extension, '_start', lambda launch: triton.start(launch) and None)  # describes nothing
    with stub_driver(stub), pytest.raises(ValueError, match='C.. leaves it to Python'):
        self_test.self_test(CPU)


def launchers_of(x):
    return [name for name, each in dispatch.backends().items() if name.startswith('triton') and each.serves(x)]


def test_a_gpu_is_launched_on_from_cpp_once_the_test_has_passed(gpu, monkeypatch, capsys):
    on_gpu, on_cpu = SimpleNamespace(is_cuda=True, device=GPU), torch.ones(1)
    monkeypatch.setattr(dispatch, '_is_plain', lambda x: True)
    monkeypatch.setattr(triton, 'serves', lambda x: x.is_cuda)
    from_cpp = triton_extension.load()
    assert dispatch._host_side(on_gpu) is not from_cpp and launchers_of(on_gpu) == ['triton']
    triton_extension.is_tested.cache_clear()
    monkeypatch.setattr(self_test, 'self_test', lambda device: None)
    with pytest.raises(SystemExit, match='False'):
        self_test.main()
    assert capsys.readouterr().out == f'launches from C++: used on NVIDIA H200 ({gpu()})\n'
    assert dispatch._host_side(on_gpu) is from_cpp is not dispatch._host_side(on_cpu)
    assert launchers_of(on_gpu) == ['triton-cpp', 'triton'], 'the first computes'
    with dispatch.use_backend('triton'):
        assert dispatch._host_side(on_gpu) is not from_cpp
    triton_extension.is_tested.cache_clear()
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'NVIDIA H100')
    assert dispatch._host_side(on_gpu) is not from_cpp, 'another GPU has not been tested'


@pytest.mark.parametrize('error', [ValueError('AGLU: value differ'), OSError('no compiler')], ids=repr)
def test_a_failure_leaves_no_record_and_says_so(error, gpu, monkeypatch, capsys):
    monkeypatch.setattr(self_test, 'self_test', mock.Mock(side_effect=error))
    with pytest.raises(SystemExit, match='True'):
        self_test.main()
    said = f'launches from C++: not used on NVIDIA H200, where Python launches the kernels, more slowly. {type(error).__name__}: {error}\n'
    assert capsys.readouterr().err == said
    assert not gpu().exists()


def test_a_tensor_without_data_asks_for_no_gpu(monkeypatch):
    """The answer would be kept, and be about a GPU that does nothing."""
    monkeypatch.setattr(dispatch, '_triton_extension', mock.Mock(side_effect=AssertionError))
    with FakeTensorMode():
        fake = torch.empty(2, 3, device='cuda')
        assert fake.is_cuda
        assert dispatch._host_side(fake) is dispatch.extension()


def test_without_a_gpu_there_is_nothing_to_test():
    with pytest.raises(SystemExit, match='no GPU, or the extension has not been built'):
        self_test.main()
