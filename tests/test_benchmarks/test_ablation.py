"""The ablation: runs of the real tools, what is skipped, and the table of what there is."""

import csv
import multiprocessing
import os
import subprocess
import sys
import time

import pytest
from helpers.paths import ROOT

from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis

BENCHMARKS = ROOT / 'benchmarks'
sys.path.insert(0, str(BENCHMARKS))

import ablation  # noqa: E402
import ablation_table as table  # noqa: E402
import measure  # noqa: E402

SAID = {
    'date': '2026-11-22 08:00 UTC',
    'command': 'python ablation.py',
    'hardware': 'an abacus, 2 cores',
    'python': '3.11.7',
    'torch': '2.13.0',
    'mmdet': '3.3.0',
}
PAGE = f'# Title\n\nbefore\n\n{table.BEGIN}\nan old table\n{table.END}\n\nafter\n'


def row(name, seed, ap=0.3, **others):
    return {
        **dict(
            name=name,
            seed=seed,
            epochs=5,
            mask_ap=ap,
            mask_apr=-1.0,
            mask_apc=ap,
            mask_apf=ap,
            box_ap=ap,
            minutes=12.0,
            options='',
            commit='abc1234',
            config=f'of {name}',
            note='',
        ),
        **others,
    }


def results(path, rows, said=SAID):
    for one in rows:
        table.add(path, one, said)
    return path


def rows_of(*rows):
    return [{**SAID, **{key: str(value) for key, value in one.items()}} for one in rows]


def cells(page, activation, loss):
    line = next(line for line in page.splitlines() if line.startswith(f'| {activation} |') and f'| {loss} |' in line)
    return [cell.strip() for cell in line.strip('|').split('|')]


