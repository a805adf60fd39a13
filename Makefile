# `make` alone lists what there is.
PYTHON ?= python3
BIN := .venv/bin
# pytest-xdist: a worker for each of two cores; a file in one, since its tests share runs.
TESTS ?= -n 2 --dist loadfile -m "not slow and not openvino"

.DEFAULT_GOAL := help
.PHONY: help setup train test slow lint types format clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/:/' | awk -F': *' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: .venv/ready  ## Make the environment .venv and install saltseg into it

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "saltseg needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[weights,kaggle,wandb,tensorboard,search,segy,export,openvino,joblib,submitit,ray,dev]'
	touch $@

train: setup  ## Train a network on the embedded data, in a few minutes
	$(BIN)/python -m saltseg.train experiment=quickstart

test: setup  ## Run the tests
	$(BIN)/python -m pytest $(TESTS)
	$(BIN)/python -m pytest -m openvino  # in a process of their own

slow: setup  ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: setup  ## Check the style
	$(BIN)/ruff check saltseg tests
	$(BIN)/ruff format --check saltseg tests

types: setup  ## Check the types
	$(BIN)/mypy

format: setup  ## Mend the style
	$(BIN)/ruff check --fix saltseg tests
	$(BIN)/ruff format saltseg tests

clean:  ## Remove the environment and caches; runs stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache *.egg-info
