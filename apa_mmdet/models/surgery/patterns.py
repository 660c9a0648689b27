"""Include and exclude patterns over the names of activations."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

Patterns = str | Sequence[str]


class Selection:
    """Selects names that match one of ``include`` and none of ``exclude``; a string is one pattern."""

    def __init__(self, include: Patterns, exclude: Patterns) -> None:
        self.include, self.exclude = ([given] if isinstance(given, str) else [*given] for given in (include, exclude))

    def __call__(self, *names: str) -> bool:
        return matches(self.include, names) and not matches(self.exclude, names)

    def may_hold(self, path: str, name: str) -> bool:
        """Whether it may select something within the part at ``path``, or a child ``name`` of that."""
        inner = f'{path}.{name}'.lstrip('.')
        split = [pattern.split('.') for pattern in self.include]
        parents = ['.'.join(names[:depth]) for names in split for depth in range(len(names))]  # a.b, a, '' for a.b.*
        return (matches(parents, [path]) or matches(self.include, [inner])) and not matches(self.exclude, [inner])


def matches(patterns: Iterable[str], names: Iterable[str]) -> bool:
    """Whether any of the names matches any of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)