def refusal(capsys, *arguments):
    """The line that the tool ends with."""
    assert ablation.main([str(a) for a in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith('ablation: ') and said.count('\n') == 1
    return said


def test_every_contender_has_its_config_and_differs_from_the_others():
    assert len(set(table.CONTENDERS.values())) == 7
    for contender in table.CONTENDERS.values():
        assert (ROOT / f'configs/tiny_lvis/{contender.config}.py').is_file()


# The table


def test_the_table_says_how_many_seeds_there_are(tmp_path, capsys):
    rows = [row('relu-softmax', 0, 0.25), row('acon', 0, 0.3), row('acon', 1, 0.4), row('acon', 2, 0.5)]
    out, page = results(tmp_path / 'a.csv', rows), tmp_path / 'page.md'
    page.write_text(PAGE)
    assert ablation.main(['--out', str(out), '--table', str(page)]) == 0
    text = page.read_text()
    assert text.startswith('# Title\n\nbefore\n') and text.endswith('\nafter\n') and 'old' not in text
    assert cells(text, 'ACON-C', 'GOL')[3:] == ['3', '0.400 ± 0.100', '–', *['0.400 ± 0.100'] * 2, *['–'] * 3]
    assert cells(text, 'ReLU', 'softmax CE')[3:6] == ['1', '0.250', '–'], 'one seed has no spread'
    assert cells(text, 'AGLU', 'GOL')[3:] == ['0', *['–'] * 7]
    for line in (
        '4 of 21 runs so far.',
        'Of fewer than 3 seeds: ReLU with softmax CE.',
        'Time and memory: not measured.',
        'AP: 5 epochs each; 2026-11-22; commit abc1234.',
        'an abacus, 2 cores; Python 3.11.7, PyTorch 2.13.0, MMDetection 3.3.0.',
    ):
        assert line in text.splitlines()
    assert ablation.main(['--out', str(out), '--table', str(page)]) == 0
    assert page.read_text() == text, 'it can be written again'


def test_a_table_of_nothing_and_of_all():
    assert '0 of 21 runs so far.' in table.markdown([])
    every = [row(name, seed) for name in table.CONTENDERS for seed in table.SEEDS]
    assert 'All 21 runs.' in table.markdown(rows_of(*every)) and 'fewer' not in table.markdown(rows_of(*every))
    others = table.markdown(rows_of(*(row('acon', seed, 0.1 * seed) for seed in range(1, 22))))
    assert '2 of 21 runs so far.' in others and 'Runs of other seeds (3, 4, 5' in others
    assert cells(others, 'ACON-C', 'GOL')[3:5] == ['2', '0.150 ± 0.071']


def test_a_run_that_diverged_counts_and_is_named():
    text = table.markdown(rows_of(row('acon', 0, 0.3), row('acon', 1, 0.0, mask_apr=0.0, note='diverged: loss is nan')))
    assert cells(text, 'ACON-C', 'GOL')[3:5] == ['2', '0.150 ± 0.212']
    assert 'Diverged, and counted with the AP that was left, mostly 0: ACON-C with GOL (seed 1).' in text


def test_every_machine_and_commit_is_named(tmp_path):
    faster = dict(SAID, hardware='a faster abacus', cuda='12.6')
    out = results(tmp_path / 'a.csv', [row('acon', 0)])
    results(out, [row('acon', 1, commit='def5678+')], faster)
    results(out, [row('acon', 2)], SAID)  # by a process that has added already
    text = table.markdown(table.read(out))
    assert 'an abacus, 2 cores;' in text and 'a faster abacus;' in text and 'commit abc1234, def5678+.' in text
    assert [(r['hardware'], r.get('cuda')) for r in table.read(out)] == [
        ('an abacus, 2 cores', None),
        ('a faster abacus', '12.6'),
        ('an abacus, 2 cores', None),
    ]


def test_time_and_memory_come_from_the_other_benchmark(tmp_path, capsys):
    out, page, steps = results(tmp_path / 'a.csv', [row('acon', 0)]), tmp_path / 'page.md', tmp_path / 'step_cpu.csv'
    page.write_text(PAGE)
    columns = ('config', 'device', *table.STEP_COLUMNS, 'parameters')
    written = measure.Table(steps, columns, dict(SAID, command='python step.py', hardware='an idle abacus'))
    written.add(
        config='mask_rcnn_se_r18_acon',
        device='cpu',
        step_ms=1500.4,
        step_ms_low=1400.0,
        step_ms_high=1600.0,
        to_first=1.256,
        peak_bytes=700 * 2**20,
        parameters=1,
    )
    assert ablation.main(['--out', str(out), '--table', str(page), '--steps', str(steps)]) == 0
    text = page.read_text()
    assert cells(text, 'ACON-C', 'GOL')[8:] == ['1500 (1400–1600)', '1.26', '700']
    assert cells(text, 'APALU', 'GOL')[8:] == ['–'] * 3
    assert 'Time and memory of a step: `python step.py`, 2026-11-22; ' in text and 'an idle abacus; Python' in text
    steps.write_text(steps.read_text()[:-15])
    assert 'is no complete table of benchmarks/step.py: it lacks peak_bytes' in refusal(
        capsys, '--out', out, '--table', page, '--steps', steps
    )
    assert page.read_text() == text


@pytest.mark.parametrize(
    'what, others',
    [
        ("runs of different options cannot be compared: '', 'lr=1'; keep", dict(options='lr=1')),
        ("runs of different epochs cannot be compared: '5', '6'; keep", dict(epochs=6)),
        ('runs of acon with different configs cannot be averaged: 1234567, of acon; keep', dict(config='1234567')),
    ],
)
def test_what_cannot_be_compared_is_refused(what, others, tmp_path, capsys):
    out, page = results(tmp_path / 'a.csv', [row('acon', 0), row('acon', 1, **others)]), tmp_path / 'page.md'
    page.write_text(PAGE)
    assert f'ablation: {what} them in different files with --out\n' == refusal(capsys, '--out', out, '--table', page)
    assert page.read_text() == PAGE


def test_the_page_has_its_place_for_the_table(tmp_path, capsys):
    text = (ROOT / 'docs/ablation.md').read_text()
    assert text.index(table.BEGIN) < text.index(table.END)
    out, page = results(tmp_path / 'a.csv', [row('acon', 0)]), tmp_path / 'page.md'
    page.write_text('no marks')
    assert 'has no place for the table: it has to hold the lines <!--' in refusal(capsys, '--out', out, '--table', page)


# The CSV


def test_a_file_that_is_cut_off_anywhere_goes_on(tmp_path):
    rows = [row('acon', 0, note='diverged: κ is nan'), row('apalu', 1, commit='def5678', options='a=[1,2] b="x y"')]
    out = tmp_path / 'a.csv'
    results(out, rows[:1])
    results(out, rows[1:], dict(SAID, date='2026-11-23 08:00 UTC'))
    with_remark = out.read_bytes().replace(b'# python', b'# a remark\n#\n# python')
    whole = table.read(out)
    for cut in range(len(with_remark) + 1):
        out.write_bytes(with_remark[:cut])
        left = table.read(out)
        assert left == whole[: len(left)]
        for one, read in zip(rows[len(left) :], whole[len(left) :]):
            table.add(out, one, {key: read[key] for key in SAID})
        assert table.read(out) == whole, cut
    assert [path.name for path in tmp_path.iterdir()] == ['a.csv']


@pytest.mark.parametrize(
    'change, says',
    [
        (lambda lines: lines + lines[-1:], 'line 9, cannot be counted: this run is there already'),
        (
            lambda lines: lines + ['elu,' + lines[-1].split(',', 1)[1]],
            "line 9, .* there is no contender 'elu', only relu-softmax",
        ),
        (
            lambda lines: lines[:-1] + [lines[-1].replace('0.3', 'nan')],
            "line 8, .*: mask_ap is 'nan', no finite number",
        ),
        (
            lambda lines: lines[:-1] + [lines[-1].replace('acon,0', 'acon,x')],
            "line 8, .*: seed is 'x', no whole number",
        ),
        (lambda lines: lines[:-1] + [lines[-1] + ',1'], 'line 8, .*: it has 14 cells instead of 13'),
        (lambda lines: lines[:3] + lines[4:], 'line 7, .*: no line with # above it says its hardware'),
        (lambda lines: ['name,ms', 'a,1'], 'has other columns than this script writes; name another file with --out'),
    ],
)
def test_what_is_no_run_is_refused_with_its_line(change, says, tmp_path):
    out = results(tmp_path / 'a.csv', [row('acon', 0)])
    lines = out.read_text().splitlines()
    assert len(table.read(out)) == 1 and len(lines) == 8
    out.write_text('\n'.join(change(lines)) + '\n')
    with pytest.raises(ValueError, match=says):
        table.read(out)


# Runs


def test_what_is_there_is_skipped_and_no_run_begins_without_time(tmp_path, capsys):
    out = results(tmp_path / 'a.csv', [row(name, 0) for name in table.CONTENDERS])
    before = out.read_text()
    assert ablation.main(['--out', str(out), '--seeds', '0']) == 0
    assert f'7 runs are in {out}, 0 to do' in capsys.readouterr().out
    assert ablation.main(['--out', str(out), '--max-hours', '0.1']) == 0  # the longest took 12 minutes
    said = capsys.readouterr().out
    assert (
        '14 to do' in said
        and 'of 12 minutes, the longest so far, would not end within --max-hours 0.1; 14 left' in said
    )
    assert out.read_text() == before
    assert 'holds runs with other --cfg-options; name another' in refusal(capsys, '--out', out, '--cfg-options', 'a=1')
    assert 'there are no results yet: ' in refusal(capsys, '--out', tmp_path / 'none.csv', '--table')


@pytest.mark.parametrize('text', ['nan', '0', '-1', 'long'])
def test_hours_are_a_number_above_0(text, capsys):
    with pytest.raises(SystemExit):
        ablation.main([f'--max-hours={text}'])
    assert f"argument --max-hours: '{text}' is not a number above 0" in capsys.readouterr().err


def test_the_first_seed_of_every_contender_comes_first_and_each_once(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(ablation, 'run_all', lambda todo, args: seen.extend(todo) or 0)
    out = results(tmp_path / 'a.csv', [row('relu-gol', 0)])
    assert ablation.main(['--out', str(out), '--runs', 'relu-gol', 'acon', 'acon']) == 0
    assert seen == [('acon', 0), ('relu-gol', 1), ('acon', 1), ('relu-gol', 2), ('acon', 2)]


def test_the_commit_says_whether_tracked_files_differ(tmp_path, monkeypatch):
    checkout = tmp_path / 'checkout'
    checkout.mkdir()
    monkeypatch.setattr(measure, 'ROOT', checkout)
    git = ['git', '-c', 'user.name=a', '-c', 'user.email=a@b.c']
    subprocess.run([*git, 'init', '-q', tmp_path], check=True)
    assert ablation.commit() == 'unknown', 'the repository around it is not its own'
    (checkout / 'file').write_text('1')
    for arguments in (['init', '-q'], ['add', 'file'], ['commit', '-qm', 'one']):
        subprocess.run([*git, *arguments], cwd=checkout, check=True)
    head = ablation.commit()
    assert len(head) >= 7 and head.isalnum()
    (checkout / 'other').write_text('untracked')
    assert ablation.commit() == head
    (checkout / 'file').write_text('2')
    assert ablation.commit() == head + '+'
    monkeypatch.setenv('PATH', str(tmp_path))
    assert ablation.commit() == 'unknown'


TRAIN = """
import json, os, signal, sys, time
from pathlib import Path
config, folder = Path(sys.argv[1]), Path(sys.argv[3])
(folder / config.name).write_text('train_cfg = dict(max_epochs=3)')
logs = folder / 'now/vis_data'
logs.mkdir(parents=True)
METRICS = {"lvis/segm_AP": .5, "lvis/segm_APr": .25, "lvis/segm_APc": .5, "lvis/segm_APf": .5, "lvis/bbox_AP": .5}


def log(*lines):
    (logs / 'scalars.json').write_text(''.join(json.dumps(line) + '\\n' for line in lines))


log(dict(loss=2., step=20))
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Instead of this checkout one whose tools/train.py ends as it is told: what surrounds a run is tested here."""
    root = tmp_path / 'checkout'
    configs = root / 'configs/tiny_lvis'
    configs.mkdir(parents=True)
    (root / 'tools').mkdir()
    (configs / 'base.py').write_text('train_cfg = dict(max_epochs=3)')
    for contender in table.CONTENDERS.values():
        (configs / f'{contender.config}.py').write_text("_base_ = './base.py'")
    monkeypatch.setattr(measure, 'ROOT', root)
    monkeypatch.setattr(ablation, 'CONFIGS', configs)

    def ends_with(text):
        (root / 'tools/train.py').write_text(TRAIN + text)
        return ['--out', str(tmp_path / 'runs/a.csv'), '--seeds', '0', '--runs', 'acon']

    return ends_with


def test_another_config_than_that_of_the_other_seeds_is_not_run(checkout, capsys):
    assert ablation.main(checkout('log(METRICS)')) == 0
    leaf, base = ablation.CONFIGS / f'{table.CONTENDERS["acon"].config}.py', ablation.CONFIGS / 'base.py'
    leaf.write_text(leaf.read_text() + '  # a remark')
    assert ablation.main([*checkout('log(METRICS)'), '--seeds', '1']) == 0
    base.write_text(base.read_text() + '\nlr = 1')
    capsys.readouterr()
    assert ablation.main([*checkout('log(METRICS)'), '--seeds', '2']) == 1
    assert 'ablation: acon, seed 2, failed: runs of acon with different configs cannot' in capsys.readouterr().out


@pytest.mark.parametrize(
    'end, ap, note',
    [
        ('log(dict(loss=1.), METRICS)', 0.5, ''),
        ('log(dict(loss=float("nan")), METRICS)', 0.5, 'diverged: the last loss is nan'),
        (
            'raise FloatingPointError("iteration 21: loss_cls is nan")',
            0,
            'diverged: FloatingPointError: iteration 21: loss_cls is nan',
        ),
        (
            'raise ValueError("image 3: bboxes of its prediction are not finite")',
            0,
            'diverged: ValueError: image 3: bboxes of its prediction are not finite',
        ),
        (
            'print("ERROR - The testing results of the whole dataset is empty.")',
            0,
            'diverged: The testing results of the whole dataset is empty',
        ),
        ('print("The testing results of the whole dataset is empty."); log(dict(loss=1.), METRICS)', 0.5, ''),
    ],
)
def test_a_run_that_diverges_counts(end, ap, note, checkout, tmp_path, capsys):
    assert ablation.main(checkout(end)) == 0, capsys.readouterr().out
    (found,) = table.read(tmp_path / 'runs/a.csv')
    assert (float(found['mask_ap']), float(found['mask_apr']), found['note']) == (ap, ap / 2, note)
    assert found['epochs'] == '3' and 0 < float(found['minutes']) < 2 and found['commit'] == 'unknown'
    assert note in capsys.readouterr().out and (tmp_path / 'runs/a/acon_seed0/output.txt').is_file()


@pytest.mark.parametrize(
    'end, says',
    [
        ('sys.exit("no data")', 'exit status 1: no data; all it said: '),
        ('sys.exit(3)', 'exit status 3: it said nothing; all it said: '),
        ('os.kill(os.getpid(), signal.SIGKILL)', 'signal 9 (Killed): it said nothing; all it said: '),
        ('', 'exit status 0: its logs hold no result of an evaluation; all it said: '),
        ('log(dict(METRICS, **{"lvis/segm_APr": float("nan")}))', 'exit status 0: its logs hold no result'),
        ('(logs / "scalars.json").write_text(\'{"lo\')', 'is broken: Unterminated string'),
    ],
)
def test_a_run_that_fails_fails_alone(end, says, checkout, tmp_path, capsys):
    broken = checkout(f'if "acon" in config.name:\n    {end or "pass"}\nelse:\n    log(METRICS)')
    assert ablation.main([*broken, 'apalu']) == 1
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith('ablation: ')]
    assert len(said) == 1 and said[0].startswith('ablation: acon, seed 0, failed: ') and says in said[0]
    assert [table.key_of(found) for found in table.read(tmp_path / 'runs/a.csv')] == [('apalu', 0)]
    assert ablation.main([*checkout('log(METRICS)'), 'apalu']) == 0, 'what failed is tried again'
    assert len(table.read(tmp_path / 'runs/a.csv')) == 2


def test_a_run_of_another_process_is_left_alone_even_when_its_parent_was_killed(checkout, tmp_path, capsys):
    arguments = checkout('while not Path(folder, "go").exists():\n    time.sleep(.01)\nlog(METRICS)')
    other = multiprocessing.get_context('fork').Process(target=ablation.main, args=(arguments,))
    other.start()
    folder = tmp_path / 'runs/a/acon_seed0'
    while not (folder / 'now/vis_data/scalars.json').exists():
        time.sleep(0.01)
    mark = folder / 'mark'
    mark.touch()
    assert ablation.main([*arguments, 'apalu', '--max-hours', '1e-9']) == 0
    said = capsys.readouterr().out
    assert 'acon, seed 0, runs in another process: skipped\n' in said and 'stopped: ' in said
    other.kill()
    other.join()
    assert ablation.main(arguments) == 0 and mark.exists()
    assert 'runs in another process: skipped' in capsys.readouterr().out
    (folder / 'go').touch()
    with ablation.locked(tmp_path / 'runs/a/acon_seed0.lock', wait=True):  # until the orphan has ended
        assert not table.read(tmp_path / 'runs/a.csv')
    assert ablation.main([*checkout('log(METRICS)')]) == 0 and not mark.exists()
    assert [table.key_of(found) for found in table.read(tmp_path / 'runs/a.csv')] == [('acon', 0)]


def test_a_run_that_another_process_has_done_meanwhile_is_not_done_again(checkout, tmp_path, capsys):
    arguments = checkout('log(METRICS)')
    todo = [('acon', 0), ('apalu', 0)]
    results(tmp_path / 'runs/a.csv', [row('acon', 0)])
    assert ablation.run_all(todo, ablation.parse_args(arguments)) == 0
    assert 'acon, seed 0, was done by another process\n' in capsys.readouterr().out
    assert [float(found['mask_ap']) for found in table.read(tmp_path / 'runs/a.csv')] == [0.3, 0.5]


@pytest.mark.slow
def test_two_contenders_are_trained_and_a_run_that_fails_is_tried_again(tmp_path):
    make_tiny_lvis(tmp_path / 'data/tiny_lvis', train=16, val=6, size=(96, 96), seed=0, progress=False)
    command = [
        sys.executable,
        BENCHMARKS / 'ablation.py',
        '--out',
        'few.csv',
        '--seeds',
        '3',
        '--runs',
        'relu-softmax',
        'relu-gol',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'train_dataloader.dataset.oversample_thr=1e-5',
        'default_hooks.logger.interval=1',
        'model.test_cfg.rcnn.score_thr=1e-5',
    ]

    def start():
        env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
        return subprocess.run([str(c) for c in command], cwd=tmp_path, env=env, capture_output=True, text=True)

    def rows():
        lines = (tmp_path / 'few.csv').read_text().splitlines()
        assert any(line.startswith('# hardware: ') for line in lines)
        assert any(line.startswith('# command: ') and 'ablation.py --out few.csv' in line for line in lines)
        return list(csv.DictReader(line for line in lines if not line.startswith('#')))

    weights = tmp_path / 'few/relu-gol_seed3/epoch_1.pth'
    hidden = tmp_path / 'data/tiny_lvis/annotations/lvis_v1_train.json'
    hidden.rename(tmp_path / 'hidden.json')
    run = start()
    assert run.returncode == 1 and not weights.exists()
    said = [line for line in run.stdout.splitlines() if line.startswith('ablation: ')]
    assert len(said) == 2 and 'relu-gol, seed 3, failed: ' in said[1] and 'make_tiny_lvis.py' in said[1], run.stdout
    (tmp_path / 'hidden.json').rename(hidden)
    run = start()
    assert run.returncode == 0, run.stdout + run.stderr
    assert [(r['name'], r['seed'], r['epochs']) for r in rows()] == [('relu-softmax', '3', '1'), ('relu-gol', '3', '1')]
    for found in rows():
        assert -1 <= float(found['mask_ap']) < 1 and 0 < float(found['minutes']) < 30 and not found['note']
        assert len(found['config']) == 7 and found['commit']
    logs = next((tmp_path / 'few/relu-gol_seed3').glob('*/*.log')).read_text()
    assert 'seed=3' in logs
    before = weights.stat().st_mtime
    run = start()
    assert '2 runs are in few.csv, 0 to do' in run.stdout and weights.stat().st_mtime == before
