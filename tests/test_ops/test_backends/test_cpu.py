"""Building the compiled kernels, and what is theirs alone; their results are tested in test_functions.py."""

import os
import subprocess
import sys

import pytest
import torch

from apa_mmdet import ops
from apa_mmdet.ops.backends import cpu as cpu_kernels

USE = """
import torch
from apa_mmdet import ops
from apa_mmdet.ops.dispatch import _backend
print(_backend(torch.zeros(1)).__name__, ops.aglu(torch.tensor([2.]), torch.ones(1), torch.ones(1)).item())
"""


def run(cache, **environment):
    return subprocess.Popen(
        [sys.executable, '-c', USE],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, XDG_CACHE_HOME=str(cache), **environment),
    )


def test_serve_where_there_is_a_compiler():
    assert cpu_kernels.load() is not None, 'the rest of the tests would test the plain backend twice'
    served = {
        dtype: cpu_kernels.serves(torch.zeros(1, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
    }
    assert served == {torch.float32: True, torch.bfloat16: True, torch.float64: False}


def test_processes_may_build_at_once(tmp_path):
    for process in [run(tmp_path) for _ in range(2)]:
        out, err = process.communicate()
        assert out.split()[0] == 'apa_mmdet.ops.backends.cpu' and out.split()[1].startswith('1.7615'), err
    assert len(list((tmp_path / 'apa_mmdet').iterdir())) == 1


@pytest.mark.parametrize(
    'compiler, reason',
    [
        ('/no/such/compiler', 'No such file'),
        ('false', 'returned non-zero exit status'),
        (f'{sys.executable} -Wignore', 'unknown option'),
    ],
)
def test_without_a_compiler_it_says_so_and_computes_all_the_same(tmp_path, compiler, reason):
    out, err = run(tmp_path, CC=compiler).communicate()
    assert out.split()[0] == 'apa_mmdet.ops.backends.analytic' and out.split()[1].startswith('1.7615'), err
    assert 'the fast CPU kernels could not be built' in err and reason.lower() in err.lower(), err
    assert err.count('UserWarning: apa_mmdet') == 1


def test_without_a_home_a_temporary_folder_serves(tmp_path):
    blocked = tmp_path / 'file'
    blocked.write_text('')
    out, err = run(blocked / 'cache').communicate()
    assert out.split()[0] == 'apa_mmdet.ops.backends.cpu', err


def test_a_damaged_library_is_built_again(tmp_path):
    run(tmp_path).communicate()
    (library,) = (tmp_path / 'apa_mmdet').iterdir()
    library.write_bytes(b'broken')
    out, err = run(tmp_path).communicate()
    assert out.split()[0] == 'apa_mmdet.ops.backends.cpu', err
    out, err = run(tmp_path, CC='/no/such/compiler').communicate()  # none is needed any more
    assert out.split()[0] == 'apa_mmdet.ops.backends.cpu', err


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_results_do_not_depend_on_the_number_of_threads(memory_format):
    z, residual = (torch.randn(3, 5, 210, 190).to(memory_format=memory_format).requires_grad_() for _ in range(2))
    scale, lambda_, kappa = (
        torch.randn(3, 5, requires_grad=True),
        torch.rand(5, requires_grad=True),
        torch.rand(5, requires_grad=True),
    )
    leaves, results, threads = (z, residual, scale, lambda_, kappa), [], torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            out = ops.aglu(z, lambda_, kappa, scale, scale, residual)
            results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))
