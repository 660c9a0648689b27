"""How the compiled kernels are built and loaded, and that threads do not change results; test_apa.py tests the rest."""

import os
import runpy
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from helpers.disk import not_writable

from apa_mmdet import ops
from apa_mmdet.ops import dispatch
from apa_mmdet.ops.backends import analytic, cpu, cpu_extension, extension

BUILD = 'from apa_mmdet.ops.backends import cpu; print(cpu.load() is not None)'


@pytest.fixture(scope='module')
def built():
    """The library of this machine."""
    return cpu.build()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A machine that has not built the kernels; its cache folder."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    forget()
    yield tmp_path / 'apa_mmdet'
    forget()


def forget():
    for cached in (cpu.cache_folder, cpu.load, cpu_extension.load):
        cached.cache_clear()


def serving_backend():
    """The backend that computes a float32 tensor, which is checked."""
    assert ops.aglu(torch.tensor([2.0]), torch.ones(1), torch.ones(1)).item() == pytest.approx(1.7615, abs=1e-4)
    return dispatch._backend(torch.zeros(1))


def test_serve_where_there_is_a_compiler():
    assert cpu.load() is not None, 'the other tests would test the analytic backend twice'
    dtypes = {torch.float32: True, torch.bfloat16: True, torch.float16: True, torch.float64: False}
    assert {dtype: cpu.serves(torch.zeros(1, dtype=dtype)) for dtype in dtypes} == dtypes


def test_processes_may_build_at_once(cache):
    command = [sys.executable, '-c', BUILD]
    processes = [subprocess.Popen(command, text=True, stdout=subprocess.PIPE, env=dict(os.environ)) for _ in range(2)]
    assert [process.communicate()[0].splitlines()[-1] for process in processes] == [
        'True'
    ] * 2  # after the host's lines
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    'compiler, reason',
    [
        ('/no/such/compiler', 'No such file'),
        ('false', 'returned non-zero exit status'),
        (f'{sys.executable} -Wignore', 'unknown option'),
    ],
)
def test_without_a_compiler_the_analytic_backend_serves_after_one_warning(cache, monkeypatch, compiler, reason):
    monkeypatch.setenv('CC', compiler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        assert serving_backend() is analytic and serving_backend() is analytic
    (message,) = [str(w.message) for w in caught if str(w.message).startswith('apa_mmdet: ')]
    assert 'the fast CPU kernels could not be built' in message and reason.lower() in message.lower()


def test_without_a_cache_folder_a_temporary_folder_serves(tmp_path, cache, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file' / 'cache'))
    forget()
    assert serving_backend() is cpu and not cpu.build().is_relative_to(tmp_path)


def test_what_is_built_serves_where_the_folder_cannot_be_written(built, cache, monkeypatch):
    cache.mkdir()
    library = shutil.copy(built, cache / built.name)
    for path in (extension.library('ours', []), extension.library('ours', []).with_suffix('.passed')):
        path.write_text('')
    forget()
    monkeypatch.setenv('CC', '/no/such/compiler')  # none is needed
    with not_writable(cache):
        assert serving_backend() is cpu and cpu.build() == library
        ours, other = extension.library('ours', []), extension.library('other', [])
    assert ours.exists() and ours.with_suffix('.passed').exists()
    assert not other.is_relative_to(cache), 'it could not be built there'


def test_a_build_that_would_be_lost_is_refused(tmp_path, cache, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    with pytest.raises(
        SystemExit, match='there is no folder to keep .*: name one that can be written with XDG_CACHE_HOME'
    ):
        runpy.run_module('apa_mmdet.ops.backends', run_name='__main__')


def test_a_damaged_library_is_built_again(cache, monkeypatch):
    library = cpu.build()
    library.write_bytes(b'broken')
    assert serving_backend() is cpu
    forget()
    monkeypatch.setenv('CC', '/no/such/compiler')  # it is needed no more
    assert serving_backend() is cpu


def test_a_damaged_library_that_cannot_be_replaced_is_built_elsewhere(built, cache):
    cache.mkdir()
    (cache / built.name).write_bytes(b'broken')
    with not_writable(cache):
        assert serving_backend() is cpu
    assert (cache / built.name).read_bytes() == b'broken'


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_results_do_not_depend_on_the_number_of_threads(memory_format):
    z, residual = (torch.randn(3, 5, 210, 190).to(memory_format=memory_format).requires_grad_() for _ in range(2))
    gate, weight, lambda_, kappa = (torch.rand(size, requires_grad=True) for size in ((3, 5), 5, 5, 5))
    leaves, results, threads = (z, residual, gate, weight, lambda_, kappa), [], torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            out = ops.aglu(z, lambda_, kappa, ops.Norm(weight=weight, bias=weight), gate, residual)
            results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))
