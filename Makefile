# make help lists the targets. Everything runs in .venv, which `make setup` makes; nothing else need be installed.

PYTHON ?=
TORCH_INDEX_URL ?=
PYTEST_ARGS ?=
ARGS ?=

VENV := .venv
STAMP := $(VENV)/.setup-$(shell cat requirements/cpu.lock pyproject.toml | sha256sum | cut -c1-16)
# The environment's tools come first on PATH; python is named by its path, so that a moved checkout still works.
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
PY := $(RUN) $(VENV)/bin/python

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup quickstart compare test lint types unit e2e lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv from requirements/cpu.lock (once; again when the lock or pyproject.toml changed)

$(STAMP):
	@PYTHON="$(PYTHON)" TORCH_INDEX_URL="$(TORCH_INDEX_URL)" requirements/setup.sh $(VENV)
	@rm -f $(VENV)/.setup-*
	@touch $@

quickstart: setup ## train a tiny model with multi-attempt PPO and show what it learned (minutes, no GPU needed)
	@$(RUN) bash examples/tiny_math/quickstart.sh $(ARGS)

compare: setup ## single- against multi-attempt training in miniature, 3 seeds (45 minutes on 2 cores; ARGS=--quick: 1 seed)
	@$(RUN) bash recipes/compare_tiny.sh $(ARGS)

test: setup lint types unit e2e ## everything: lint, types, unit and adapter tests, then the real pipeline

lint: setup ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: setup ## mypy
	$(PY) -m mypy

unit: setup ## all tests that do not start the pipeline
	$(PY) -m pytest -m "not e2e" $(PYTEST_ARGS)

e2e: setup ## the tests that run the real pipeline
	$(PY) -m pytest -m e2e $(PYTEST_ARGS)

lock: ## regenerate requirements/cpu.lock; ARGS="--upgrade" for newer versions
	PYTHON="$(or $(PYTHON),python3)" requirements/update_lock.sh $(ARGS)

clean: ## remove caches and built packages; not .venv, not outputs
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find verl_multiattempt hydra_plugins tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
