"""The classes that configs name."""

from typing import Any

from mmdet.registry import MODELS
from mmengine.registry import Registry


def registered(cfg: Any, registry: Registry = MODELS) -> Any:
    """Returns what a ``dict(type=…)`` builds, in its scope or else the default one; None if it is not known.

    Example:
        >>> registered(dict(type='ReLU')).__name__, registered(dict(type=dict)), registered('ReLU')
        ('ReLU', <class 'dict'>, None)
    """
    name = cfg.get('type') if isinstance(cfg, dict) else None
    if not isinstance(name, str):
        return name
    try:
        with registry.switch_scope_and_registry(cfg.get('_scope_')) as found_in:
            return found_in.get(name)
    except Exception:  # a scope that is not installed: the build reports it
        return None


def class_of(cfg: Any, registry: Registry = MODELS) -> type | None:
    """Returns the class that a ``dict(type=…)`` builds; None if it is not known, or no class."""
    found = registered(cfg, registry)
    return found if isinstance(found, type) else None


def builds(cfg: Any, kinds: type | tuple[type, ...], registry: Registry = MODELS) -> bool:
    """Whether a config builds one of these classes, or a subclass."""
    cls = class_of(cfg, registry)
    return cls is not None and issubclass(cls, kinds)
