"""The ablation: runs of the real tools, what is skipped, and the table of what there is."""
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from apa_mmdet.datasets.tiny_lvis import make_tiny_lvis

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / 'tools/benchmarks'
sys.path.insert(0, str(BENCHMARKS))

import ablation  # noqa: E402

SAID = {'date': '2026-11-22 08:00 UTC', 'hardware': 'an abacus, 2 cores', 'python': '3.11.7', 'torch': '2.13.0',
        'mmdet': '3.3.0'}
PAGE = f'# Title\n\nbefore\n\n{ablation.BEGIN}\nan old table\n{ablation.END}\n\nafter\n'


def row(name, seed, ap, options=''):
    return dict(name=name, seed=seed, epochs=5, mask_ap=ap, mask_apr=-1., mask_apc=ap, mask_apf=ap, box_ap=ap,
                step_ms=1000. + seed, peak_mib=1500., cpu_s=1200., minutes=12., options=options)


def results(path, rows, said=SAID):
    table = ablation.Results(path, said)
    for row in rows:
        table.add(**row)
    return path


def cells(page, activation, loss):
    line = next(line for line in page.splitlines() if line.startswith(f'| {activation} |') and f'| {loss} |' in line)
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_every_contender_has_its_config_and_differs_from_the_others():
    assert len(set(ablation.CONTENDERS.values())) == 7
    for contender in ablation.CONTENDERS.values():
        assert (ROOT / f'configs/tiny_lvis/{contender.config}.py').is_file()


def test_the_table_says_how_many_seeds_there_are(tmp_path, capsys):
    rows = [row('relu-softmax', 0, .25), row('acon', 0, .3), row('acon', 1, .4), row('acon', 2, .5)]
    out, page = results(tmp_path / 'a.csv', rows), tmp_path / 'page.md'
    page.write_text(PAGE)
    assert ablation.main(['--out', str(out), '--table', str(page)]) == 0
    text = page.read_text()
    assert text.startswith('# Title\n\nbefore\n') and text.endswith('\nafter\n') and 'old' not in text
    acon = cells(text, 'ACON-C', 'GOL')
    assert acon[3:6] == ['3', '0.400 ± 0.100', '–'] and acon[8:] == ['1001 ± 1', '1200 ± 0', '1500 ± 0']
    assert cells(text, 'ReLU', 'softmax CE')[3:6] == ['1', '0.250', '–'], 'one seed has no spread'
    assert cells(text, 'AGLU', 'GOL')[3:] == ['0', *['–'] * 7]
    assert '4 of 21 runs so far.' in text and 'an abacus, 2 cores; Python 3.11.7, PyTorch 2.13.0' in text
    assert ablation.main(['--out', str(out), '--table', str(page)]) == 0
    assert page.read_text() == text, 'it can be written again'


def test_the_table_names_every_machine(tmp_path):
    out = results(tmp_path / 'a.csv', [row('acon', 0, .3)])
    results(out, [row('acon', 1, .4)], dict(SAID, hardware='a faster abacus'))
    text = ablation.markdown(ablation.read(out))
    assert 'an abacus, 2 cores;' in text and 'a faster abacus;' in text
    assert [r['hardware'] for r in ablation.read(out)] == ['an abacus, 2 cores', 'a faster abacus']


def test_a_table_of_nothing_and_of_all():
    assert '0 of 21 runs so far.' in ablation.markdown([])
    rows = [{**SAID, **{k: str(v) for k, v in row(name, seed, .5).items()}}
            for name in ablation.CONTENDERS for seed in ablation.SEEDS]
    assert 'All 21 runs.' in ablation.markdown(rows)


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    out, page = results(tmp_path / 'a.csv', [row('acon', 0, .3), row('acon', 1, .3, 'lr=1')]), tmp_path / 'page.md'
    page.write_text(PAGE)
    assert ablation.main(['--out', str(out), '--table', str(page)]) == 2
    assert capsys.readouterr().err == ("ablation: runs of different options cannot be compared: '', 'lr=1'; "
                                       'keep them in different files with --out\n')
    assert page.read_text() == PAGE
    assert ablation.main(['--out', str(out)]) == 2
    assert 'holds runs with other --cfg-options; name another file with --out' in capsys.readouterr().err


