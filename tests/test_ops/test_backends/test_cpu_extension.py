"""How the host side of the operators on a CPU is built, loaded and done without; test_dispatch.py tests what it computes."""

import re
import subprocess
import sys
import warnings

import pytest
import torch

from apa_mmdet import ops
from apa_mmdet.ops import dispatch
from apa_mmdet.ops.backends import cpu, cpu_extension, extension


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The path of an extension that has not been built."""
    path = tmp_path / 'extension.so'
    monkeypatch.setattr(cpu_extension, 'library', lambda: path)
    cpu_extension.load.cache_clear()
    yield path
    cpu_extension.load.cache_clear()


def test_is_built_where_the_tests_run():
    assert (dispatch.extension() is not None) == cpu_extension.is_supported(), 'run python -m apa_mmdet.ops.backends'


def test_serves_no_other_backend_than_the_kernels():
    for backend in ('analytic', 'triton'):
        if backend in ops.backends():
            with ops.use_backend(backend):
                assert dispatch.extension() is None


def test_where_it_is_not_built_python_gives_the_same_without_a_warning(library):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert dispatch.extension() is None
        assert ops.aglu(torch.tensor([2.0]), torch.ones(1), torch.ones(1)).item() == pytest.approx(1.7616, abs=1e-4)


def test_serves_in_inference_mode_and_before_and_after_it():
    """The first call of a process may be made in that mode, where ordinary tensors have other keys."""
    if not cpu_extension.is_supported():
        pytest.skip('the extension needs torch 2.2')
    arguments = [torch.ones(3), torch.ones(1), torch.ones(1), *[None] * 10, 0.0, 0.0]
    served = [dispatch.extension().call(1, *arguments)]
    with torch.inference_mode():
        served.append(dispatch.extension().call(1, *arguments))
        served.append(dispatch.extension().call(1, torch.ones(3), *arguments[1:]))
    assert all(torch.equal(out, served[0]) for out in served)


FIRST_CALL = """
import contextlib, torch
from apa_mmdet.ops import aglu, dispatch
x, one = torch.ones(3), torch.ones(1)
with contextlib.suppress(RuntimeError):  # the operator has no derivative there
    torch.func.grad(lambda t: aglu(t, one, one).sum())(x)
print(dispatch.extension().call(1, x, one, one, *[None] * 10, 0.0, 0.0) is not None)
"""


@pytest.mark.skipif(not cpu_extension.is_supported(), reason='the extension needs torch 2.2')
def test_serves_after_a_first_call_in_a_transform():
    """There, what PyTorch allocates is a wrapper with keys of its own."""
    ended = subprocess.run([sys.executable, '-c', FIRST_CALL], capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1:] == ['True'], ended.stderr[-2000:]


def test_a_damaged_extension_is_named_in_one_warning_and_not_used(library):
    library.write_bytes(b'broken')
    with pytest.warns(UserWarning, match='cannot be loaded .*; delete it and build it again') as caught:
        assert dispatch.extension() is None and dispatch.extension() is None
    assert len(caught) == 1


@pytest.mark.parametrize('compiler, error', [('/no/such/c++', OSError), ('false', subprocess.CalledProcessError)])
def test_a_build_without_a_compiler_fails_and_leaves_nothing(library, monkeypatch, compiler, error):
    monkeypatch.setattr(extension, 'is_supported', lambda: True)
    monkeypatch.setenv('CXX', compiler)
    with pytest.raises(error):
        cpu_extension.build()
    assert list(library.parent.iterdir()) == []


def test_a_torch_that_is_too_old_is_named(library, monkeypatch):
    monkeypatch.setattr(extension, 'is_supported', lambda: False)
    with pytest.raises(
        ValueError, match=f'needs the headers of torch >= 2.2, and this is {re.escape(torch.__version__)}'
    ):
        cpu_extension.build()


def test_without_kernels_there_is_no_extension(monkeypatch):
    cpu_extension.load.cache_clear()
    monkeypatch.setattr(cpu, 'load', lambda: None)
    try:
        assert cpu_extension.load() is None
    finally:
        cpu_extension.load.cache_clear()


def test_another_version_of_torch_has_an_extension_of_its_own(monkeypatch):
    ours = cpu_extension.library()
    monkeypatch.setattr(torch, '__version__', '2.1.0')
    assert cpu_extension.library() != ours
