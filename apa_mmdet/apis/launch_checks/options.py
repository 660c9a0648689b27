"""Checks for options and variables that nothing reads: MMEngine merges an option after the config file has run."""

import ast
import inspect
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

from apa_mmdet.utils.config import BadConfig, load_config, walk
from apa_mmdet.utils.findings import Findings, brief
from apa_mmdet.utils.shorthand_options import SHORTHANDS, spell_out

from .launch import Launch

OF_RUNNERS = {name for runner in (Runner, FlexibleRunner) for name in inspect.signature(runner.__init__).parameters}
# what else MMEngine, MMDetection and the tools read from the top of a config
READ = frozenset(OF_RUNNERS) - {'self', 'cfg'} | {
    *('runner_type', 'custom_imports', 'model_wrapper_cfg', 'find_unused_parameters', 'sync_bn', 'compile'),
    *('activation_checkpointing', 'efficient_conv_bn_eval', 'tta_model', 'tta_pipeline', 'check_annotations'),
}
# variables of most configs, which a config that MMEngine has written carries beside what they made
CUSTOMARY = {f'{split}_{part}' for split in ('train', 'val', 'test') for part in ('pipeline', 'dataset')}
SHOWN = 4  # settings in a message
ALIKE = 0.88  # of the letters of two names, from which one is taken for a slip of the other


def check_options(launch: Launch, findings: Findings) -> None:
    """Report options that change nothing, and variables of the config file that nothing reads."""
    path = launch.cfg.filename
    tree = _tree(path)
    doubtful = [name for name in _unused_variables(tree) if name not in READ and not name.startswith('_')]
    if not launch.options and not doubtful:
        return
    before = _without_options(path)  # a config takes its time to read
    for key, value in launch.options.items():
        _check_option(key, value, before, findings)
    doubtful = [name for name in doubtful if name in before]
    base = _bases(tree, Path(path).parent) if doubtful else None
    for name in doubtful:
        if base is None or name not in base:
            slip = None if name in CUSTOMARY else _slip_of(name, READ)
            if slip:
                findings.add('misspelled-setting', [name], setting=name, meant=slip)
        elif base[name] != before[name]:
            _check_variable(name, before[name], base[name], launch.cfg, findings)


def _without_options(path: str | None) -> Config:
    try:
        return load_config(path or '')
    except BadConfig:
        return Config()  # made by a program


def _check_option(key: str, value: Any, before: Config, findings: Findings) -> None:
    name, _, rest = key.partition('.')
    if key in SHORTHANDS:
        return
    if name not in READ:
        slip = _slip_of(name, READ | SHORTHANDS.keys())
        if name in before:
            found = list(_settings_with(before[name], before))
            if rest or value != before[name]:
                settings = _listing([f'{path}.{rest}' if rest else path for path in found])
                code = 'spent-variable' if found else 'unread-option'
                findings.add(code, [key], setting=key, value=brief(value), settings=settings)
        elif slip:
            findings.add('misspelled-setting', [key], setting=key, meant=f'{slip}.{rest}' if rest else slip)
        else:
            findings.add('unread-option', [key], setting=key)
        return
    node: Any = before
    for part in key.split('.'):
        if not isinstance(node, (dict, Config)):
            return
        if part not in node:
            slip = _slip_of(part, node)
            if slip:
                findings.add('new-setting', [key], setting=key, alike=slip)
            return
        node = node[part]


def _slip_of(name: str, known: Any) -> str | None:
    """The known name that one is probably a slip of."""
    return next(iter(get_close_matches(name, [k for k in known if isinstance(k, str)], 1, ALIKE)), None)


def _check_variable(name: str, value: Any, old: Any, cfg: Config, findings: Findings) -> None:
    """Report a variable of a config file that the file does not use, if what its bases made of the old one is there."""
    found, surely = list(_settings_with(old, cfg)), name in SHORTHANDS or name == 'num_classes'
    if not isinstance(old, (str, list, tuple, dict)):  # a number may be there by chance
        found = [path for path in found if path.rsplit('.', 1)[-1] == name] if surely else []
    if found:
        settings = _listing(found)
        if name in SHORTHANDS:
            with suppress(BadConfig):  # all that depends on it
                settings = ', '.join(key for key in spell_out(cfg, {name: value}) if key != name)
            settings += f', or --cfg-options {name}=…'
        code = 'spent-variable' if surely else 'unread-variable'
        findings.add(code, [name], setting=name, value=brief(value), settings=settings)


def _listing(paths: list[str]) -> str:
    more = f' and {len(paths) - SHOWN} more' if len(paths) > SHOWN else ''
    return ', '.join(paths[:SHOWN]) + more


def _settings_with(old: Any, cfg: Config) -> Iterator[str]:
    """Yields the keys of settings that are ``old``, or a path below it."""
    if old is None or isinstance(old, bool) or old in ('', (), [], {}):
        return
    root = old.rstrip('/') + '/' if isinstance(old, str) and '/' in old else None
    for top in READ & cfg.keys():
        for path, found in walk(cfg[top], top):
            below = root and isinstance(found, str) and found.startswith(root)
            if below or (type(found) is type(old) and found == old):
                yield path


def _tree(path: str | None) -> ast.Module:
    """The syntax tree of a config file; that of an empty one where there is none to read."""
    if path and Path(path).suffix == '.py' and Path(path).is_file():
        with suppress(Exception):  # a template, which is Python only after its variables are replaced
            return ast.parse(Path(path).read_text(encoding='utf-8'))
    return ast.Module([], [])


def _unused_variables(tree: ast.Module) -> list[str]:
    """The variables that a config file assigns without using them."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {name.id for name in names if not isinstance(name.ctx, ast.Store)}
    assigned = [
        target.id
        for node in tree.body
        for target in (node.targets if isinstance(node, ast.Assign) else ())
        if isinstance(target, ast.Name)
    ]
    return [name for name in dict.fromkeys(assigned) if name not in used]


def _bases(tree: ast.Module, folder: Path) -> Config | None:
    """The bases of a config as one; None without any."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(target, 'id', None) for target in node.targets] == ['_base_']:
            try:
                bases = ast.literal_eval(node.value)
                bases = [bases] if isinstance(bases, str) else bases
                found = [base if '::' in base else str((folder / base).resolve()) for base in bases]
                return Config.fromstring(f'_base_ = {found!r}', '.py')
            except Exception:  # made by a program, or with variables in braces
                return None
    return None
