"""Checks whether the metrics of a start fit its data sets, and whether --tta and images can work."""

from collections.abc import Iterator
from typing import Any

from mmdet.evaluation import MultiDatasetsEvaluator
from mmdet.models import DetTTAModel
from mmdet.registry import DATASETS, EVALUATOR, METRICS, VISUALIZERS
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import ConcatDataset

from apa_mmdet.evaluation import ConcatDatasetEvaluator
from apa_mmdet.evaluation.metrics.streamed_metric import StreamedMetric
from apa_mmdet.models.test_time_augs import InstanceTTAModel
from apa_mmdet.utils.config import leaves, metrics_of, model_parts, section
from apa_mmdet.utils.findings import Findings
from apa_mmdet.utils.registered_classes import builds, class_of
from apa_mmdet.visualization.local_visualizer import LegibleVisualizer

from .launch import Launch


def check_several_datasets(launch: Launch, findings: Findings) -> None:
    """Checks that each of several data sets has metrics of its own, which can tell its images from the others'."""
    split = launch.evaluated_split
    evaluator, loader = launch.cfg.get(f'{split}_evaluator'), launch.cfg.get(f'{split}_dataloader')
    if not isinstance(evaluator, (dict, list, tuple)) or not isinstance(loader, dict):
        return
    dataset, setting = loader.get('dataset'), f'{split}_evaluator'
    parts = dataset.get('datasets') if builds(dataset, ConcatDataset, DATASETS) else None
    by_dataset = builds(evaluator, (MultiDatasetsEvaluator, ConcatDatasetEvaluator), EVALUATOR)
    if builds(evaluator, MultiDatasetsEvaluator, EVALUATOR):
        if any(builds(metric, StreamedMetric, METRICS) for metric in metrics_of(evaluator)):
            findings.add('streamed-metric', [setting], setting=setting)
    elif by_dataset and len(evaluator.get('metrics') or ()) != len(parts or ()):
        counts = dict(metrics=len(evaluator.get('metrics') or ()), count=len(parts or ()))
        findings.add('metrics-per-dataset', [setting], setting=setting, loader=f'{split}_dataloader', **counts)
    sampler = loader.get('sampler')
    if by_dataset and isinstance(sampler, dict) and sampler.get('shuffle', True):
        findings.add('shuffled-evaluation', [f'{split}_dataloader.sampler'], loader=f'{split}_dataloader')
    if parts and not by_dataset:
        files = {str(path) for part in parts for path in _annotation_files(part)}
        for metric in metrics_of(evaluator):
            path = metric.get('ann_file') if isinstance(metric, dict) else None
            if len(files) > 1 and str(path) in files:
                findings.add('metric-of-one-dataset', [path], setting=setting, path=path, count=len(parts))


def _annotation_files(dataset: Any) -> Iterator[str]:
    for leaf in leaves(dataset):
        if leaf.get('ann_file'):
            root = leaf.get('data_root') or ''
            yield str(leaf['ann_file']) if not root else f'{str(root).rstrip("/")}/{leaf["ann_file"]}'


def check_tta(launch: Launch, findings: Findings) -> None:
    """Checks that the views of an image can be made and merged, and that merging drops no detection."""
    if not launch.tta:
        return
    cfg = launch.cfg
    dataset, tta = section(section(cfg, 'test_dataloader'), 'dataset'), cfg.get('tta_model')
    if 'pipeline' not in dataset and ('dataset' in dataset or 'datasets' in dataset):
        findings.add('tta-wrapped-dataset', [dataset.get('type')], type=dataset.get('type'))
    if not builds(tta, DetTTAModel) or builds(tta, InstanceTTAModel):
        return
    if any(part.get('mask_head') for _, part in model_parts(cfg.get('model'))):
        findings.add('tta-without-masks', [tta.get('type')], type=tta.get('type'))
    kept, limit = _max_per_img(cfg.get('model')), section(tta, 'tta_cfg').get('max_per_img')
    if isinstance(kept, int) and isinstance(limit, int) and (kept <= 0 or limit < kept):
        shown = kept if kept > 0 else 'all'
        findings.add('tta-max-per-img', ['tta_model.tta_cfg.max_per_img'], limit=limit, kept=shown)


def _max_per_img(model: Any) -> Any:
    test_cfg = section(model, 'test_cfg') if isinstance(model, dict) else {}
    return (section(test_cfg, 'rcnn') or test_cfg).get('max_per_img')


def check_palette(launch: Launch, findings: Findings) -> None:
    """Checks that mmdet's visualizer, where it is used, has a color for each class."""
    hook = section(section(launch.cfg, 'default_hooks'), 'visualization')
    visualizer = launch.cfg.get('visualizer')
    if not (launch.draws or hook.get('draw')) or not builds(visualizer, DetLocalVisualizer, VISUALIZERS):
        return
    if builds(visualizer, LegibleVisualizer, VISUALIZERS):
        return
    for leaf in leaves(section(launch.cfg, f'{launch.evaluated_split}_dataloader').get('dataset')):
        metainfo = leaf.get('metainfo')
        metainfo = metainfo if isinstance(metainfo, dict) else {}
        known = {**getattr(class_of(leaf, DATASETS), 'METAINFO', {}), **metainfo}
        classes, palette = known.get('classes'), known.get('palette')
        if isinstance(classes, (list, tuple)) and isinstance(palette, list) and len(palette) < len(classes):
            findings.add('short-palette', ['visualizer'], colors=len(palette), classes=len(classes))
            return
