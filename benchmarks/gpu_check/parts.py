"""What ``make gpu-check`` runs, in the order of what matters most: a table, and nothing else.

A part is a process of its own with a limit in seconds. ``{bundle}``, ``{work}``, ``{out}`` and ``{mmcv}`` stand for
paths, ``{minutes}`` for the time left. ``cpu`` has the arguments of a rehearsal without a GPU, None where a part needs
one.
"""

from typing import NamedTuple

APA, RELU = 'configs/lvis/mask_rcnn_se_r50_apa.py', 'configs/lvis/mask_rcnn_se_r50_relu_gol.py'
LARGE, SMALL = ('--drawn', '2x3x800x1333'), ('--drawn', '1x3x64x96')
OUT = ('--out', '{out}')
TINY = ('configs/tiny_lvis/mask_rcnn_se_r18_apa_softmax.py', 'configs/tiny_lvis/mask_rcnn_se_r18_relu_softmax.py')
# the largest tensors of an SE-R50, on two images 64 MiB and more in every dtype, and the tensor of the project's goal
SITES = ('64x400x667', '256x200x334', '4x256x80x96')
# those that do something else where there is a GPU
TESTS = (
    *('tests/test_ops/test_backends/test_triton.py', 'tests/test_models/test_activations/test_contract.py'),
    *('tests/test_models/test_layers/test_carafe.py', 'tests/test_engine/test_hooks/test_skip_non_finite_hook.py'),
)
_READY = ('prepare',)  # a failed build of mmcv is reported by each part that misses an operator


class Part(NamedTuple):
    """needs: parts without which this one is skipped. file: what it runs; skipped where this checkout lacks it."""

    name: str
    limit: float
    file: str
    arguments: tuple[str, ...] = ()
    cpu: tuple[str, ...] | None = ()
    needs: tuple[str, ...] = ()


def _step(name: str, limit: float, *options: str, rounds: int = 8, needs: tuple[str, ...] = _READY) -> Part:
    arguments = (APA, RELU, *LARGE, '--rounds', str(rounds), *OUT, *options)
    cpu = None if options else (*TINY, *SMALL, '--rounds', '2', *OUT)  # MMEngine's wrapper for --amp asks for a GPU
    return Part(name, limit, 'benchmarks/step.py', arguments, cpu, needs)


def _backbone(name: str, limit: float, *options: str) -> Part:
    arguments = ('--frozen-stages', '1', '--dtypes', 'float32', 'bfloat16', 'float16', '--rounds', '8')
    out = (*options, *OUT)
    cpu = ('--depths', '18', '--shape', SMALL[1], '--rounds', '2', *out)
    return Part(name, limit, 'benchmarks/backbone.py', (*arguments, *out), cpu, _READY)


def _activations(name: str, limit: float, *options: str) -> Part:
    out = ('--no-compile', *options, *OUT)
    cpu = ('--shapes', '8x6x5', '--rounds', '2', *out)
    return Part(name, limit, 'benchmarks/activations.py', ('--shapes', *SITES, '--rounds', '10', *out), cpu)


def _mmcv(name: str, limit: float, *options: str) -> Part:
    arguments = ('--source', '{mmcv}', '--objects', '{work}/built/mmcv', *options)
    return Part(name, limit, 'benchmarks/gpu_check/mmcv_operators.py', arguments, None, ('prepare',))


_ONE_PROCESS = ('torch.distributed.run', '--nproc-per-node', '1', 'benchmarks/step.py')
_SHORT = ('--rounds', '2', *OUT)
_TESTS = ('pytest', '-q', '-p', 'no:cacheprovider', '--durations=5', '--tb=short', '--maxfail=12')

PARTS = (
    Part('machine', 30, 'benchmarks/gpu_check/machine.py', ('{out}',), ('{out}',)),
    Part('prepare', 60, 'benchmarks/gpu_check/prepare.py', ('{bundle}', '{work}'), ('{bundle}', '{work}')),
    _mmcv('mmcv', 170, '--minutes', '2.7'),  # before all that imports mmdet: 50 s on 16 cores
    # with its self-test, after which kernels are launched from C++
    Part('extension', 150, '-m', ('apa_mmdet.ops.backends',), ('apa_mmdet.ops.backends',), _READY),
    # fails in the end, with all times, if a value differs from the 60-digit ones
    _activations('activations', 110, '--check'),
    Part('host', 30, 'benchmarks/host.py', OUT, None, _READY),
    _backbone('backbone', 110),
    _step('step', 60),
    _step('step, launched from Python', 60, '--backend', 'triton'),
    Part('tiles', 75, 'benchmarks/gpu_check/tiles.py', OUT, ('--shape', '1x2x6x5', *_SHORT)),
    Part('tests', 75, '-m', (*_TESTS, *TESTS, '-n', '8'), (*_TESTS, 'tests/test_ops/test_reference.py'), _READY),
    Part('profile', 45, 'benchmarks/profile_step.py', (APA, RELU, *LARGE, *OUT), (*TINY, *SMALL, *OUT), _READY),
    _step('step bfloat16', 40, '--amp', 'bfloat16', rounds=2),
    _step('step float16', 40, '--amp', 'float16', rounds=2),
    Part('nccl', 45, '-m', (*_ONE_PROCESS, APA, *LARGE, *_SHORT), (*_ONE_PROCESS, TINY[0], *SMALL, *_SHORT), _READY),
    Part('host of a CPU', 45, 'benchmarks/host.py', ('--device', 'cpu', *OUT), OUT, ('prepare', 'extension')),
    _backbone('backbone channels_last', 45, '--channels-last'),
    _activations('activations channels_last', 45, '--channels-last'),
    _mmcv('mmcv, the rest', 600, '--all', '--minutes', '{minutes}'),
)
