"""The benchmarks' counts of memory, for the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))

from memory import memory_of, saved_bytes

__all__ = ['memory_of', 'saved_bytes']
