"""For tools that call it, as those of MMDetection's projects do; pyproject.toml says everything."""

from setuptools import setup

setup()
