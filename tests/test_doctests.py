"""The examples in the docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import apa_mmdet

MODULES = [module.name for module in pkgutil.walk_packages(apa_mmdet.__path__, 'apa_mmdet.')]


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
    if name.endswith('triton_kernels'):
        pytest.importorskip('triton')
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said = []
    for example in doctest.DocTestFinder().find(importlib.import_module(name)):
        runner.run(example, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, ''.join(said)


def test_there_are_examples():
    assert (
        sum(
            bool(test.examples)
            for name in MODULES
            if not name.endswith('triton_kernels')
            for test in doctest.DocTestFinder().find(importlib.import_module(name))
        )
        >= 20
    )
