"""The ablation: which runs it starts and skips, what its arms have in common, and the table of its results."""

import csv
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT

sys.path.insert(0, str(ROOT / 'benchmarks'))

import ablation
import ablation_report
import measure
import studies

from apa_mmdet.apis.mmdet_tools import EXIT_DIVERGED
from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis
from apa_mmdet.utils.errors import CodedError

RESULTS = ROOT / 'benchmarks/results/ablation_tiny_lvis_cpu.csv'
TRAIN = """
import sys
from pathlib import Path
config, folder = Path(sys.argv[1]), Path(sys.argv[3])
(folder / config.name).write_text('train_cfg = dict(max_epochs=3)')
(folder / 'last_checkpoint').write_text('epoch_3.pth')
"""
TEST = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[4])
(folder / 'now').mkdir()
figures = {"lvis/segm_AP": .5, "lvis/segm_APr": .25, "lvis/segm_APc": .5, "lvis/segm_APf": .5, "lvis/bbox_AP": .5}
(folder / 'now/now.json').write_text(json.dumps(figures))
"""


def write_nothing(function, study, arm, seed, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Returns a function that makes a checkout whose tools end as given, and gives the arguments of the script."""
    root = tmp_path / 'checkout'
    (root / 'configs/tiny_lvis').mkdir(parents=True)
    (root / 'tools').mkdir()
    monkeypatch.setattr(measure, 'ROOT', root)
    monkeypatch.setattr(studies, 'CONFIGS', root / 'configs')
    monkeypatch.setattr(measure, 'in_a_process', write_nothing)  # these tools load no weights
    study = studies.STUDIES['tiny_lvis']
    for name in study.arms:
        study.config(name).write_text('model = dict(test_cfg=dict(rcnn=dict(score_thr=0.01)))')

    def ends_with(train='', test=TEST):
        (root / 'tools/train.py').write_text(TRAIN + train)
        (root / 'tools/test.py').write_text(test)
        return ['--out', str(tmp_path / 'runs/a.csv'), '--seeds', '0', '--arms', 'acon']

    return ends_with


def keys_in(path):
    return [(row['name'], row['seed'], row['calibration']) for row in ablation.read(path)]


@pytest.mark.parametrize('study', studies.STUDIES.values(), ids=studies.STUDIES)
def test_every_arm_has_its_config(study):
    assert study.reference in study.arms
    assert all(study.config(name).is_file() for name in study.arms)


