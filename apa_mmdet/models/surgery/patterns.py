"""Include and exclude patterns over the names of activations."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

Patterns = str | Sequence[str]


class Selection(NamedTuple):
    """Selects names that match one of ``include`` and none of ``exclude``."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]

    @classmethod
    def of(cls, include: Patterns, exclude: Patterns) -> 'Selection':
        """A string is one pattern."""
        return cls(*((given,) if isinstance(given, str) else tuple(given) for given in (include, exclude)))

    def __call__(self, *names: str) -> bool:
        return matches(self.include, names) and not matches(self.exclude, names)

    def may_hold(self, path: str, name: str) -> bool:
        """Whether it may select something within the part at ``path``, or a child ``name`` of that."""
        inner = f'{path}.{name}'.lstrip('.')
        within = matches(_parents(self.include), [path]) or matches(self.include, [inner])
        return within and not matches(self.exclude, [inner])


def matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Whether any of the names matches any of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _parents(patterns: Sequence[str]) -> list[str]:
    """Patterns of the modules around those that ``patterns`` name: ``a.b``, ``a`` and the whole for ``a.b.*``."""
    split = [pattern.split('.') for pattern in patterns]
    return ['.'.join(names[:depth]) for names in split for depth in range(len(names))]
