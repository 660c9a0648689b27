"""What millions of objects cost: Python's search for cycles among them, and memory that stays with the process."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator


@contextlib.contextmanager
def paused_collection() -> Iterator[None]:
    """Make objects without looking for cycles among them; they are freed as always when nothing refers to them.

    Example:
        >>> with paused_collection():
        ...     gc.isenabled()
        False
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def return_memory() -> None:
    """Give freed memory back to the system where the C library keeps it (glibc)."""
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None) if os.name == 'posix' else None
    if trim:
        trim(0)