def test_what_is_missing_or_foreign_is_named(tmp_path, capsys):
    assert ablation.main(['--out', str(tmp_path / 'none.csv'), '--table']) == 2
    assert 'none.csv' in capsys.readouterr().err
    out, page = results(tmp_path / 'a.csv', []), tmp_path / 'page.md'
    page.write_text('no marks')
    assert ablation.main(['--out', str(out), '--table', str(page)]) == 2
    assert 'has no place for the table: it has to hold the lines <!--' in capsys.readouterr().err
    out.write_text('name,ms\na,1\n')
    assert ablation.main(['--out', str(out)]) == 2
    assert 'has other columns than this script writes; name another file with --out' in capsys.readouterr().err


def test_what_is_there_is_skipped_and_no_run_begins_without_time(tmp_path, capsys):
    out = results(tmp_path / 'a.csv', [row(name, 0, .3) for name in ablation.CONTENDERS])
    before = out.read_text()
    assert ablation.main(['--out', str(out), '--seeds', '0']) == 0
    assert f'7 runs are in {out}, 0 to do' in capsys.readouterr().out
    assert ablation.main(['--out', str(out), '--max-hours', '0']) == 0
    said = capsys.readouterr().out
    assert '14 to do' in said and 'would not end within --max-hours 0; 14 left, the same command goes on' in said
    assert out.read_text() == before


def test_the_first_seed_of_every_contender_comes_first(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(ablation, 'run_all', lambda results, todo, args: seen.extend(todo) or 0)
    out = results(tmp_path / 'a.csv', [row('relu-gol', 0, .3)])
    assert ablation.main(['--out', str(out), '--runs', 'relu-gol', 'acon']) == 0
    assert seen == [('acon', 0), ('relu-gol', 1), ('acon', 1), ('relu-gol', 2), ('acon', 2)]


def test_the_page_has_its_place_for_the_table():
    page = (ROOT / 'docs/ablation.md').read_text()
    assert page.index(ablation.BEGIN) < page.index(ablation.END)


@pytest.mark.slow
def test_two_contenders_are_trained_and_a_run_that_fails_is_tried_again(tmp_path):
    make_tiny_lvis(tmp_path / 'data/tiny_lvis', train=16, val=6, size=(96, 96), seed=0, progress=False)
    command = [sys.executable, BENCHMARKS / 'ablation.py', '--out', 'few.csv', '--seeds', '3', '--runs', 'relu-softmax',
               'relu-gol', '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1',
               'train_dataloader.dataset.oversample_thr=1e-5', 'default_hooks.logger.interval=1',
               'model.test_cfg.rcnn.score_thr=1e-5']

    def start():
        env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
        return subprocess.run([str(c) for c in command], cwd=tmp_path, env=env, capture_output=True, text=True)

    def rows():
        lines = (tmp_path / 'few.csv').read_text().splitlines()
        assert any(line.startswith('# hardware: ') for line in lines)
        assert any(line.startswith('# command: ') and 'ablation.py --out few.csv' in line for line in lines)
        return list(csv.DictReader(line for line in lines if not line.startswith('#')))

    weights = tmp_path / 'work_dirs/few/relu-gol_seed3/epoch_1.pth'
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
        assert -1 <= float(found['mask_ap']) < 1 and 300 < float(found['peak_mib']) < 5000
        assert 1 < float(found['cpu_s']) and 10 < float(found['step_ms']) < 60e3
    logs = next((tmp_path / 'work_dirs/few/relu-gol_seed3').glob('*/*.log')).read_text()
    assert 'seed=3' in logs
    before = weights.stat().st_mtime
    run = start()
    assert '2 runs are in few.csv, 0 to do' in run.stdout and weights.stat().st_mtime == before
