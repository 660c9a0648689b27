"""The Triton kernels against 60-digit values and the analytic backend: on a GPU or, without one, interpreted.

tests/conftest.py asks for Triton's interpreter, before anything imports Triton.
"""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.preceding import BEFORE, draw, with_norms
from helpers.recordings import load

from apa_mmdet import ops
from apa_mmdet.ops.memory_layout import DIFFERENTIABLE, Arguments, Layout

triton = pytest.importorskip('triton', reason='Triton is not installed')
if not torch.cuda.is_available():
    pytest.importorskip('triton.runtime.interpreter', reason='Triton 2 has no interpreter, and there is no GPU')
tl = triton.language
launcher = ops.backends()['triton']
kernels = pytest.importorskip('apa_mmdet.ops.backends.triton_kernels')

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
ONE = torch.ones(1, device=DEVICE)
# on a GPU also from C++, where the self-test has passed: a wrong launch leaves a process without the use of its GPU
LAUNCHERS = ['triton'] + [name for name, each in ops.backends().items() if name == 'triton-cpp' and each.serves(ONE)]
HALF = [torch.float16, torch.bfloat16]
# in half precision one unit in the last place: the interpreter truncates bfloat16 where a GPU rounds
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


SHAPES = {  # of tiles; each is a kernel to compile
    channels_last: [(part, launcher.TILE // part) for part in parts]
    for channels_last, parts in ((False, launcher.POSITION_PARTS), (True, launcher.CHANNEL_BLOCKS))
}


def test_serves_only_tensors_on_a_gpu():
    assert not launcher.serves(torch.ones(1))
    assert DEVICE == 'cpu' or launcher.serves(ONE)


def test_works_where_it_is_asked_first_in_a_transform():
    answers = []
    torch.func.grad(lambda x: answers.append(launcher.works.__wrapped__(ONE.device)) or x.sum())(ONE)
    assert answers == [True]


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize(
    'images, channels, positions',
    [
        (1, 1, 1),
        (1, 1, 5),
        (1, 1, 2**33 + 8),
        (16, 64, 60800),
        (2, 2048, 950),
        (64, 3, 49),
        (3, 1, 2**31),
        (2, 5000, 2),
    ],
)
def test_programs_cover_every_element_and_none_is_idle(images, channels, positions, channels_last):
    tiling = launcher.tiling_of(Layout(images, channels, positions, channels_last), launcher.TILE)
    span = tiling.block_s * tiling.tiles
    assert 0 <= tiling.blocks * tiling.block_c - channels < tiling.block_c
    assert 0 <= tiling.spans * span - positions < span
    assert (tiling.block_c, tiling.block_s) in SHAPES[channels_last], 'one more kernel to compile'
    assert all(block & (block - 1) == 0 for block in tiling[:2])  # powers of 2
    assert images * tiling.blocks * tiling.spans < 2**31  # the most programs that a GPU starts


@pytest.mark.parametrize('options', [(), pytest.param(('--all',), marks=pytest.mark.slow)])
@pytest.mark.skipif(tuple(map(int, triton.__version__.split('.')[:2])) < (3, 3), reason='an older compiler interface')
def test_compiles_for_a_gpu_with_accesses_of_16_bytes_and_without_spills(options, tmp_path):
    """Finds what the interpreter accepts and the compiler does not; the instructions are those of Triton 3.9, and 2 more."""
    environment = dict(os.environ, TRITON_INTERPRET='0', TRITON_CACHE_DIR=str(tmp_path), PYTHONPATH=str(ROOT))
    script = ROOT / 'tests/helpers/compile_triton_kernels.py'
    run = subprocess.run([sys.executable, script, *options], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    for name, *case, code in json.loads(run.stdout.splitlines()[-1]):
        assert code['spills'] == 0, (name, case, code)
        assert code['parameters'] == code['expected'], (name, case, 'triton_extension.py describes another launch')
        if name != 'finish_kernel':
            assert code['load'] == code['store'] == 16, (name, case, code)
        if 'fp64' not in case:
            most = dict(forward_kernel=29, backward_kernel=55, finish_kernel=math.inf)
            if 'bf16' in case or 'fp16' in case:
                most = dict(forward_kernel=25, backward_kernel=49, finish_kernel=math.inf)
            assert code['per_element'] <= most[name], (name, case, code)


def drawn(shape, dtype, low=None, high=None):
    """Normal random numbers or, with limits, uniform ones between them; they require a gradient."""
    numbers = torch.randn(shape) if low is None else torch.rand(shape) * (high - low) + low
    return numbers.to(DEVICE, dtype).requires_grad_()


ORDERS = {
    'contiguous': lambda z: z,
    'channels_last': lambda z: z.to(memory_format=torch.channels_last),
    'transposed': lambda z: z.transpose(2, 3),
    'strided': lambda z: torch.cat([z, z], 3)[..., ::2],
    'expanded': lambda z: z[..., :1].expand(z.shape),
    'shifted': lambda z: torch.cat([z.flatten()[:1], z.flatten()])[1:].view(z.shape),  # not to a multiple of 16 bytes
    '2-D': lambda z: z[:, :, 0, 0].contiguous(),
    '5-D': lambda z: z[:, :, None],
    '5-D channels_last': lambda z: z.unflatten(3, (2, -1)).to(memory_format=torch.channels_last_3d),
}


def ordered(shape, dtype, order):
    return ORDERS[order](drawn(shape, dtype).detach()).requires_grad_()


VARIANTS = [  # what precedes the activation, and which of λ and κ are per channel
    *((before, i % 2 == 0, i % 3 == 0) for i, before in enumerate(BEFORE)),
    ('nothing', False, False),
    ('all', False, False),
]


def arguments(z, before, lambda_per_channel=False, kappa_per_channel=False):
    """The arguments beside the input, in two dictionaries: those that require a gradient, and statistics.

    The parameters are in the dtype that the kernels compute in.
    """
    dtype, channels = torch.promote_types(z.dtype, torch.float32), z.shape[1:2]
    given, statistics = draw(BEFORE[before], z.detach().to(dtype))
    if 'residual' in given:
        given['residual'] = given['residual'].to(z.dtype)
    given['lambda_'] = torch.rand(channels if lambda_per_channel else (), dtype=dtype, device=DEVICE) * 1.45 + 0.05
    given['kappa'] = torch.rand(channels if kappa_per_channel else (), dtype=dtype, device=DEVICE) * 3 - 1
    return {key: t.to(DEVICE).requires_grad_() for key, t in given.items()}, {
        key: t.to(DEVICE) for key, t in statistics.items()
    }


def value_and_gradients(backend, name, z, given, statistics=None, weights=None):
    with ops.use_backend(backend):
        out = with_norms(getattr(ops, name), statistics or {})(z, **given)
        grads = torch.autograd.grad(out, (z, *given.values()), torch.ones_like(out) if weights is None else weights)
    return dict(zip(('value', 'z', *given), (out.detach(), *grads)))


def assert_agrees(name, z, given, weights=None):
    """Compares the kernels with the analytic backend, each result to the precision of its dtype."""
    want = value_and_gradients('analytic', name, z, *given, weights)
    for backend in LAUNCHERS:
        got = value_and_gradients(backend, name, z, *given, weights)
        if backend != 'triton':  # Python computes the first backward pass of a kind
            got = value_and_gradients(backend, name, z, *given, weights)
        assert got['value'].stride() == want['value'].stride()
        for key, tensor in want.items():
            tolerance = TOLERANCES[tensor.dtype]
            torch.testing.assert_close(
                got[key], tensor, rtol=tolerance, atol=tolerance, msg=lambda text, key=key: f'{key}: {text}'
            )


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize('name', ['apa', 'aglu'])
def test_agrees_with_60_digit_values_and_derivatives(name, dtype, tolerance):
    truth = load('apa_truth.npz')
    rows = {column: truth['rows'][:, i] for i, column in enumerate(truth['columns'])}
    z, lambda_, kappa = (
        torch.tensor(rows[c], dtype=dtype, device=DEVICE, requires_grad=True) for c in ('z', 'lam', 'kappa')
    )
    # a row is a channel, with parameters of its own
    results = value_and_gradients('triton', name, z[None], dict(lambda_=lambda_, kappa=kappa))
    for column, result in zip((name, f'd{name}_dz', f'd{name}_dlam', f'd{name}_dkappa'), results.values()):
        error = np.abs(result.flatten().cpu().double().numpy() - rows[column]) / np.maximum(1, np.abs(rows[column]))
        assert error.max() <= tolerance, f'{column}: {error.max():.1e} at row {error.argmax()}'


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('order', ['contiguous', 'channels_last'])
@pytest.mark.parametrize(
    'name, variant',
    [
        ('apa', ('nothing', False, False)),
        ('apa', ('all', True, True)),
        ('aglu', ('nothing', False, False)),
        ('aglu', ('all', False, False)),
        ('neg_log_apa', ('nothing', True, True)),
    ],
)
def test_agrees_in_any_dtype(name, variant, order, dtype):
    z = ordered((3, 5, 4, 6), dtype, order)
    assert_agrees(name, z, arguments(z, *variant), torch.randn(z.shape).to(z))


@pytest.mark.parametrize('name, variant', zip(['aglu', 'apa'] * len(VARIANTS), VARIANTS), ids=str)
def test_agrees_with_any_arguments(name, variant):
    for order in ('contiguous', 'channels_last'):
        z = ordered((3, 5, 4, 6), torch.float64, order)
        assert_agrees(name, z, arguments(z, *variant), torch.randn(z.shape).to(z))


@pytest.mark.parametrize(
    'needed', [('z',), ('lambda_', 'bias'), ('gate',), ('residual_weight',), ('kappa', 'residual')]
)
@pytest.mark.parametrize('per_channel', [False, True])
def test_only_what_requires_a_gradient_gets_one(needed, per_channel):
    z = drawn((2, 5, 3, 4), torch.float64)
    given, statistics = arguments(z, 'all', per_channel, not per_channel)
    want = value_and_gradients('triton', 'aglu', z, given, statistics)
    leaves = {key: t.detach().requires_grad_(key in needed) for key, t in dict(z=z, **given).items()}
    with ops.use_backend('triton'):
        out = with_norms(ops.aglu, statistics)(leaves.pop('z').requires_grad_(), **leaves)
        out.sum().backward()
    for key, tensor in leaves.items():
        assert (tensor.grad is not None) == (key in needed), key
        assert key not in needed or torch.equal(tensor.grad, want[key]), key


def test_parameters_of_another_dtype_or_not_contiguous():
    z = drawn((3, 5, 4, 6), torch.bfloat16)
    given, statistics = arguments(z, 'all', True)
    given = {key: t if key == 'residual' else t.detach().half().requires_grad_() for key, t in given.items()}
    statistics = {key: torch.stack([t, t], 1)[:, 0].bfloat16() for key, t in statistics.items()}
    assert_agrees('aglu', z, (given, statistics))


def test_lambda_below_the_floor_counts_as_the_floor_and_has_no_gradient():
    z = drawn((2, 3, 5), torch.float32)
    for below in (torch.tensor(-3.0), torch.tensor([-3.0, 1e-5, 1e-4])):
        given = dict(lambda_=below.to(DEVICE).requires_grad_(), kappa=torch.ones((), device=DEVICE, requires_grad=True))
        got = value_and_gradients('triton', 'aglu', z, given)
        want = value_and_gradients(
            'triton', 'aglu', z, dict(given, lambda_=torch.full_like(below, 1e-4).to(z).requires_grad_())
        )
        assert torch.equal(got['value'], want['value'])
        assert (got['lambda_'] != 0).cpu().equal(below >= 1e-4)


@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('variant', [('nothing', False, False), ('all', True, True)], ids=str)
def test_agrees_in_any_memory_order(variant, order):
    z = ordered((3, 5, 4, 6), torch.float64, order)
    assert_agrees('aglu', z, arguments(z, *variant), torch.randn(z.shape).to(z))


@pytest.mark.parametrize('order', ['contiguous', 'channels_last'])
@pytest.mark.parametrize('shape', [(1, 3, 35, 61), (2, 70, 5, 7), (2, 130, 3, 5), (1, 9, 25, 42), (3, 8, 8, 16)])
def test_agrees_in_blocks_of_any_shape(shape, order, monkeypatch):
    z = ordered(shape, torch.float64, order)
    given = arguments(z, 'all')
    assert_agrees('aglu', z, given)
    monkeypatch.setattr(launcher, 'PROGRAMS', 1)  # several tiles a program
    assert_agrees('aglu', z, given)


@pytest.mark.parametrize('numel', [1, 15, 16, 1023, 4096, 20001])
def test_agrees_without_channels(numel):
    z = drawn((numel,), torch.float64)
    assert_agrees('aglu', z, arguments(z, 'nothing'))


@pytest.mark.parametrize('order', ['contiguous', 'channels_last'])
@pytest.mark.parametrize('variant', [('nothing', False, False), ('all', True, True)], ids=str)
def test_agrees_with_a_gradient_in_another_memory_order(variant, order):
    z = ordered((3, 4, 5, 6), torch.float64, order)
    given = arguments(z, *variant)
    for weights in (torch.randn(5, 6, 4, 3).permute(3, 2, 0, 1), torch.ones(1, 1, 1, 1).expand(3, 4, 5, 6)):
        assert_agrees('apa', z, given, weights.to(z))


@pytest.mark.parametrize('dtype', HALF, ids=str)
def test_agrees_with_a_residual_of_another_dtype(dtype):
    z = drawn((2, 3, 4, 5), dtype)
    given, statistics = arguments(z, 'norm residual norm')
    given['residual'] = given['residual'].detach().float().requires_grad_()
    assert_agrees('aglu', z, (given, statistics))


@pytest.mark.parametrize('shape', [(0,), (0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (0, 3)])
def test_agrees_on_empty_tensors(shape):
    z = drawn(shape, torch.float32)
    assert_agrees('aglu', z, arguments(z, 'nothing'))
    if len(shape) > 1:
        assert_agrees('aglu', z, arguments(z, 'all', True, True))
        assert_agrees('aglu', z, arguments(z, 'norm'))


def test_results_do_not_share_memory():
    z = drawn((3, 5, 4, 6), torch.float32)
    given, statistics = arguments(z, 'all', True, True)
    args = Arguments(z.detach(), **{key: t.detach() for key, t in given.items()}, **statistics)
    gradients = launcher.backward('aglu', torch.ones_like(z), args, [True] * len(DIFFERENTIABLE))
    assert len({t.untyped_storage().data_ptr() for t in gradients}) == len(gradients)


def test_results_are_deterministic(monkeypatch):
    monkeypatch.setattr(launcher, 'PROGRAMS', 4)
    z = drawn((2, 3, 70, 40), torch.float32)
    given = arguments(z, 'all', True)
    first, second = (value_and_gradients('triton', 'aglu', z, *given) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize('dtype', HALF, ids=str)
@pytest.mark.parametrize('name', ['apa', 'aglu', 'neg_log_apa'])
def test_half_precision_is_the_rounded_result(name, dtype):
    """Of a number with five digits at least; half precision has three to four."""
    z = (torch.randn(2, 3, 64) * 4).to(DEVICE, dtype).requires_grad_()
    given, _ = arguments(z, 'nothing', True, True)
    got = value_and_gradients('triton', name, z, given)
    want = value_and_gradients('triton', name, z.detach().float().requires_grad_(), given)

    def rounded(exact):
        if dtype == torch.bfloat16 and DEVICE == 'cpu':
            exact = (exact.view(torch.int32) & -(2**16)).view(torch.float32)  # truncated
        return exact.to(dtype)

    for key in ('value', 'z'):
        low, high = (rounded(want[key] * (1 + error)) for error in (-1e-5, 1e-5))
        assert ((got[key] == low) | (got[key] == high)).all(), key
        assert (low != high).float().mean() < 0.1, 'else this would say little'
    for key in ('lambda_', 'kappa'):
        torch.testing.assert_close(got[key], want[key], rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('name', ['apa', 'aglu'])
def test_finite_for_every_finite_input(name, dtype):
    top = torch.finfo(dtype).max
    z = torch.tensor([0.0, 1e-7, 1.0, 8.0, 11.0, 60.0, 88.0, 104.0, 1e3, 6e4, min(top, 1e15), top], dtype=torch.float64)
    kappas = torch.tensor([-10.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 10.0])
    grid = torch.cartesian_prod(torch.tensor([1e-4, 1e-2, 1.0, 20.0]), kappas)
    z = torch.cat([z, -z])[:, None].expand(-1, len(grid)).to(DEVICE, dtype).requires_grad_()
    lambda_, kappa = (p.to(DEVICE, torch.promote_types(dtype, torch.float32)).requires_grad_() for p in grid.unbind(1))
    for key, result in value_and_gradients('triton', name, z, dict(lambda_=lambda_, kappa=kappa)).items():
        assert result.isfinite().all(), f'{key} {result}'


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('name', ['apa', 'aglu', 'neg_log_apa'])
def test_nan_stays_nan_and_where_it_is(name, dtype):
    z = drawn((2, 3, 40), dtype)
    z.data[1, 2, 7] = float('nan')
    results = value_and_gradients('triton', name, z, *arguments(z, 'nothing', True, True))
    for key in ('value', 'z'):
        assert torch.equal(results[key].isnan(), z.isnan()), key
    for key in ('lambda_', 'kappa'):
        assert results[key].isnan().tolist() == [False, False, True], key


@triton.jit(do_not_specialize=['program', 'inner', 'outer', 'blocks', 'spans', 'tiles'])
def probe(
    out_ptr,
    program,
    inner,
    outer,
    blocks,
    spans,
    tiles,
    CHANNELS_LAST: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """The offsets of the last tile of a program, without an access to them; −1 where there is no element."""
    image, span, channel, channels, positions, first, count = kernels.place(
        program, inner.to(tl.int64) * UNIT, outer, blocks, spans, tiles, CHANNELS_LAST, BLOCK_C, BLOCK_S
    )
    position = first + (count - 1) * BLOCK_S + tl.arange(0, BLOCK_S)[None, :]
    offset = kernels.offset_of(image, channel, position, channels, positions, CHANNELS_LAST)
    offset = tl.where((channel < channels) & (position < positions), offset, -1)
    tl.store(out_ptr + tl.arange(0, BLOCK_C)[:, None] * BLOCK_S + tl.arange(0, BLOCK_S)[None, :], offset)


@pytest.mark.parametrize(
    'images, channels, positions, channels_last',
    [
        (1, 1, 2**33 + 8, False),
        (1, 1, 2**31 + 5, False),
        (3, 5, 2**31, False),
        (2**11, 2**11, 950, False),
        (1, 96, 2**28, True),
        (2**12, 200, 60800, True),
    ],
)
def test_offsets_beyond_32_bits_end_where_the_tensor_ends(images, channels, positions, channels_last):
    """The last tile of the last program ends where the tensor ends."""
    tiling = launcher.tiling_of(Layout(images, channels, positions, channels_last), launcher.TILE)
    inner, outer = (channels, positions) if channels_last else (positions, channels)
    unit = 8 if inner % 8 == 0 else 1
    offsets = torch.zeros(tiling.block_c, tiling.block_s, dtype=torch.int64, device=DEVICE)
    last = images * tiling.blocks * tiling.spans - 1
    probe[(1,)](
        offsets,
        last,
        inner // unit,
        outer,
        tiling.blocks,
        tiling.spans,
        tiling.tiles,
        CHANNELS_LAST=channels_last,
        UNIT=unit,
        BLOCK_C=tiling.block_c,
        BLOCK_S=tiling.block_s,
    )
    there = offsets[offsets[:, 0] >= 0][:, offsets[0] >= 0]
    steps = (1, channels) if channels_last else (positions, 1)
    before_the_end = [torch.arange(size, device=DEVICE).flip(0) * step for size, step in zip(there.shape, steps)]
    last_offset = images * channels * positions - 1
    assert offsets.max() == last_offset
    assert torch.equal(there, last_offset - before_the_end[0][:, None] - before_the_end[1])
