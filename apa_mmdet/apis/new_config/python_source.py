"""Writes settings as Python source in the style of the configs here."""

from typing import Any

WIDTH = 120


class Expression(str):
    """Python code, written as it is."""

    __slots__ = ()


def source_of(value: Any, indent: int = 0, before: int = 0) -> str:
    """The Python source of plain data; dicts as calls, ``dict(key=value)``.

    Args:
        value: dict with names as keys, list, tuple, text, number, None, or :class:`Expression`.
        indent: columns before each further line.
        before: columns that the first line has in front of it, and that may follow it.

    Example:
        >>> print(source_of(dict(type='Resize', scale=(400, 300), root=Expression('data_root'))))
        dict(type='Resize', scale=(400, 300), root=data_root)
    """
    if isinstance(value, Expression):
        return value
    if not isinstance(value, (dict, list, tuple)):
        return repr(value)
    start, end = ('dict(', ')') if isinstance(value, dict) else ('[', ']') if isinstance(value, list) else ('(', ')')
    keys = [f'{key}=' for key in value] if isinstance(value, dict) else [''] * len(value)
    items = list(value.values()) if isinstance(value, dict) else list(value)
    flat = [key + source_of(item) for key, item in zip(keys, items)]
    comma = ',' if isinstance(value, tuple) and len(value) == 1 else ''
    line = start + ', '.join(flat) + comma + end
    if '\n' not in line and indent + before + len(line) < WIDTH:
        return line
    inner = ' ' * (indent + 4)
    lines = [f'{inner}{key}{source_of(item, indent + 4, len(key))},' for key, item in zip(keys, items)]
    return '\n'.join([start, *lines, ' ' * indent + end])


def assignment(name: str, value: Any) -> str:
    """A line, or lines, ``name = value``."""
    return f'{name} = {source_of(value, 0, len(name) + 3)}'
