"""The classes that configs name."""

from typing import Any

from mmdet.registry import MODELS
from mmengine.registry import Registry


def class_of(cfg: Any, registry: Registry = MODELS) -> type | None:
    """Returns the class that a ``dict(type=…)`` builds in the scope that is set; None if it is not known."""
    name = cfg.get('type') if isinstance(cfg, dict) else None
    try:
        found = registry.get(name) if isinstance(name, str) else name
    except Exception:  # a scope that is not installed: the build reports it
        return None
    return found if isinstance(found, type) else None


def builds(cfg: Any, kinds: type | tuple[type, ...], registry: Registry = MODELS) -> bool:
    """Whether a config builds one of these classes, or a subclass."""
    cls = class_of(cfg, registry)
    return cls is not None and issubclass(cls, kinds)
