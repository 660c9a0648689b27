"""Options of the command line that stand for several settings: the data root, the classes, the length of a training.

MMEngine runs a config file before it merges options into it. An option that names a variable of the file, which the
file has copied into its settings by then, would change nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .config_parts import BadConfig, class_counts, is_classifier, section, walk

LOADERS = tuple(f'{split}_dataloader' for split in ('train', 'val', 'test'))
WITH_PATHS = (*LOADERS, 'val_evaluator', 'test_evaluator', 'model')
OF_SCHEDULE = ('begin', 'end', 'T_max', 'milestones')


def spell_out(cfg: Config, options: dict[str, Any]) -> dict[str, Any]:
    """Returns options with what these keys stand for, as full keys; options that are given in full come last and win.

    - ``data_root``: the root of every path in the data loaders, the evaluators and the model that lies below the
      config's data root.
    - ``classes``: names, or the path of a text file with a name in each line. They become the classes of every data
      set, and of losses and calibrations that name them, and their number that of every head and loss.
    - ``max_epochs`` or ``max_iters``, whichever the training loop counts: its length, with the steps of the schedule
      and of hooks (``switch_epoch``) moved in proportion.

    Args:
        cfg: the config without the options.
        options: as of ``--cfg-options``.

    Raises:
        BadConfig: ``bad-option``, if one cannot be applied to this config.

    Example:
        >>> schedule = [dict(type='MultiStepLR', milestones=[16, 22], end=24)]
        >>> cfg = Config(dict(train_cfg=dict(max_epochs=24), param_scheduler=schedule))
        >>> spell_out(cfg, dict(max_epochs=12))['param_scheduler.0.milestones']
        [8, 11]
    """
    full: dict[str, Any] = {}
    for key, settings_of in SHORTHANDS.items():
        if key in options:
            full.update(settings_of(cfg, options[key]))
    return {**full, **options}


def _leaf_paths(cfg: Config) -> Iterator[tuple[str, dict]]:
    """Yields the data sets inside wrappers, with their keys."""
    for loader in LOADERS:
        for path, node in walk(section(cfg, loader).get('dataset'), f'{loader}.dataset'):
            is_part = path.rsplit('.', 1)[-1] == 'dataset' or path.rsplit('.', 2)[-2] == 'datasets'
            if is_part and isinstance(node, dict) and not node.get('dataset') and not node.get('datasets'):
                yield path, node


def _data_root(cfg: Config, value: Any) -> dict[str, str]:
    if not isinstance(value, str) or not value:
        raise BadConfig('bad-option', f'data_root={value!r} is not a folder')
    roots = {leaf.get('data_root') for _, leaf in _leaf_paths(cfg)}
    old = roots.pop() if len(roots) == 1 else cfg.get('data_root')
    if not isinstance(old, str) or not old.strip('/'):
        raise BadConfig('bad-option', f'its data sets have no data_root in common; set {_keys_of_roots(cfg)}')
    old, new = old.rstrip('/'), value.rstrip('/') or '/'
    full = {}
    for top in WITH_PATHS:
        for path, text in walk(cfg.get(top), top):
            if isinstance(text, str) and (text == old or text.startswith(old + '/')):
                full[path] = new + text[len(old) :]
    return full


def _keys_of_roots(cfg: Config) -> str:
    return ', '.join(f'{path}.data_root' for path, _ in _leaf_paths(cfg)) or 'that of each data set'


def _classes(cfg: Config, value: Any) -> dict[str, Any]:
    names = _names(value)
    full: dict[str, Any] = {}
    for path, leaf in _leaf_paths(cfg):
        metainfo = leaf.get('metainfo') or {}
        # colors belong to the classes that go
        full[f'{path}.metainfo'] = dict(classes=names, **({'_delete_': True} if 'palette' in metainfo else {}))
    full.update((found.setting, len(names)) for found in class_counts(cfg.get('model')))
    for path, node in walk(cfg.get('model'), 'model'):
        if path.endswith('.classes') and isinstance(node, (list, tuple)):  # of a DropLoss or a calibration
            full[path] = names
    preprocessor = section(section(cfg, 'model'), 'data_preprocessor')
    if is_classifier(cfg) and 'num_classes' in preprocessor:  # of the labels that it mixes
        full['model.data_preprocessor.num_classes'] = len(names)
    if not full:
        raise BadConfig('bad-option', 'classes cannot be set, as it has no data set and no model')
    return full


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and Path(value).is_file():
        lines = Path(value).read_text(encoding='utf-8-sig').splitlines()
        value = [line.strip() for line in lines if line.strip()]
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(n, str) and n for n in names):
        raise BadConfig('bad-option', f'classes={value!r}; give names, as apple,pear,plum, or a text file of them')
    return tuple(names)


def _length(unit: str) -> Callable[[Config, Any], dict[str, Any]]:
    def spell_out_length(cfg: Config, value: Any) -> dict[str, Any]:
        loop = section(cfg, 'train_cfg')
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadConfig('bad-option', f'{unit}={value!r} is not a whole number of 1 or more')
        if not isinstance(loop.get(unit), int):
            other = next((key for key in ('max_epochs', 'max_iters') if key in loop), None)
            raise BadConfig('bad-option', f'its training does not count {unit}' + (f'; set {other}' if other else ''))
        full = {f'train_cfg.{unit}': value}
        for path, number in _positions(cfg, unit):
            full[path] = _scaled(number, value, loop[unit])
        for path in [path for path in full if path.endswith('.begin')]:
            end = f'{path.removesuffix("begin")}end'  # a scheduler needs a step, also one that comes too late
            if isinstance(full.get(end), int):
                full[end] = max(full[end], full[path] + 1)
        return full

    return spell_out_length


def _positions(cfg: Config, unit: str) -> Iterator[tuple[str, Any]]:
    """Yields what counts ``unit`` from the start of a training, with its key."""
    schedulers = cfg.get('param_scheduler') or []
    for i, scheduler in enumerate(schedulers) if isinstance(schedulers, (list, tuple)) else ():
        if isinstance(scheduler, dict) and scheduler.get('by_epoch', True) == (unit == 'max_epochs'):
            yield from ((f'param_scheduler.{i}.{key}', scheduler[key]) for key in OF_SCHEDULE if key in scheduler)
    if unit == 'max_epochs':
        if 'dynamic_intervals' in cfg.train_cfg:
            yield 'train_cfg.dynamic_intervals', cfg.train_cfg.dynamic_intervals
        for i, hook in enumerate(cfg.get('custom_hooks') or []):
            if isinstance(hook, dict) and 'switch_epoch' in hook:
                yield f'custom_hooks.{i}.switch_epoch', hook['switch_epoch']


def _scaled(value: Any, new: int, old: int) -> Any:
    """``value`` of a training of length ``old``, or each of a list, in one of length ``new``."""
    if isinstance(value, (list, tuple)):
        # of (position, interval) only the first
        pairs = [isinstance(v, Sequence) for v in value]
        return [
            (_scaled(v[0], new, old), *v[1:]) if is_pair else _scaled(v, new, old) for v, is_pair in zip(value, pairs)
        ]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float('inf'):
        return value
    return max(1, round(value * new / old))


SHORTHANDS: dict[str, Callable[[Config, Any], dict[str, Any]]] = dict(
    data_root=_data_root, classes=_classes, max_epochs=_length('max_epochs'), max_iters=_length('max_iters')
)
