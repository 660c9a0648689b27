# `make demo` and `make test` do everything from a bare machine on: Python 3.11, git, make, g++ and the package index.
VENV ?= .venv
export PATH := $(abspath $(VENV))/bin:$(PATH)

DEMO := mask_rcnn_se_r18_apa
CONFIG := configs/tiny_lvis/$(DEMO).py

.PHONY: help setup demo test test-slow lint bench clean force

help:
	@echo 'make demo       train, test and picture a long-tailed instance segmenter (a quarter of an hour on 2 cores)'
	@echo 'make test       the tests'
	@echo 'make test-slow  the tests that take minutes each'
	@echo 'make lint       the style of the code: ruff, as pyproject.toml has it'
	@echo 'make bench      check the activations against 60-digit values, then time them, the backbones and the heads'
	@echo 'make setup      the virtual environment $(VENV) alone; both of the above do it first'
	@echo 'make clean      remove $(VENV), data/tiny_lvis and work_dirs/$(DEMO)'

setup: $(VENV)/.ready

# TORCH, PYTHON and MMCV_CACHE are for this script, which explains them
$(VENV)/.ready: requirements.txt pyproject.toml tools/setup/setup_env.sh tools/setup/build_mmcv.sh $(if $(TORCH),force)
	tools/setup/setup_env.sh $(VENV)
	@touch $@

demo: setup
	python tools/make_tiny_lvis.py
	python tools/train.py $(CONFIG)
	python tools/test.py $(CONFIG) $$(cat work_dirs/$(DEMO)/last_checkpoint)
	python tools/report.py work_dirs/$(DEMO)

test: setup
	python -m pytest

test-slow: setup
	python -m pytest -m slow

lint: setup
	ruff check .
	ruff format --check .

bench: setup
	python benchmarks/activations.py --check --keep-memory
	python benchmarks/backbone.py --keep-memory
	python benchmarks/head.py --keep-memory

clean:
	rm -rf $(VENV) data/tiny_lvis work_dirs/$(DEMO)
