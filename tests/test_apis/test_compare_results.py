"""Comparisons of saved results, as tools/test.py leaves them."""

import re
import runpy
import shutil
import sys

import numpy as np
import pytest
import torch
from helpers import coco_samples
from helpers.lvis_samples import draw, result, saved
from helpers.paths import ROOT
from mmdet.evaluation import DumpDetResults

from apa_mmdet.apis.compare_results import BadComparison, compare_results
from apa_mmdet.apis.offline_eval import eval_results
from apa_mmdet.evaluation import FastLVISMetric

KEYS = [f'{kind}_{name}' for kind in ('bbox', 'segm') for name in ('AP', 'APr', 'APc', 'APf')]


def dumped(samples, path):
    """Writes what ``tools/test.py --out`` does."""
    metric = DumpDetResults(str(path))
    metric.process({}, [dict(s, pred_instances=dict(s['pred_instances'])) for s in samples])
    metric.evaluate(len(samples))
    return str(path)


def worse(samples, seed=0, share=0.5):
    """Some labels are wrong."""
    rng, changed = np.random.default_rng(seed), []
    for sample in samples:
        found = dict(sample['pred_instances'])
        wrong = torch.from_numpy(rng.random(len(found['labels'])) < share)
        found['labels'] = torch.where(wrong, (found['labels'] + 1) % 6, found['labels'])
        changed.append(dict(sample, pred_instances=found))
    return changed


def config_of(folder, ann_file, **options):
    path = folder / 'config.py'
    path.write_text(f'test_evaluator = {dict(options, ann_file=ann_file)!r}\n')
    return str(path)


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """A folder with a config and results of two arms and seeds, ``good0.pkl`` …"""
    folder = tmp_path_factory.mktemp('results')
    content, samples = draw(1, images=16, detections=12)
    ann_file = saved(content, folder)
    config_of(folder, ann_file, type='LVISMetric', metric=['bbox', 'segm'])
    for seed in (0, 1):
        dumped(worse(samples, seed, 0.1), folder / f'good{seed}.pkl')
        dumped(worse(samples, seed, 0.7), folder / f'bad{seed}.pkl')
    good = worse(samples, 0, 0.1)
    for name, found in (('good0', good), ('bad0', worse(samples, 0, 0.7))):
        writes = dict(format_only=True, outfile_prefix=str(folder / name))
        result(FastLVISMetric, ann_file, found, metric=['bbox', 'segm'], **writes)
    dumped(good[:-1], folder / 'few.pkl')
    for sample in good:
        del sample['pred_instances']['masks']
    dumped(good, folder / 'boxes.pkl')
    return folder


def compare(folder, samples=60, **arms):
    paths = {arm: [str(folder / name) for name in names] for arm, names in arms.items()}
    return compare_results(str(folder / 'config.py'), paths, samples=samples)


@pytest.fixture
def tool(results, monkeypatch, capsys):
    """Runs tools/compare_results.py in the folder of the results; gives its exit status and its output."""

    def run(arguments):
        monkeypatch.setattr(sys, 'argv', ['compare_results.py', 'config.py', *arguments.split()])
        monkeypatch.chdir(results)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / 'tools/compare_results.py'), run_name='__main__')
        return ended.value.code, capsys.readouterr().out

    return run


def test_arms_are_compared_over_images_and_seeds(results):
    found = compare(results, good=['good0.pkl', 'good1.pkl'], bad=['bad0.pkl', 'bad1.pkl'])
    assert (found.baseline, found.images, found.samples, found.seeds) == ('good', 16, 60, 2)
    assert [*found.differences] == ['bad'] and [*found.differences['bad']] == KEYS
    for arm, seed in (('good', 0), ('bad', 1)):
        ordinary = eval_results(str(results / 'config.py'), str(results / f'{arm}{seed}.pkl'))
        assert {key: values[seed] for key, values in found.values[arm].items()} == pytest.approx(
            {key: ordinary[f'lvis/{key}'] for key in KEYS}, abs=5.001e-4
        )
    lost = found.differences['bad']['segm_AP']
    assert lost.value == pytest.approx(np.subtract(*(np.mean(found.values[arm]['segm_AP']) for arm in ('bad', 'good'))))
    assert lost.low < lost.value < lost.high < 0 < lost.smallest() < lost.smallest(paired=False)


