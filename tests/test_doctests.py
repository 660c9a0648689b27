"""The examples in the docstrings."""

import doctest
import importlib
import pkgutil

import pytest
from helpers.paths import ON_MMPRETRAIN

import apa_mmdet

NAMES = [module.name for module in pkgutil.walk_packages(apa_mmdet.__path__, 'apa_mmdet.')]
MODULES = [name for name in NAMES if not name.startswith(ON_MMPRETRAIN)]


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
    if 'triton' in name:
        pytest.importorskip('triton')
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    output = []
    for example in doctest.DocTestFinder().find(importlib.import_module(name)):
        runner.run(example, out=output.append)
    assert runner.summarize(verbose=False).failed == 0, ''.join(output)


def test_there_are_examples():
    assert (
        sum(
            bool(test.examples)
            for name in MODULES
            if 'triton' not in name
            for test in doctest.DocTestFinder().find(importlib.import_module(name))
        )
        >= 20
    )