def test_arms_share_the_weights_that_they_have_in_common(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_tiny_lvis('data/tiny_lvis', train=48, val=1, size=64, progress=False)  # whose classes DropLoss counts
    study, states = studies.STUDIES['tiny_lvis'], {}
    for name in ('apa-link', 'relu-softmax', 'relu-link-pretrained'):
        studies.write_shared_weights(study, name, 5, tmp_path / name)
        states[name] = torch.load(tmp_path / name, weights_only=True)['state_dict']
    reference = states.pop('apa-link')
    assert 'backbone.act_stem.kappa' in reference
    for state in states.values():
        assert 'roi_head.mask_head.conv_logits.weight' in state
        assert all(torch.equal(value, reference[name]) for name, value in state.items())
        assert not any('fc_cls' in name or 'act_stem' in name for name in state)
    assert 'backbone.layer4.1.conv2.weight' in states['relu-softmax']
    assert not any(name.startswith('backbone.') for name in states['relu-link-pretrained'])


def test_finished_runs_are_skipped_and_seed_0_comes_first(checkout, tmp_path, capsys):
    out = tmp_path / 'runs/a.csv'
    arguments = checkout()
    assert ablation.main(arguments) is None and keys_in(out) == [('acon', '0', 'none')]
    (row,) = ablation.read(out)
    assert (row['mask_ap'], row['mask_apr'], row['epochs'], row['note']) == ('0.5', '0.25', '3', '')
    assert row['hardware'] and row['command'] and row['mmdet'] and row['commit'] and len(row['config']) == 7
    before = out.read_text()
    assert ablation.main([*arguments, 'apalu', '--seeds', '0', '1', '--calibrations', 'none', 'fracal']) is None
    assert f'1 results are in {out}, 7 to come' in capsys.readouterr().out
    runs = [(name, seed, kind) for seed in '01' for name in ('acon', 'apalu') for kind in ('none', 'fracal')]
    assert keys_in(out) == runs
    assert out.read_text().startswith(before), 'rows are appended'


@pytest.mark.parametrize(
    'end, note',
    [
        (dict(train=f'print("loss_cls is nan"); sys.exit({EXIT_DIVERGED})'), 'diverged: loss_cls is nan'),
        (dict(test=TEST.replace('"lvis/segm_AP": .5, ', '')), 'diverged: the evaluation gave no result'),
    ],
)
def test_a_run_that_diverges_counts(end, note, checkout, tmp_path):
    assert ablation.main(checkout(**end)) is None
    (row,) = ablation.read(tmp_path / 'runs/a.csv')
    assert (float(row['mask_ap']), row['note']) == (0, note)


def test_a_run_that_fails_is_reported_and_tried_again(checkout, tmp_path, capsys):
    failed = ablation.main(checkout(train='sys.exit("no data")'))
    assert failed == '1 runs failed; the same command tries them again'
    assert 'ablation: acon, seed 0: train.py: exit status 1: no data; its output is in ' in capsys.readouterr().out
    assert ablation.main(checkout()) is None and keys_in(tmp_path / 'runs/a.csv') == [('acon', '0', 'none')]


def test_an_interrupt_ends_what_runs_and_begins_nothing(checkout, tmp_path):
    pids = tmp_path / 'pids'
    arguments = checkout(
        train=f'import os, time; open({str(pids)!r}, "a").write(str(os.getpid()) + chr(10)); time.sleep(60)'
    )

    def interrupt():
        while not pids.exists() or not pids.read_text().endswith('\n'):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the script does
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            ablation.main([*arguments, 'apalu'])
    finally:
        signal.signal(signal.SIGTERM, before)
    (pid,) = map(int, pids.read_text().split())
    assert not Path(f'/proc/{pid}').exists() and not (tmp_path / 'runs/a.csv').exists()


def test_runs_that_cannot_be_compared_are_refused_before_they_start(checkout):
    arguments = checkout()
    assert ablation.main(arguments) is None
    with pytest.raises(CodedError, match="runs with different options cannot be compared: '', 'lr=1'; name another"):
        ablation.main([*arguments, '--seeds', '1', '--cfg-options', 'lr=1'])
    studies.STUDIES['tiny_lvis'].config('acon').write_text('a = 2')
    with pytest.raises(CodedError, match='runs with different configs of acon cannot be compared: '):
        ablation.main([*arguments, '--seeds', '1'])


def test_an_unknown_arm_is_refused(capsys):
    with pytest.raises(SystemExit):
        ablation.main(['--arms', 'gelu'])
    assert 'tiny_lvis has no gelu; it has apa-link-pretrained, relu-link-pretrained, ' in capsys.readouterr().err


@pytest.mark.parametrize(
    'change, code, line',
    [
        (lambda text: text + 'acon,1,0.', 'cut-line', r'line 14: 3 cells instead of 14; delete the line'),
        (lambda text: 'name,ms\n', 'other-columns', 'has other columns than this script writes; name another file'),
    ],
    ids=['cut off', 'another file'],
)
def test_a_broken_results_file_is_refused(change, code, line, tmp_path):
    path = tmp_path / 'a.csv'
    path.write_text(change(''.join(RESULTS.read_text().splitlines(True)[:13])))
    with pytest.raises(CodedError, match=line) as error:
        ablation.read(path)
    assert error.value.code == code


@pytest.mark.slow
def test_two_contenders_are_trained_by_the_real_tool(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_tiny_lvis(tmp_path / 'data/tiny_lvis', train=16, val=6, size=(96, 96), seed=0, progress=False)
    make_tiny_lvis(tmp_path / 'data/tiny_lvis_1000', train=16, val=8, size=(96, 96), seed=0, progress=False)
    options = [
        'train_cfg.max_epochs=1',
        'train_dataloader.dataset.oversample_thr=1e-5',
        'model.test_cfg.rcnn.score_thr=1e-5',
    ]
    arguments = ['--out', 'few.csv', '--seeds', '3', '--arms', 'relu-softmax', 'relu-link', '--jobs', '2']
    assert ablation.main([*arguments, '--calibrations', 'none', 'fracal', '--cfg-options', *options]) is None
    with open('few.csv') as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith('#')))
    assert sorted((row['name'], row['seed'], row['calibration'], row['epochs']) for row in rows) == [
        (name, '3', kind, '1') for name in ('relu-link', 'relu-softmax') for kind in ('fracal', 'none')
    ]
    assert all(-1 <= float(row['mask_ap']) < 1 and not row['note'] for row in rows)
    log = next((tmp_path / 'few/relu-link_seed3').glob('*/*.log')).read_text()
    assert 'seed=3' in log and 'shared_weights.pth' in log

    (tmp_path / 'few.csv').rename('ablation_tiny_lvis_cpu.csv')
    (tmp_path / 'few').rename('ablation_tiny_lvis_cpu')
    Path('page.md').write_text(f'{ablation_report.BEGIN.format("tiny_lvis")}\n{ablation_report.END}')
    ablation_report.main(['--compare', '--results', '.', '--page', 'page.md'])
    differences = measure.read_results(Path('differences_tiny_lvis_cpu.csv'))
    assert len(differences) == 3 * 4  # from the baseline: softmax, with FRACAL, and its own FRACAL
    values = {(row['name'], row['calibration']): float(row['mask_ap']) for row in rows}
    for row in differences:
        if row['group'] == 'AP':
            a, b = (values[studies.Run.parse(row[run])] for run in 'ab')
            assert float(row['difference']) == pytest.approx(b - a, abs=1.1e-3)
    assert '| ReLU, Gumbel link, random | ReLU, softmax CE, random, FRACAL | 1 |' in Path('page.md').read_text()
