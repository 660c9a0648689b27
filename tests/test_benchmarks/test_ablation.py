"""The ablation: which runs it starts and skips, and the table of its results."""

import csv
import sys

import pytest
from helpers.paths import ROOT

sys.path.insert(0, str(ROOT / 'benchmarks'))

import ablation
import measure

from apa_mmdet.apis.mmdet_tools import EXIT_DIVERGED
from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis

RESULTS = ROOT / 'benchmarks/results'
TRAIN = """
import json, sys
from pathlib import Path
config, folder = Path(sys.argv[1]), Path(sys.argv[3])
(folder / config.name).write_text('train_cfg = dict(max_epochs=3)')
METRICS = {"lvis/segm_AP": .5, "lvis/segm_APr": .25, "lvis/segm_APc": .5, "lvis/segm_APf": .5, "lvis/bbox_AP": .5}


def log(*rows):
    (folder / 'now/vis_data').mkdir(parents=True)
    (folder / 'now/vis_data/scalars.json').write_text(''.join(json.dumps(row) + '\\n' for row in rows))


"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Returns a function that makes a checkout whose tools/train.py ends as given, and gives the tool's arguments."""
    root = tmp_path / 'checkout'
    (root / 'configs/tiny_lvis').mkdir(parents=True)
    (root / 'tools').mkdir()
    monkeypatch.setattr(measure, 'ROOT', root)
    monkeypatch.setattr(ablation, 'CONFIGS', root / 'configs/tiny_lvis')
    for name in ablation.CONTENDERS:
        ablation.config_of(name).write_text('a = 1')

    def ends_with(text):
        (root / 'tools/train.py').write_text(TRAIN + text)
        return ['--out', str(tmp_path / 'runs/a.csv'), '--seeds', '0', '--runs', 'acon']

    return ends_with


def keys_in(path):
    return [(row['name'], row['seed']) for row in ablation.read(path)]


def test_every_contender_has_its_config():
    assert all(ablation.config_of(name).is_file() for name in ablation.CONTENDERS)


