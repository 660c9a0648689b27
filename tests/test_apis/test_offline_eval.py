"""LVIS metrics of predictions on disk equal those of the test itself."""

import json
import math
import os
import re
import runpy
import shutil
import signal
import sys
from collections import Counter

import pytest
import torch
from helpers import coco_samples
from helpers.lvis_samples import draw, result, same, saved
from helpers.paths import ROOT
from helpers.processes import in_two_processes
from mmdet.evaluation import CocoMetric, CocoOccludedSeparatedMetric, DumpDetResults, LVISMetric
from mmdet.registry import METRICS

from apa_mmdet.apis.offline_eval import eval_results
from apa_mmdet.evaluation import FastCocoMetric, FastLVISMetric
from apa_mmdet.evaluation.functional.prediction_store import PredictionError
from apa_mmdet.evaluation.metrics.streamed_metric import EvaluationError
from apa_mmdet.utils.config import BadConfig

BOTH = dict(metric=['bbox', 'segm'])


def config(tmp_path, ann_file, **options):
    path = tmp_path / 'config.py'
    path.write_text(f'test_evaluator = {dict(options, ann_file=ann_file)!r}\n')
    return str(path)


@pytest.fixture
def tool(monkeypatch, capsys):
    """Runs tools/eval_results.py; gives its exit status and its output."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['eval_results.py', *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / 'tools/eval_results.py'), run_name='__main__')
        return ended.value.code, capsys.readouterr().out

    return run


def test_predictions_of_a_failed_evaluation_are_evaluated(tmp_path, tool):
    content, samples = draw(10)
    wanted = result(FastLVISMetric, saved(content, tmp_path), samples, **BOTH)
    ann_file = saved(dict(content, categories=[]), tmp_path)
    sentence = (
        r'the evaluation failed: \w+: .*gt.json.*; the predictions are kept: evaluate them with '
        r'python tools/eval_results.py CONFIG .*/out.predictions$'
    )
    with pytest.raises(EvaluationError, match=sentence) as error:
        result(FastLVISMetric, ann_file, samples, outfile_prefix=str(tmp_path / 'out'), **BOTH)
    saved(content, tmp_path)
    cfg = config(tmp_path, ann_file, type='FastLVISMetric', **BOTH)
    assert eval_results(cfg, str(error.value.folder)) == pytest.approx(wanted, abs=0, nan_ok=True)
    code, out = tool(cfg, error.value.folder)
    printed = json.loads(out[out.index('{') :])  # behind the log
    assert not code and printed == {key: None if math.isnan(value) else value for key, value in wanted.items()}


def test_result_files_for_a_server_are_written_from_images_and_categories(tmp_path, tool):
    content, samples = draw(10)
    del content['annotations']
    ann_file, prefix = saved(content, tmp_path), str(tmp_path / 'out')
    result(FastLVISMetric, ann_file, samples, format_only=True, outfile_prefix=prefix)
    written = [(tmp_path / f'out.{kind}.json').read_text() for kind in ('bbox', 'segm')]
    cfg = config(tmp_path, ann_file, type='FastLVISMetric')
    options = f'--cfg-options test_evaluator.format_only=True test_evaluator.outfile_prefix={tmp_path}/again'.split()
    code, out = tool(cfg, f'{prefix}.predictions', *options)
    assert not code and '{' not in out
    assert [(tmp_path / f'again.{kind}.json').read_text() for kind in ('bbox', 'segm')] == written
    assert 'is a result file already; set format_only=False' in tool(cfg, f'{prefix}.bbox.json', *options)[0]


def test_of_several_metrics_that_of_the_folder_is_taken(tmp_path):
    metrics, wanted = [], []
    for seed in (10, 11):
        (tmp_path / str(seed)).mkdir()
        content, samples = draw(seed)
        options = dict(ann_file=saved(content, tmp_path / str(seed)), outfile_prefix=str(tmp_path / str(seed) / 'out'))
        wanted.append(result(FastLVISMetric, samples=samples, **options))
        metrics.append(dict(type='FastLVISMetric', **options))
    evaluator = dict(type='ConcatDatasetEvaluator', metrics=[[dict(type='CocoMetric'), metrics[0]], metrics[1]])
    (tmp_path / 'config.py').write_text(f'test_evaluator = {evaluator!r}')
    found = [eval_results(str(tmp_path / 'config.py'), f'{m["outfile_prefix"]}.predictions') for m in metrics]
    assert found == wanted and wanted[0] != wanted[1]


def test_result_files_of_mmdet_are_evaluated(tmp_path):
    content, samples = draw(11)
    ann_file = saved(content, tmp_path)
    wanted = result(FastLVISMetric, ann_file, samples, **BOTH)
    result(LVISMetric, ann_file, samples, format_only=True, outfile_prefix=str(tmp_path / 'stock'), **BOTH)
    cfg = config(tmp_path, ann_file, type='mmdet.LVISMetric', **BOTH)
    bbox, segm = tmp_path / 'stock.bbox.json', tmp_path / 'stock.segm.json'
    assert {**eval_results(cfg, str(bbox)), **eval_results(cfg, str(segm))} == wanted
    detections, counts = json.loads(bbox.read_text()), Counter()
    for detection in detections:
        counts[detection['image_id']] += 1
        detection['rank'] = counts[detection['image_id']]
    bbox.write_text(json.dumps(sorted(detections, key=lambda detection: detection['rank'])))  # images alternate
    assert eval_results(cfg, str(bbox)).items() < wanted.items()
    bbox.write_text(json.dumps([dict(detections[0], image_id=99)]))
    with pytest.raises(PredictionError, check=lambda error: error.code == 'unknown-image'):
        eval_results(cfg, str(bbox))


def test_the_file_of_the_stock_test_tool_is_evaluated(tmp_path):
    content, samples = draw(11)
    ann_file = saved(content, tmp_path)
    wanted = result(FastLVISMetric, ann_file, samples, **BOTH)
    dump = DumpDetResults(str(tmp_path / 'out.pkl'))
    dump.process({}, samples)
    dump.evaluate(len(samples))
    found = eval_results(config(tmp_path, ann_file, type='LVISMetric', **BOTH), str(tmp_path / 'out.pkl'))
    assert found == pytest.approx(wanted, abs=0, nan_ok=True) and wanted['lvis/segm_AP'] > 0


def test_a_metric_of_ones_own_is_taken_as_it_is_and_one_of_mmdet_only_where_it_is_known(tmp_path, monkeypatch):
    class OwnCocoMetric(FastCocoMetric):
        """Counts its evaluations."""

        def evaluate_files(self, *args):
            return dict(super().evaluate_files(*args), own=1)

    monkeypatch.setitem(METRICS._module_dict, 'OwnCocoMetric', OwnCocoMetric)
    content, samples = coco_samples.draw(3)
    ann_file, prefix = saved(content, tmp_path), str(tmp_path / 'out')
    wanted = coco_samples.result(FastCocoMetric, ann_file, samples, metric='bbox', outfile_prefix=prefix)
    dataset = dict(type='CocoDataset', ann_file=ann_file, metainfo=dict(classes=coco_samples.CLASSES))
    for kind in (CocoMetric, CocoOccludedSeparatedMetric, OwnCocoMetric):
        evaluator = dict(type=kind.__name__, ann_file=ann_file, metric='bbox')
        path = tmp_path / f'{kind.__name__}.py'
        path.write_text(f'test_evaluator = {evaluator!r}\ntest_dataloader = dict(dataset={dataset!r})')
    assert eval_results(str(tmp_path / 'OwnCocoMetric.py'), f'{prefix}.predictions') == {**wanted, 'own': 1}
    assert eval_results(str(tmp_path / 'CocoMetric.py'), f'{prefix}.predictions') == wanted
    with pytest.raises(BadConfig) as error:
        eval_results(str(tmp_path / 'CocoOccludedSeparatedMetric.py'), f'{prefix}.predictions')
    assert error.value.code == 'no-metric'


def test_coco_is_evaluated_by_the_classes_of_the_test_data(tmp_path, tool):
    content, samples = coco_samples.draw(3)
    ann_file, chosen = saved(content, tmp_path), coco_samples.CLASSES[4:1:-1]
    for sample in samples:
        sample['pred_instances']['labels'] %= 3
    options = dict(BOTH, outfile_prefix=str(tmp_path / 'out'))
    wanted = coco_samples.result(FastCocoMetric, ann_file, samples, classes=chosen, **options)
    dataset = dict(type='CocoDataset', ann_file=ann_file, metainfo=dict(classes=chosen))
    for name, kind in (('ours', 'FastCocoMetric'), ('stock', 'CocoMetric')):
        evaluator = dict(options, type=kind, ann_file=ann_file)
        lines = f'test_evaluator = {evaluator!r}\ntest_dataloader = dict(dataset={dataset!r})\n'
        (tmp_path / f'{name}.py').write_text(lines)
        code, out = tool(tmp_path / f'{name}.py', tmp_path / 'out.predictions')
        assert json.loads(out) == wanted and wanted['coco/bbox_mAP'] > 0 and not code
    code, out = tool(tmp_path / 'ours.py', tmp_path / 'out.bbox.json')
    assert json.loads(out) == {key: value for key, value in wanted.items() if 'bbox' in key} and not code


def test_what_cannot_be_evaluated_ends_in_one_line(tmp_path, tool):
    ann_file = saved(draw(0)[0], tmp_path)
    cfg = config(tmp_path, ann_file, type='LVISMetric', metric='bbox')
    (tmp_path / 'other.py').write_text("test_evaluator = [dict(type='CocoMetric')]\n")
    topk = tmp_path / 'topk.py'
    topk.write_text(f"test_evaluator = dict(type='FastLVISMetric', ann_file={ann_file!r}, topk=0)\n")
    for arguments, line in (
        ((tmp_path / 'none.py', tmp_path), 'config .*none.py: no such file'),
        (
            (tmp_path / 'other.py', tmp_path),
            '.*other.py has no FastLVISMetric or FastCocoMetric with an ann_file in its test_evaluator',
        ),
        ((topk, tmp_path), 'config .*topk.py: its metric cannot be built: ValueError: topk is 0; .*'),
        ((cfg, tmp_path), '.* has no predictions: rank0.predictions is missing'),
        ((cfg, 'a.txt'), 'a.txt is neither a folder nor named <prefix>.bbox.json, <prefix>.segm.json, or .pkl .*'),
        ((cfg, 'a.segm.json'), "a.segm.json is for metric 'segm', which test_evaluator of .* does not have"),
        ((cfg, 'a.bbox.json'), 'missing: a.bbox.json'),
    ):
        code, out = tool(*arguments)
        assert re.fullmatch(f'eval_results: {line}', code) and not out


def killed_in_a_second_test(rank, folder, ann_file, samples):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    metric = FastLVISMetric(ann_file, outfile_prefix=str(folder / f'machine{rank}/results'))
    metric.process({}, samples[rank::2])
    metric.evaluate(len(samples))
    metric.process({}, samples[rank:4:2])
    metric._open.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def test_predictions_of_a_killed_test_are_evaluated(tmp_path):
    """Two processes on separate machines; that of rank 0 still has a file of the earlier test."""
    content, samples = draw(12)
    ann_file = saved(content, tmp_path)
    in_two_processes(killed_in_a_second_test, tmp_path, ann_file, samples, exitcode=-signal.SIGKILL)
    cfg = config(tmp_path, ann_file, type='FastLVISMetric')
    folders = [tmp_path / f'machine{rank}/results.predictions' for rank in range(2)]
    with pytest.raises(PredictionError, check=lambda error: error.code == 'other-test'):
        eval_results(cfg, str(folders[0]))
    (folders[0] / 'rank1.predictions').unlink()
    with pytest.raises(FileNotFoundError, match='rank1.predictions is missing; .* machine of process 1'):
        eval_results(cfg, str(folders[0]))
    shutil.copy(folders[1] / 'rank1.predictions', folders[0])
    assert same(eval_results(cfg, str(folders[0])), result(LVISMetric, ann_file, samples[:4]))
