# `make demo` and `make test` work on a bare machine: they need Python 3.11, git, make, g++ and the package index.
VENV ?= .venv
# of the command line alone: other programs set these in the environment, conda HOST for one
HOST :=
ENVIRONMENT :=
MATRIX ?= .venv-matrix# where `make test-matrix` keeps its environments
ENVS ?= $(basename $(notdir $(wildcard tools/setup/environments/*.txt)))
JOBS ?= 2# processes that run tests; each needs about 2 GiB
export PATH := $(abspath $(VENV))/bin:$(PATH)

DEMO := mask_rcnn_se_r18_apa_seesaw
CONFIG := configs/tiny_lvis/$(DEMO).py
# one thread a process, or the processes take the cores from each other
PYTEST := OMP_NUM_THREADS=1 python -m pytest --numprocesses $(JOBS) --dist loadfile
# image classification has a process of its own, with MMPretrain on its path
WITH_MMPRETRAIN := $(abspath $(VENV))/classification:$(CURDIR)/tests/helpers/cpu_torchvision
CLASSIFICATION := OMP_NUM_THREADS=1 PYTHONPATH=$(WITH_MMPRETRAIN)

.PHONY: help setup demo demo-pretrained test test-detection test-classification test-slow test-matrix cov lint docs bench gpu-bundle gpu-check check-cuda-build clean force

help:
	@echo 'make setup      create the virtual environment $(VENV) (all other targets do it first);'
	@echo '                HOST=onedl: with the maintained line of MMDetection'
	@echo 'make demo       train, test and plot a long-tailed instance segmentation model (15 minutes on 2 cores)'
	@echo 'make demo-pretrained  pretrain a backbone (20 minutes), then train and test a detector from it'
	@echo 'make test       run the tests in $(JOBS) processes (JOBS=N for N)'
	@echo 'make test-slow  run the tests that take minutes each'
	@echo 'make test-matrix  run `make test-detection` in other environments (ENVS="$(ENVS)"; 1.5 hours)'
	@echo 'make cov        run the tests and report line coverage (htmlcov/index.html)'
	@echo 'make lint       check style, imports and types: ruff, import-linter, mypy'
	@echo 'make docs       build the documentation and check its links (site/index.html)'
	@echo 'make bench      check the activations against 60-digit values, then time activations, backbones, heads and the host'
	@echo 'make gpu-bundle fill gpu_bundle/ with what a GPU machine without a network needs for make gpu-check'
	@echo 'make gpu-check  check and time everything on one GPU in 9 minutes, one report (ARGS=--cpu: rehearse)'
	@echo 'make check-cuda-build  compile the CUDA operators in use; needs nvcc and a CUDA torch, no GPU'
	@echo 'make clean      remove $(VENV), data/tiny_lvis, data/tiny_objects and work_dirs/$(DEMO)'

setup: $(VENV)/.ready

# tools/setup/setup_env.sh documents the environments, TORCH, PYTHON, MMCV_WHEELS and MMCV_CACHE
$(VENV)/.ready: requirements.txt pyproject.toml $(wildcard tools/setup/*.sh tools/setup/*.txt tools/setup/environments/*.txt) \
    $(if $(HOST)$(ENVIRONMENT)$(TORCH),force)
	tools/setup/setup_env.sh $(VENV) $(or $(ENVIRONMENT),$(HOST))
	@touch $@

# Threads that wait for each other spin 1,000 times, not 300,000: beside two busy programs on two cores a step takes twice
# its time instead of four times, alone 7% more.
demo: export GOMP_SPINCOUNT ?= 1000
demo: setup
	python tools/make_tiny_lvis.py
	python tools/train.py $(CONFIG)
	python tools/test.py $(CONFIG) $$(cat work_dirs/$(DEMO)/last_checkpoint)
	python tools/report.py work_dirs/$(DEMO)

# BASELINE=1: with ReLU and sigmoid. Training goes on where it was interrupted.
demo-pretrained: export GOMP_SPINCOUNT ?= 1000
demo-pretrained: BACKBONE := $(if $(BASELINE),se_resnet18_relu_sigmoid,se_resnet18_apa)_tiny-objects
demo-pretrained: DETECTOR := $(if $(BASELINE),mask_rcnn_se_r18_relu_gol,mask_rcnn_se_r18_apa)_pretrained
demo-pretrained: setup $(VENV)/.classification
	python tools/make_tiny_lvis.py --form imagenet
	PYTHONPATH=$(WITH_MMPRETRAIN) python tools/train.py configs/tiny_objects/$(BACKBONE).py --resume
	python tools/make_tiny_lvis.py
	python tools/train.py configs/tiny_lvis/$(DETECTOR).py --resume
	python tools/test.py configs/tiny_lvis/$(DETECTOR).py $$(cat work_dirs/$(DETECTOR)/last_checkpoint)

test: test-detection test-classification

test-detection: setup
	$(PYTEST) $(ARGS)

test-classification: setup $(VENV)/.classification
	$(CLASSIFICATION) python -m pytest tests/classification $(ARGS)

test-slow: setup $(VENV)/.classification
	python -m pytest -m slow
	$(CLASSIFICATION) python -m pytest -m slow tests/classification

# MMPretrain apart from the environment: MMDetection imports it wherever it is, and most users have none. Set-up writes
# the list: what the environment has by itself, as OneDL's has its MMPretrain, is not on it.
$(VENV)/.classification: $(VENV)/.ready
	rm -rf $(VENV)/classification
	python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/classification -r $(VENV)/classification.txt
	@touch $@

test-matrix:
	python3 tools/setup/test_matrix.py $(MATRIX) $(ENVS) $(ARGS)

cov: setup
	$(PYTEST) --cov --cov-report=term --cov-report=html

lint: setup
	ruff check .
	ruff format --check .
	lint-imports
	mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

$(VENV)/.docs: docs/requirements.txt $(VENV)/.ready
	python -m pip install --quiet --disable-pip-version-check --no-deps -r docs/requirements.txt
	@touch $@

bench: setup
	python benchmarks/activations.py --check --keep-memory
	python benchmarks/backbone.py --keep-memory
	python benchmarks/head.py --keep-memory
	python benchmarks/host.py

gpu-bundle: setup
	python benchmarks/gpu_check/bundle.py $(ARGS)

# without set-up: on a bare machine nothing can be downloaded, and any Python with a CUDA build of torch will do
gpu-check:
	python3 benchmarks/gpu_check/run.py $(ARGS)

check-cuda-build:
	FORCE_CUDA=1 python3 benchmarks/gpu_check/mmcv_operators.py --check $(ARGS)

clean:
	rm -rf $(VENV) data/tiny_lvis data/tiny_objects work_dirs/$(DEMO)
