"""The benchmarks at a tiny size; their counts of memory where the figure is known by hand."""

import logging
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from helpers.disk import files_no_larger_than
from helpers.paths import ROOT
from torch import nn

BENCHMARKS = ROOT / 'benchmarks'
sys.path.insert(0, str(BENCHMARKS))

import activations  # noqa: E402
import backbone  # noqa: E402
import host  # noqa: E402
import measure  # noqa: E402
import memory  # noqa: E402
import step as training_step  # noqa: E402
from helpers.tiny_runs import tinier  # noqa: E402

from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis  # noqa: E402
from apa_mmdet.ops.backends import cpu_extension  # noqa: E402
from apa_mmdet.utils import cli  # noqa: E402

CPU = torch.device('cpu')
SPREADS = [f'{step}_ms{end}' for step in ('forward', 'forward_backward') for end in ('_low', '', '_high')]


def start(script, *arguments, cwd, flags=(), **env):
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore', **env)
    run = subprocess.run(
        [sys.executable, *flags, BENCHMARKS / script, '--rounds', '2', '--out', 'out', *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout + run.stderr


def table(path, *figures):
    """Returns the rows of a CSV, whose ``figures`` must be finite and positive."""
    rows = measure.read_results(path)
    for row in rows:
        assert {'date', 'command', 'hardware', 'torch', 'apa_mmdet'} <= set(row)
        for figure in (*SPREADS, *figures):
            assert 0 < float(row[figure]) < float('inf'), f'{figure} of {row["name"]}: {row[figure]!r}'
        low, middle, high = (float(row[f'forward_ms{end}']) for end in ('_low', '', '_high'))
        assert low <= middle <= high
    return rows


def looks_like_a_chart(path):
    import cv2

    chart = cv2.imread(str(path))
    return chart.shape[0] > 300 and chart.shape[1] > 1000 and chart.std() > 20


@pytest.fixture
def torch_alone(tmp_path):
    """A folder of packages without MMDetection, MMCV, MMEngine and matplotlib; `python -S` has no others."""
    folder = tmp_path / 'packages'
    folder.mkdir()
    for package in Path(torch.__file__).parents[1].iterdir():
        if not package.name.lower().startswith(('mmdet', 'mmcv', 'mmengine', 'matplotlib', 'apa_mmdet')):
            (folder / package.name).symlink_to(package)
    return folder


@pytest.mark.slow
def test_activations_benchmark_needs_torch_alone(tmp_path, torch_alone):
    output = start(
        'activations.py',
        '--shapes',
        '8x6x5',
        '--no-compile',
        '--keep-memory',
        cwd=tmp_path,
        flags=['-S'],
        PYTHONPATH=str(torch_alone),
    )
    assert 'matplotlib is not installed' in output and not list(tmp_path.glob('out/*.png'))
    rows = table(
        tmp_path / 'out/activations_cpu.csv',
        'saved_bytes',
        'peak_bytes',
        'copy_gb_s',
        'forward_to_silu',
        'forward_backward_to_silu',
    )
    assert 'MALLOC_TRIM_THRESHOLD_=' in rows[0]['freed memory']
    assert rows[0]['command'].startswith('python benchmarks/activations.py --rounds 2')
    rows = {row['name']: row for row in rows}
    assert {
        'SiLU',
        'ReLU',
        'sigmoid',
        'aglu',
        'apa',
        'aglu per channel',
        'textbook aglu',
        'batch norm, ReLU',
        'batch norm, aglu',
        'norm, gate, sum, ReLU',
        'norm, gate, sum, aglu',
    } <= set(rows)
    assert all(row['shape'] == '2x8x6x5' and not row['note'] for row in rows.values())
    assert float(rows['SiLU']['forward_to_silu']) == 1
    whole = 2 * 8 * 6 * 5 * 4
    assert int(rows['SiLU']['saved_bytes']) == whole == int(rows['aglu']['saved_bytes'])  # λ and κ are the parameters
    assert int(rows['textbook aglu']['saved_bytes']) >= 4 * whole
    predicted = {
        name: [int(rows[name][f'predicted_{step}_bytes']) // whole for step in ('forward', 'backward')]
        for name in ('aglu', 'SiLU', 'batch norm, aglu', 'norm, gate, sum, aglu')
    }
    assert list(predicted.values()) == [[2, 3], [2, 3], [2, 3], [3, 5]]
    share = float(rows['aglu']['forward_gb_s']) / float(rows['aglu']['copy_gb_s'])
    assert float(rows['aglu']['share_of_copy']) == pytest.approx(share, rel=1e-3)


@pytest.mark.slow
def test_activations_are_checked_timed_and_drawn(tmp_path):
    output = start(
        'activations.py',
        '--check',
        '--no-compile',
        '--channels-last',
        '--dtypes',
        'bfloat16',
        '--shapes',
        '3x8x6x5',
        cwd=tmp_path,
    )
    for line in ('analytic  float64   daglu_dkappa', 'float32   dapa_dlam', 'bfloat16  daglu_dz', 'float16   aglu'):
        assert line in output
    rows = table(tmp_path / 'out/activations_cpu_channels_last.csv', 'saved_bytes')
    given = {(row['dtype'], row['shape'], row['memory_format']) for row in rows}
    assert given == {('bfloat16', '3x8x6x5', 'channels_last')}
    assert {row['name'] for row in rows if row['note'] == 'the result is float32'} == {'textbook aglu'}
    assert looks_like_a_chart(tmp_path / 'out/activations_cpu_channels_last.png')


@pytest.mark.slow
def test_the_compiled_textbook_formula_is_timed(tmp_path):
    start('activations.py', '--shapes', '8x6x5', '8x6x7', cwd=tmp_path)
    rows = table(tmp_path / 'out/activations_cpu.csv')
    rows = [row for row in rows if row['name'] == activations.COMPILED]
    assert [row['shape'] for row in rows] == ['2x8x6x5', '2x8x6x7']
    assert all(float(row['compile_s']) > 0.1 and not row['note'] for row in rows)
    assert [int(row['saved_bytes']) for row in rows] == [4 * 480, 4 * 672]


def test_wrong_values_are_timed_and_named_in_the_table_and_at_the_end(tmp_path, monkeypatch, capsys):
    right = activations.ops.aglu
    monkeypatch.setattr(activations.ops, 'aglu', lambda z, *parameters: right(z, *parameters) * (1 + 1e-11))
    options = '--check --types SiLU --rounds 2 --shapes 1x2x3x4 --device cpu --out'
    monkeypatch.setattr(sys, 'argv', ['activations.py', *options.split(), str(tmp_path)])
    with pytest.raises(SystemExit, match='WRONG VALUES on this device.* aglu by analytic in float64, 1e-11; '):
        activations.main()
    assert 'FAILED, more than 1e-12' in capsys.readouterr().out
    rows = table(tmp_path / 'activations_cpu.csv')
    assert len(rows) == 2 and all('aglu by analytic in float64' in row['wrong values'] for row in rows)


def test_a_contender_that_cannot_run_leaves_a_note_and_the_others_run(tmp_path, monkeypatch):

    def no_compiler(*args, **kwargs):
        raise RuntimeError('no compiler\nhere')

    monkeypatch.setattr(torch, 'compile', no_compiler)
    described = dict(date='today', hardware='a CPU', torch='2')
    results = measure.Table(tmp_path / 'results.csv', described, 'name note')
    args = Namespace(device='cpu', compile=True, rounds=2, memory_format='contiguous', types=None)
    activations.measure_shape(results, (1, 2, 3, 4), 'float32', args)
    measure.draw_ratios(results, 'SiLU', dict(forward='forward_ms', kept='saved_bytes'), ['dtype'], over='shape')
    assert looks_like_a_chart(tmp_path / 'results.png')
    failed = [row for row in results.rows if 'forward_ms' not in row]
    notes = [(row['name'], row['note']) for row in failed]
    assert notes == [(activations.COMPILED, 'failed: RuntimeError: no compiler')]
    assert len(results.rows) > 10 and len((tmp_path / 'results.csv').read_text().splitlines()) == 4 + len(results.rows)


def test_backbones_are_timed_and_drawn(tmp_path, monkeypatch):
    options = f'--device cpu --rounds 2 --out {tmp_path / "out"} --depths 18 --shape 1x3x64x64 --frozen-stages -1'
    monkeypatch.setattr(sys, 'argv', ['backbone.py', *options.split()])
    backbone.main()
    rows = table(tmp_path / 'out/backbone_cpu.csv', 'saved_mib', 'held_mib', 'peak_mib', 'forward_to_relu')
    assert [row['name'] for row in rows] == list(backbone.NETWORKS)
    assert {row['name'] for row in rows if row['backend'] == 'cpu'} == {backbone.APA, backbone.RECOMPUTED}
    assert {(row['depth'], row['frozen_stages'], row['shape']) for row in rows} == {('18', '-1', '1x3x64x64')}
    saved = {row['name']: float(row['saved_mib']) for row in rows}
    assert saved[backbone.RECOMPUTED] < 0.7 * saved[backbone.APA] < 0.7 * saved[backbone.RELU]
    assert looks_like_a_chart(tmp_path / 'out/backbone_cpu.png')


@pytest.mark.parametrize('frozen_stages', [1, -1])
@pytest.mark.parametrize('name', backbone.NETWORKS)
def test_saved_bytes_count_all_large_tensors_that_a_forward_holds(name, frozen_stages):
    net, image = backbone.build(name, 18, frozen_stages, CPU), torch.randn(1, 3, 256, 256)
    forward = backbone.steps(net, image, torch.float32)['forward']
    # the image was there before; the first convolution keeps it if it is trained
    counted = memory.saved_bytes(forward, [image, *net.parameters(), *net.buffers()], with_results=True)
    assert memory.memory_of(forward, CPU).held == pytest.approx(counted, rel=0.02)


def test_saved_bytes_equal_counts_by_hand():
    x, n = torch.randn(1000, requires_grad=True), 4000
    conv = nn.Conv2d(2, 2, 1)
    image = torch.randn(1, 2, 10, 10, requires_grad=True)
    assert memory.saved_bytes(lambda: x.sigmoid().exp()) == 2 * n  # either result
    assert memory.saved_bytes(lambda: x.sin().cos()) == 2 * n  # either input
    assert memory.saved_bytes(lambda: x.sigmoid().exp(), with_results=True) == 2 * n  # it is one of them
    assert memory.saved_bytes(lambda: x.sin(), with_results=True) == 2 * n
    assert memory.saved_bytes(lambda: x * x) == n  # twice the same
    assert memory.saved_bytes(lambda: x[:10].sin()) == n  # a view keeps the whole storage
    assert memory.saved_bytes(lambda: x.exp() > 0) == 0  # freed when the forward returns
    assert memory.saved_bytes(lambda: conv(image), conv.parameters()) == 800
    assert memory.saved_bytes(lambda: conv(image)) == 800 + 16  # the weight; the bias is not needed


def test_saved_bytes_include_what_other_hooks_pack():
    x = torch.randn(1000, requires_grad=True)

    def forward():
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.half(), lambda t: t.float()):
            y = x.sin()
        return y.sin()

    assert memory.saved_bytes(forward) == 2000 + 4000
    assert memory.saved_bytes(lambda: x.sin()) == 4000, 'the hooks of torch are not what they were'


def test_peak_and_held_memory_equal_counts_by_hand():
    x, n = torch.randn(1000, requires_grad=True), 4000

    def without_backward():
        with torch.no_grad():
            y = x.exp()
            z = y.exp()
            w = torch.cat([y, z])  # four times as much as x now
            del y, z
            return w.exp()

    assert memory.memory_of(without_backward, CPU) == (4 * n, 2 * n)
    gradient = torch.ones(1000)
    assert memory.memory_of(lambda: torch.autograd.grad(x.sigmoid(), x, gradient), CPU) == (2 * n, n)


def test_a_table_that_cannot_be_written_is_as_it_was(tmp_path, capsys):
    results = measure.Table(tmp_path / 'results.csv', dict(torch='2'), 'name')
    results.add(name='first', note='')
    before = results.path.read_text()
    with pytest.raises(OSError), files_no_larger_than(len(before) + 100):
        results.add(name='second', note='long' * 100)
    assert results.path.read_text() == before


def test_times_are_median_and_quartiles():
    samples = [measure.Sample(ms, 0.0) for ms in (5.0, 1.0, 2.0, 4.0, 3.0)]
    assert measure.milliseconds(samples) == dict(ms=3, ms_low=2, ms_high=4)


def test_contenders_take_turns_in_another_order_each_round():
    turns = []
    calls = {name: lambda name=name: turns.append(name) for name in 'abc'}
    samples = measure.round_robin(calls, 4, 'cpu')
    rounds = [turns[i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(turn) == ['a', 'b', 'c'] for turn in rounds) and len(set(map(tuple, rounds))) > 1
    assert all(len(taken) == 4 and min(taken) > (0, 0) for taken in samples.values())


@pytest.fixture
def two_detectors(tmp_path):
    """The files of two configs with other activations, on data that are drawn."""
    make_tiny_lvis(tmp_path / 'data', train=4, val=2, size=(96, 96), seed=0, progress=False)
    paths = []
    for kind in ('AGLU', 'ReLU'):
        cfg = tinier(tmp_path / 'data', tmp_path, **{'model.backbone.act_cfg.type': kind})
        paths.append(tmp_path / f'{kind.lower()}.py')
        cfg.dump(paths[-1])
    return paths


def test_training_steps_of_two_detectors_are_measured(two_detectors, tmp_path, monkeypatch, capsys):
    arguments = ['--device', 'cpu', '--rounds', '2', '--batches', '1', '--out', tmp_path / 'out', *two_detectors]
    monkeypatch.setattr(sys, 'argv', ['step.py', *map(str, arguments)])
    monkeypatch.setattr(logging.root.manager, 'disable', 0)  # put back in the end: the tool silences MMEngine
    training_step.main()
    assert len(capsys.readouterr().out.splitlines()) < 15
    aglu, relu = measure.read_results(tmp_path / 'out/step_cpu.csv')
    assert aglu['mmdet'] and aglu['processes'] == '1' and aglu['buckets'] == '0'
    assert aglu['backend'] == 'cpu'
    assert (aglu['config'], relu['config'], float(aglu['to_first'])) == ('aglu', 'relu', 1)
    for row in (aglu, relu):
        assert 0 < float(row['step_ms_low']) <= float(row['step_ms']) <= float(row['step_ms_high'])
    assert float(relu['to_first']) == pytest.approx(float(relu['step_ms']) / float(aglu['step_ms']), rel=1e-3)
    assert int(aglu['parameters']) > int(relu['parameters']) > 1e5
    assert 4 * int(relu['parameters']) < int(relu['peak_bytes']) != int(aglu['peak_bytes'])


def test_step_reports_missing_data_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, 'argv', ['step.py', '--device', 'cpu', str(ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py')]
    )
    monkeypatch.setattr(logging.root.manager, 'disable', 0)
    with pytest.raises(SystemExit) as ended:
        cli.run(training_step.main)
    assert ended.value.code.startswith(
        'step: missing: data/tiny_lvis/annotations/lvis_v1_train.json; make the data set with'
    )


def test_every_step_does_the_same_work_for_every_detector(two_detectors):
    from mmengine.config import Config

    configs = [Config.fromfile(path) for path in two_detectors]
    for cfg in configs:
        cfg.model.train_cfg.rcnn.sampler.num = 64  # a quarter of an image's may be objects: more than it has
    batches = training_step.batches_of(configs[0], 2)
    shapes = []
    for cfg in configs:
        step = training_step.Step(cfg, batches, CPU)
        heads = [step.model.roi_head.bbox_head, step.model.roi_head.mask_head]
        for head in heads:
            head.register_forward_pre_hook(lambda head, inputs: shapes[-1].append(len(inputs[0])))
        before = [parameter.detach().clone() for parameter in step.model.parameters()]
        for _ in range(3):
            shapes.append([])
            step()
        assert all(torch.equal(old, new) for old, new in zip(before, step.model.parameters()))
        assert step.wrapper.optimizer.state, 'the optimizer made its steps'
    assert shapes == [[128, 32]] * 6, 'RoIs of two images'


@pytest.mark.slow
def test_every_part_of_the_heads_is_measured(tmp_path):
    assert 'results: out/head_cpu.csv' in start('head.py', '--rois', '256', cwd=tmp_path)
    results = measure.read_results(tmp_path / 'out/head_cpu.csv')
    rows = {(row['name'].split(',')[0], row['part']): row for row in results}
    assert len(rows) == 18 and all(0 < float(row['ms']) < float('inf') for row in rows.values())
    for name in ('wrapped Cauchy', 'Linear'):  # ours: no more than twice the logits
        assert all(float(rows[name, part]['peak_logits']) <= 2.05 for part in ('loss', 'accuracy', 'detections'))


@pytest.mark.skipif(not cpu_extension.is_supported(), reason='torch is too old for the extension')
def test_host_time_of_networks_and_sites_is_measured(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, 'argv', ['host.py', '--rounds', '2', '--out', str(tmp_path)])
    try:
        host.main()
    finally:
        torch.set_num_threads(threads)
    rows = {row['name']: row for row in measure.read_results(tmp_path / 'host_cpu.csv')}
    compared = [name for name in rows if 'launch' not in name]
    assert (len(compared), len(rows)) in ((4, 4), (6, 9))  # without Triton and with it
    for name in compared:
        assert all(0 < float(rows[name][f'{step}_to_relu']) < float('inf') for step in ('forward', 'backward'))
    assert all(float(row['forward_ms']) > 0 for row in rows.values())


@pytest.mark.slow
def test_lvis_metrics_agree_on_random_predictions(tmp_path):
    run = subprocess.run(
        [sys.executable, BENCHMARKS / 'lvis_metric.py', '--images', '8', '--out', 'out'],
        cwd=tmp_path,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    results = measure.read_results(tmp_path / 'out/lvis_metric_8.csv')
    rows = {(row['name'], row['metric']): row for row in results}
    assert len(rows) == 6 and all(float(row['seconds']) > 0 and not row['note'] for row in rows.values())
    for (name, metric), row in rows.items():
        for figure in ('AP', 'APr', 'APc', 'APf'):  # ours has three digits, as LVISMetric
            wanted = float(rows['lvis', metric][figure])
            wanted = float('nan') if wanted == -1 and name == 'FastLVISMetric' else wanted  # nothing to average
            assert float(row[figure]) == pytest.approx(wanted, abs=5.1e-4, nan_ok=True), (name, figure)
    assert 0 < float(rows['lvis', 'bbox']['AP']) < 1


@pytest.mark.slow
def test_validation_and_data_sets_are_measured(tmp_path):
    parts = 'validate', 'build', 'build-ours'
    run = subprocess.run(
        [sys.executable, BENCHMARKS / 'annotations.py', '--scale', '0.001', '--parts', *parts, '--out', 'out'],
        cwd=tmp_path,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    (path,) = tmp_path.glob('out/*.csv')
    rows = {(row['name'], row['data_set']): row for row in measure.read_results(path)}
    assert len(rows) == 8 and all(float(row['cpu_seconds']) > 0 and not row['note'] for row in rows.values())
    assert float(rows['validate again', 'lvis']['cpu_seconds']) < float(rows['validate', 'lvis']['cpu_seconds'])
    assert all(float(row['worker_mib']) > 0 for (part, _), row in rows.items() if 'build' in part)
