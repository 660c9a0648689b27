"""Checks whether the metrics that hooks and schedulers watch are among those that the validation gives."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from mmdet.evaluation import CocoMetric, LVISMetric
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.optim import ReduceOnPlateauParamScheduler
from mmengine.registry import HOOKS, PARAM_SCHEDULERS

from apa_mmdet.engine.hooks import AtomicCheckpointHook
from apa_mmdet.evaluation.functional.coco_summary import PRECISIONS as COCO_PRECISIONS
from apa_mmdet.evaluation.functional.coco_summary import RECALLS_BY_AREA, RECALLS_BY_LIMIT, available
from apa_mmdet.evaluation.functional.metric_names import overall_precision
from apa_mmdet.evaluation.metrics import FastCocoMetric, FastLVISMetric, ShotAccuracy
from apa_mmdet.evaluation.metrics.fast_coco_metric import GROUP_PRECISIONS
from apa_mmdet.evaluation.metrics.fast_lvis_metric import AVERAGE_PRECISIONS, AVERAGE_RECALLS
from apa_mmdet.utils.config import evaluators
from apa_mmdet.utils.findings import Findings
from apa_mmdet.utils.registered_classes import builds, class_of

from .launch import Launch

COCO_RECALLS = RECALLS_BY_LIMIT + RECALLS_BY_AREA
KNOWN = {
    CocoMetric: (COCO_PRECISIONS, COCO_RECALLS),
    FastCocoMetric: (COCO_PRECISIONS, COCO_RECALLS),
    LVISMetric: (AVERAGE_PRECISIONS, AVERAGE_RECALLS),
    FastLVISMetric: (AVERAGE_PRECISIONS, AVERAGE_RECALLS),
}
BY_CLASS = '_precision'


class Watched(NamedTuple):
    """A metric that is watched: the setting that names it, its rule, and the setting of the rule."""

    setting: str
    key: str
    rule: str | None
    rule_setting: str


class Metrics(NamedTuple):
    """What a validation gives: the names, the prefixes of those of single classes, the metrics that list none."""

    keys: list[str]
    by_class: list[str]
    unlisted: list[str]

    def gives(self, key: str) -> bool:
        return key in self.keys or any(key.startswith(p) and key.endswith(BY_CLASS) for p in self.by_class)


def check_metrics(launch: Launch, findings: Findings) -> None:
    """Report metrics that are watched for the best checkpoint, early stopping or the schedule, but never given."""
    cfg = launch.cfg
    if launch.tool != 'train.py':
        return
    watched, metrics = list(_watched(cfg)), _metrics(cfg)
    for one in watched:
        if not cfg.get('val_evaluator') or not cfg.get('val_dataloader'):
            findings.add('no-validation', [one.setting], setting=one.setting)
        else:
            _check_watched(one, metrics, findings)
    for path, hook in _hooks(cfg, EarlyStoppingHook):
        key = hook.get('monitor')
        if isinstance(key, str) and metrics.gives(key) and 'min_delta' not in hook:
            setting = f'{path}.min_delta'
            findings.add('large-min-delta', [setting], setting=setting, key=key)


def _check_watched(one: Watched, metrics: Metrics, findings: Findings) -> None:
    key = one.key
    if key == 'auto':
        first = next(iter(metrics.keys), None)
        inferred = one.rule or metrics.by_class or (first and _is_inferred(first, CheckpointHook))
        if first and not inferred and not metrics.unlisted:
            findings.add('wrong-rule', [one.setting], setting=one.rule_setting, rule='not set', key=first)
    elif metrics.gives(key):
        if one.rule != 'greater':
            rule = one.rule or 'not set'
            findings.add('wrong-rule', [one.setting], setting=one.rule_setting, rule=rule, key=key)
    elif metrics.unlisted:
        findings.add('unchecked-metric-key', [key], setting=one.setting, key=key, metric=metrics.unlisted[0])
    else:
        best = overall_precision(metrics.keys)
        keys = [*filter(None, [best]), *(k for k in metrics.keys if k != best)]
        keys += [f'{prefix}NAME{BY_CLASS}' for prefix in metrics.by_class]
        findings.add('unknown-metric-key', [key], setting=one.setting, key=key, keys=', '.join(keys) or 'nothing')


def _metrics(cfg: Config) -> Metrics:
    found = Metrics([], [], [])
    for of_dataset, evaluator in _evaluators(cfg):
        cls = class_of(evaluator, METRICS)
        if cls is not ShotAccuracy and cls not in KNOWN:
            found.unlisted.append(str(evaluator.get('type')))
            continue
        prefix = of_dataset + (evaluator.get('prefix') or cls.default_prefix)
        if cls is ShotAccuracy:
            found.keys.extend(f'{prefix}/{key}' for key in cls.keys(**evaluator))
            continue
        precisions, recalls = KNOWN[cls]
        if cls is FastCocoMetric:
            precisions += GROUP_PRECISIONS if evaluator.get('frequency_groups') else ()
            recalls = available(evaluator.get('proposal_nums', (100, 300, 1000)))[len(COCO_PRECISIONS) :]
        found.keys.extend(f'{prefix}/{key}' for key in _keys(evaluator, precisions, recalls))
        if evaluator.get('classwise') and not evaluator.get('format_only'):
            found.by_class.append(f'{prefix}/')
    return found


def _evaluators(cfg: Config) -> Iterator[tuple[str, dict]]:
    """Yields each metric of the validation, and the prefix of its data set, ``''`` or ``'city/'``."""
    outer = cfg.get('val_evaluator')
    prefixes = outer.get('dataset_prefixes') if isinstance(outer, dict) else None
    groups = [('', outer)]
    if prefixes:
        metrics = outer.get('metrics')
        metrics = metrics if isinstance(metrics, (list, tuple)) else [metrics]
        groups = [(f'{prefix}/', group) for prefix, group in zip(prefixes, metrics)]
    for prefix, group in groups:
        yield from ((prefix, metric) for _, metric in evaluators(dict(val_evaluator=group), ['val']))


def _keys(evaluator: dict, precisions: tuple[str, ...], recalls: tuple[str, ...]) -> Iterator[str]:
    """Yields the names that a metric gives without its prefix, in its order."""
    metric, items = evaluator.get('metric', 'bbox'), evaluator.get('metric_items')
    kinds = [metric] if isinstance(metric, str) else metric
    if evaluator.get('format_only') or not isinstance(kinds, (list, tuple)):
        return
    for kind in kinds:
        if kind == 'proposal_fast':
            yield from (f'AR@{number}' for number in evaluator.get('proposal_nums', (100, 300, 1000)))
        elif kind == 'proposal':
            yield from recalls if items is None else items
        else:
            yield from (f'{kind}_{item}' for item in (precisions if items is None else items))


def _watched(cfg: Config) -> Iterator[Watched]:
    for path, hook in _hooks(cfg, CheckpointHook):
        best, rules = hook.get('save_best') or [], hook.get('rule')
        keys = [best] if isinstance(best, str) else best
        ours = issubclass(_class_of(hook, path), AtomicCheckpointHook)
        for i, key in enumerate(keys):
            rule = rules[min(i, len(rules) - 1)] if isinstance(rules, (list, tuple)) and rules else rules
            if rule is None and (ours or (key != 'auto' and _is_inferred(key, CheckpointHook))):
                rule = 'greater'
            yield Watched(f'{path}.save_best', key, rule, f'{path}.rule')
    for path, hook in _hooks(cfg, EarlyStoppingHook):
        key, rule = hook.get('monitor'), hook.get('rule')
        if isinstance(key, str):
            rule = 'greater' if rule is None and _is_inferred(key, EarlyStoppingHook) else rule
            yield Watched(f'{path}.monitor', key, rule, f'{path}.rule')
    schedulers = cfg.get('param_scheduler') or []
    for i, scheduler in enumerate(schedulers) if isinstance(schedulers, (list, tuple)) else ():
        if builds(scheduler, ReduceOnPlateauParamScheduler, PARAM_SCHEDULERS):
            path = f'param_scheduler.{i}'
            key, rule = scheduler.get('monitor', 'loss'), scheduler.get('rule', 'less')
            yield Watched(f'{path}.monitor', key, rule, f'{path}.rule')


def _is_inferred(key: str, hook: type) -> bool:
    """Whether MMEngine's hook takes more of a metric for better, by its name."""
    return any(part.lower() in key.lower() for part in hook._default_greater_keys)


def _hooks(cfg: Config, base: type) -> Iterator[tuple[str, dict]]:
    """Yields the hooks of a class, with their keys."""
    default, custom = cfg.get('default_hooks') or {}, cfg.get('custom_hooks') or []
    named = [(f'default_hooks.{name}', hook) for name, hook in default.items()] if isinstance(default, dict) else []
    if isinstance(custom, (list, tuple)):
        named += [(f'custom_hooks.{i}', hook) for i, hook in enumerate(custom)]
    for path, hook in named:
        if isinstance(hook, dict) and issubclass(_class_of(hook, path), base):
            yield path, hook


def _class_of(hook: dict, path: str) -> type:
    kind: Any = hook.get('type', 'CheckpointHook' if path == 'default_hooks.checkpoint' else None)
    return class_of(dict(type=kind), HOOKS) or object