def test_all_forms_of_a_result_are_equal(results):
    found = compare(results, a=['good0.pkl'], b=['good0.predictions'])
    assert {(d.value, d.low, d.high) for d in found.differences['b'].values()} == {(0, 0, 0)}
    of_masks = compare(results, a=['good0.segm.json'], b=['bad0.segm.json'])
    assert [*of_masks.values['a']] == KEYS[4:] and of_masks.values['a']['segm_AP'] == found.values['a']['segm_AP']


def test_the_tool_prints_a_table(tool):
    code, out = tool('--a good0.pkl --b bad0.pkl --samples 100')
    assert not code
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in out.splitlines() if line.startswith('|')]
    assert rows[0] == ['', 'A', 'B', 'difference', '95% interval', 'smallest', 'unpaired']
    assert [row[0] for row in rows[1:]] == [
        f'{kind} {n}' for kind in ('box', 'mask') for n in ('AP', 'APr', 'APc', 'APf')
    ]
    assert re.fullmatch(r'-0\.\d{3} … -0\.\d{3}', rows[5][4])
    assert '100 samples of 16 images, 1 seed.' in out and 'One seed: ' in out


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        ('--a good0.pkl --b bad0.pkl bad1.pkl', 'each arm needs the results of the same seeds, .*; A has 1, B has 2'),
        ('--a good0.pkl --b few.pkl', 'good0.pkl has 16 images, few.pkl 15; 1 of them, e.g. .*, are only in one: .*'),
        ('--a good0.pkl --b boxes.pkl', "boxes.pkl: image .*: its prediction has no masks, which metric 'segm' .*"),
        ('--a good0.pkl --b none.pkl', '.*none.pkl.*'),
        ('--a good0.pkl --b config.py', 'config.py is neither a folder nor named .*'),
        ('--a good0.pkl --b bad0.pkl --cfg-options test_evaluator.topk=9', 'fixed AP, topk=9 in test_evaluator, .*'),
        ('--a good0.pkl --b bad0.pkl --cfg-options test_evaluator.metric=proposal', 'test_evaluator of .* neither .*'),
    ],
)
def test_what_cannot_be_compared_ends_in_one_line(arguments, line, tool):
    code, out = tool(arguments)
    assert re.fullmatch(f'compare_results: {line}', code) and not out


def test_results_of_another_data_set_are_refused(results, tmp_path, monkeypatch):
    content, _ = draw(2, images=3)
    for image in content['images']:
        image['id'] += 1000
    content['annotations'].clear()
    shutil.copy(results / 'good0.pkl', tmp_path)
    config_of(tmp_path, saved(content, tmp_path), type='FastLVISMetric')
    with pytest.raises(ValueError, match='good0.pkl: image .* was tested, but is not in the annotations'):
        compare(tmp_path, a=['good0.pkl'], b=['good0.pkl'])
    shutil.copytree(results / 'good0.predictions', tmp_path / 'in')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match='^in: image .* was tested, but is not in the annotations'):
        compare_results('config.py', dict(a=['in'], b=['in']))


def test_arms_need_a_baseline(results):
    for arms, baseline in ((dict(a=['good0.pkl']), None), (dict(a=['good0.pkl'], b=['bad0.pkl']), 'c'), ({}, None)):
        with pytest.raises(BadComparison, check=lambda error: error.code == 'arms'):
            compare_results(str(results / 'config.py'), arms, baseline)


def test_coco_is_compared_with_its_frequency_groups(tmp_path):
    content, samples = coco_samples.draw(3, images=12)
    ann_file = saved(content, tmp_path)
    for name, found in (('a', samples), ('b', worse(samples))):
        dumped(found, tmp_path / f'{name}.pkl')
    kind = dict(type='CocoMetric', metric=['bbox', 'segm'])
    config_of(tmp_path, ann_file, **kind)
    assert [*compare(tmp_path, a=['a.pkl'], b=['b.pkl']).values['a']] == ['bbox_AP', 'segm_AP']
    config_of(
        tmp_path,
        ann_file,
        **dict(kind, type='FastCocoMetric', frequency_groups=dict(ann_file=ann_file, bounds=(9, 12))),
    )
    found = compare(tmp_path, a=['a.pkl'], b=['b.pkl'])
    assert [*found.values['a']] == KEYS and found.differences['b']['segm_AP'].value < 0
    ordinary = eval_results(str(tmp_path / 'config.py'), str(tmp_path / 'a.pkl'))
    assert found.values['a']['segm_AP'] == pytest.approx([ordinary['coco/segm_mAP']], abs=5.001e-4)
