"""Checks that what a config builds late is registered, and takes the arguments that it gets.

A misspelled transform, hook or metric otherwise ends a start with a traceback after the data set is read, and one that
is built in the middle of training, as the pipeline of a PipelineSwitchHook, after hours.
"""

import inspect
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple

from mmdet.datasets.transforms import Albu
from mmengine.config import Config
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    HOOKS,
    LOOPS,
    METRICS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    Registry,
)
from torch.utils.data import DataLoader

from apa_mmdet.utils.findings import Findings
from apa_mmdet.utils.registered_classes import class_of, registered

from .launch import Launch

HOSTS = 'mmcv.', 'mmdet.', 'apa_mmdet.'  # packages whose lists of configs in a transform are transforms
# keys that the Runner takes out before it builds
OTHER_KEYS = 'type', '_scope_', 'priority', 'constructor', 'paramwise_cfg', 'convert_to_iter_based'
# what the Runner, and then torch, takes of a data loader
OF_LOADERS = {*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch', 'disable_subprocess_warning'}


class Part(NamedTuple):
    """A ``dict(type=…)`` of a config that ``registry`` builds. ``is_whole``: nothing but the config gives arguments."""

    setting: str
    cfg: dict
    registry: Registry
    is_whole: bool = False


def check_registered_types(launch: Launch, findings: Findings) -> None:
    """Report each part of data loaders, hooks, evaluators, loops and optimizers that could not be built."""
    with TRANSFORMS.switch_scope_and_registry(None) as registry:
        if registry.scope != launch.scope:
            return  # a package that is not installed: nothing is known about its parts
    for part in _parts(launch):
        _check_part(part, findings)
    for split in launch.splits:
        _check_loader(f'{split}_dataloader', launch.cfg.get(f'{split}_dataloader'), findings)


def _parts(launch: Launch) -> Iterator[Part]:
    cfg = launch.cfg
    for split in launch.splits:
        yield from _parts_of_loader(f'{split}_dataloader', cfg.get(f'{split}_dataloader'))
        yield from _one(f'{split}_cfg', cfg.get(f'{split}_cfg'), LOOPS)
        yield from _evaluators(f'{split}_evaluator', cfg)
    if launch.tta:
        yield from _transforms('tta_pipeline', cfg.get('tta_pipeline'))
    hooks = cfg.get('default_hooks')
    for name, hook in hooks.items() if isinstance(hooks, dict) else ():
        yield from _one(f'default_hooks.{name}', hook, HOOKS)
    for setting, hook in _each('custom_hooks', cfg.get('custom_hooks')):
        yield from _one(setting, hook, HOOKS, True)
        yield from _transforms(f'{setting}.switch_pipeline', hook.get('switch_pipeline'))
    if launch.tool == 'train.py':
        wrapper = cfg.get('optim_wrapper')
        yield from _one('optim_wrapper', wrapper, OPTIM_WRAPPERS)
        yield from _one('optim_wrapper.optimizer', _get(wrapper, 'optimizer'), OPTIMIZERS)
        for setting, scheduler in _each('param_scheduler', cfg.get('param_scheduler')):
            yield from _one(setting, scheduler, PARAM_SCHEDULERS)


def _parts_of_loader(setting: str, loader: Any) -> Iterator[Part]:
    yield from _datasets(f'{setting}.dataset', _get(loader, 'dataset'))
    for key in ('sampler', 'batch_sampler'):
        yield from _one(f'{setting}.{key}', _get(loader, key), DATA_SAMPLERS)


def _datasets(setting: str, node: Any) -> Iterator[Part]:
    """The data set and those in it, with the transforms of each."""
    for name, dataset in _each(setting, node):
        yield from _one(name, dataset, DATASETS)
        yield from _transforms(f'{name}.pipeline', dataset.get('pipeline'))
        for key in ('dataset', 'datasets'):
            yield from _datasets(f'{name}.{key}', dataset.get(key))


def _transforms(setting: str, node: Any) -> Iterator[Part]:
    """The transforms of a pipeline and, of those of mmcv, mmdet and this package, the transforms in them."""
    for name, transform in _each(setting, node):
        yield from _one(name, transform, TRANSFORMS, True)
        cls = class_of(transform, TRANSFORMS)
        if cls and cls.__module__.startswith(HOSTS) and not issubclass(cls, Albu):  # of albumentations
            for key, value in transform.items():
                if isinstance(value, (list, tuple)):
                    yield from _transforms(f'{name}.{key}', value)


def _evaluators(setting: str, cfg: Config) -> Iterator[Part]:
    evaluator = cfg.get(setting)
    if isinstance(evaluator, dict) and 'metrics' in evaluator:  # as the Runner tells an evaluator from a metric
        yield from _one(setting, evaluator, EVALUATOR, True)
        setting, evaluator = f'{setting}.metrics', evaluator['metrics']
    for name, metric in _each(setting, evaluator):
        yield from _one(name, metric, METRICS, True)


def _get(node: Any, key: str) -> Any:
    return node.get(key) if isinstance(node, dict) else None


def _each(setting: str, node: Any) -> Iterator[tuple[str, dict]]:
    """The dicts of a setting that is one, or a list of them, also nested."""
    if isinstance(node, dict):
        yield setting, node
    elif isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from _each(f'{setting}.{i}', item)


def _one(setting: str, node: Any, registry: Registry, is_whole: bool = False) -> Iterator[Part]:
    if isinstance(node, dict) and 'type' in node:
        yield Part(setting, node, registry, is_whole)


def _check_part(part: Part, findings: Findings) -> None:
    setting, name, kind = part.setting, part.cfg['type'], part.registry.name
    built = registered(part.cfg, part.registry)
    if not callable(built):
        close = get_close_matches(str(name), _names(part), 1)
        known = f', but {close[0]} is' if close else ''
        return findings.add('unknown-type', [setting], setting=setting, kind=kind, type=name, known=known)
    try:
        parameters = inspect.signature(built, follow_wrapped=False)  # a wrapper may rename arguments
    except (TypeError, ValueError):
        return
    arguments = {key: value for key, value in part.cfg.items() if key not in OTHER_KEYS}
    try:
        (parameters.bind if part.is_whole else parameters.bind_partial)(**arguments)
    except TypeError as error:
        name = getattr(built, '__name__', name)
        findings.add('invalid-arguments', [setting], setting=setting, type=name, reason=error)


def _check_loader(setting: str, loader: Any, findings: Findings) -> None:
    unknown = [key for key in loader if key not in OF_LOADERS] if isinstance(loader, dict) else []
    if unknown:
        close = get_close_matches(str(unknown[0]), OF_LOADERS, 1)
        reason = f'{unknown[0]} is unknown' + (f', perhaps {close[0]} is meant' if close else '')
        findings.add('invalid-arguments', [setting], setting=setting, type='DataLoader', reason=reason)


def _names(part: Part) -> list[str]:
    with part.registry.switch_scope_and_registry(part.cfg.get('_scope_')) as registry:
        names = []
        while registry is not None:
            names += registry.module_dict
            registry = registry.parent
        return names