def test_the_docs_show_the_table_of_the_recorded_results(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text((ROOT / 'docs/ablation.md').read_text())
    assert ablation.main(['--out', str(RESULTS / 'ablation_cpu.csv'), '--table', str(page)]) is None
    assert page.read_text() == (ROOT / 'docs/ablation.md').read_text()


def test_the_table_counts_seeds_and_names_what_diverged():
    rows = ablation.read(RESULTS / 'ablation_cpu.csv')
    some = [row for row in rows if row['name'] == 'acon' and row['seed'] in '01']
    some[1] |= dict(mask_ap='0.0', note='diverged: loss_cls is nan')
    lines = ablation.markdown(some, []).splitlines()
    acon = next(line for line in lines if line.startswith('| ACON-C |')).split(' | ')
    mean = (float(some[0]['mask_ap']) + 0) / 2
    assert acon[3] == '2' and acon[4].startswith(f'{mean:.3f} ± ') and acon[-1] == '– |'
    assert next(line for line in lines if line.startswith('| APALU |')).split(' | ')[3:5] == ['0', '–']
    assert '2 of 21 runs so far.' in lines
    assert 'Diverged, and counted with the AP that they reached, mostly 0: acon, seed 1.' in lines
    assert ablation.mean_and_deviation([0.25]) == '0.250'
    assert ablation.mean_and_deviation([-1.0, 0.2]) == ablation.mean_and_deviation([float('nan'), 0.2]) == '–'


def test_finished_runs_are_skipped_and_seed_0_comes_first(checkout, tmp_path, capsys):
    out = tmp_path / 'runs/a.csv'
    arguments = checkout('log(dict(loss=1., step=1), METRICS)')
    assert ablation.main(arguments) is None and keys_in(out) == [('acon', '0')]
    (row,) = ablation.read(out)
    assert (row['mask_ap'], row['mask_apr'], row['epochs'], row['note']) == ('0.5', '0.25', '3', '')
    assert row['hardware'] and row['command'] and row['mmdet'] and row['commit'] and len(row['config']) == 7
    before = out.read_text()
    assert ablation.main([*arguments, 'apalu', '--seeds', '0', '1']) is None
    assert f'1 runs are in {out}, 3 to do' in capsys.readouterr().out
    assert keys_in(out) == [('acon', '0'), ('apalu', '0'), ('acon', '1'), ('apalu', '1')]
    assert out.read_text().startswith(before), 'rows are appended'


@pytest.mark.parametrize(
    'end, ap, note',
    [
        ('log(dict(loss=float("nan")), METRICS)', 0.5, 'diverged: the last loss is nan'),
        (f'print("loss_cls is nan"); sys.exit({EXIT_DIVERGED})', 0, 'diverged: loss_cls is nan'),
        ('log(dict(loss=1.))', 0, 'diverged: the evaluation gave no result'),
    ],
)
def test_a_run_that_diverges_counts(end, ap, note, checkout, tmp_path):
    assert ablation.main(checkout(end)) is None
    (row,) = ablation.read(tmp_path / 'runs/a.csv')
    assert (float(row['mask_ap']), row['note']) == (ap, note)


def test_a_run_that_fails_is_reported_and_tried_again(checkout, tmp_path, capsys):
    failed = ablation.main(checkout('sys.exit("no data")'))
    assert failed == '1 runs failed; the same command tries them again'
    assert 'ablation: acon, seed 0: exit status 1: no data; its output is in ' in capsys.readouterr().out
    assert ablation.main(checkout('log(METRICS)')) is None and keys_in(tmp_path / 'runs/a.csv') == [('acon', '0')]


def test_runs_that_cannot_be_compared_are_refused_before_they_start(checkout):
    arguments = checkout('log(METRICS)')
    assert ablation.main(arguments) is None
    with pytest.raises(ValueError, match="runs with different options cannot be compared: '', 'lr=1'; name another"):
        ablation.main([*arguments, '--seeds', '1', '--cfg-options', 'lr=1'])
    (ablation.CONFIGS / 'mask_rcnn_se_r18_acon.py').write_text('a = 2')
    with pytest.raises(ValueError, match='runs with different configs of acon cannot be compared: '):
        ablation.main([*arguments, '--seeds', '1'])


@pytest.mark.parametrize(
    'change, line',
    [
        (lambda text: text + 'acon,1,0.', r'line 14: 3 cells instead of 13; delete the line'),
        (lambda text: 'name,ms\n', 'has other columns than this script writes; name another file with --out'),
    ],
    ids=['cut off', 'another file'],
)
def test_a_broken_results_file_is_refused(change, line, tmp_path):
    path = tmp_path / 'a.csv'
    path.write_text(change(''.join((RESULTS / 'ablation_cpu.csv').read_text().splitlines(True)[:13])))
    with pytest.raises(ValueError, match=line):
        ablation.read(path)


def test_a_page_without_a_place_for_the_table_is_refused(tmp_path):
    (tmp_path / 'page.md').write_text('no marks')
    with pytest.raises(ValueError, match='has no place for the table: it needs the lines <!--'):
        ablation.write_table('', tmp_path / 'page.md')


@pytest.mark.slow
def test_two_contenders_are_trained_by_the_real_tool(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_tiny_lvis(tmp_path / 'data/tiny_lvis', train=16, val=6, size=(96, 96), seed=0, progress=False)
    options = [
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'train_dataloader.dataset.oversample_thr=1e-5',
        'model.test_cfg.rcnn.score_thr=1e-5',
    ]
    arguments = ['--out', 'few.csv', '--seeds', '3', '--runs', 'relu-softmax', 'relu-gol', '--cfg-options', *options]
    assert ablation.main(arguments) is None
    with open('few.csv') as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith('#')))
    assert [(row['name'], row['seed'], row['epochs']) for row in rows] == [
        ('relu-softmax', '3', '1'),
        ('relu-gol', '3', '1'),
    ]
    assert all(-1 <= float(row['mask_ap']) < 1 and not row['note'] for row in rows)
    assert 'seed=3' in next((tmp_path / 'few/relu-gol_seed3').glob('*/*.log')).read_text()
