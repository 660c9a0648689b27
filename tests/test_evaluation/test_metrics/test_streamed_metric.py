"""What FastLVISMetric and FastCocoMetric refuse of predictions, whatever they are read for, and write."""

import json

import pytest
import torch
from helpers import coco_samples, lvis_samples
from helpers.disk import files_no_larger_than, names
from helpers.lvis_samples import saved

from apa_mmdet.evaluation import FastCocoMetric, FastLVISMetric
from apa_mmdet.evaluation.metrics.streamed_metric import EvaluationError

METRICS = {FastLVISMetric: lvis_samples.draw, FastCocoMetric: coco_samples.draw}
both_metrics = pytest.mark.parametrize('cls', METRICS)


def evaluated(cls, ann_file, samples, **options):
    metric = cls(ann_file, **options)
    metric.dataset_meta = {}
    metric.process({}, samples)
    return metric.evaluate(len(samples))


@both_metrics
@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(outfile_prefix='out'),
        dict(outfile_prefix='out', format_only=True),
        dict(metric='proposal_fast'),
        dict(metric='proposal_fast', outfile_prefix='out'),
    ],
    ids=' '.join,
)
def test_predictions_of_other_data_are_refused_before_they_are_written_or_counted(cls, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, samples = METRICS[cls](0)
    samples.sort(key=lambda sample: len(sample['pred_instances']['labels']))
    ann_file, (*rest, last) = saved(content, tmp_path), samples
    (tmp_path / 'out.bbox.json').write_text('[]')
    found = last['pred_instances']
    nothing = {key: values[:0] for key, values in found.items()}
    for code, wrong in (
        ('unknown-label', dict(last, pred_instances=dict(found, labels=torch.full_like(found['labels'], 6)))),
        ('unknown-label', dict(last, pred_instances=dict(found, labels=torch.full_like(found['labels'], -1)))),
        ('unknown-image', dict(last, img_id=1)),
        ('unknown-image', dict(img_id=1, pred_instances=nothing)),
    ):
        with pytest.raises(EvaluationError, check=lambda error, code=code: error.code == code):
            evaluated(cls, ann_file, [*rest, wrong], **options)
        assert (tmp_path / 'out.bbox.json').read_text() == '[]' and names(tmp_path) == ['gt.json', 'out.bbox.json']


@both_metrics
def test_result_files_are_written_as_a_whole_or_not_at_all(cls, tmp_path):
    content, samples = METRICS[cls](0, images=20)
    ann_file, options = saved(content, tmp_path), dict(format_only=True, outfile_prefix=str(tmp_path / 'out'))
    evaluated(cls, ann_file, samples[:2], **options)
    written = ['gt.json', 'out.bbox.json', 'out.segm.json']
    before = [(tmp_path / name).read_text() for name in written]
    metric = cls(ann_file, **options)
    metric.dataset_meta = {}
    metric.process({}, samples)
    metric._open.flush()
    size = metric._open.path.stat().st_size
    with files_no_larger_than(size), pytest.raises(EvaluationError):  # JSON takes more space
        metric.evaluate(len(samples))
    assert names(tmp_path) == written and [(tmp_path / name).read_text() for name in written] == before
    evaluated(cls, ann_file, samples, **options)
    assert all(len(json.loads((tmp_path / name).read_text())) > 20 for name in written[1:])
