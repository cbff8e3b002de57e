# Two commands: `make demo` and `make test`. Both make .venv when it is missing or older than what it is made from.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STORE  ?= .secateur
SHELL  := /bin/bash

# test oracles that ask for more than they import, torchvision among it
ORACLES := curvlinops-for-pytorch==3.0.1 einconv==0.1.0 einops==0.8.2 linear_operator==0.6.1

# tests start many processes, and each would compile the package anew
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check docs bench clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready Makefile
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,check]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(ORACLES)
	@touch $@

demo: $(VENV)/ready  ## run recipes/demo.toml on two cores, print its table, write report.html
	$(BIN)/secateur grid recipes/demo.toml --store $(STORE) --report report.html

test: $(VENV)/ready-dev  ## the tests, under three minutes on two cores
	$(BIN)/pytest -m 'not slow' -n 2 --dist worksteal

test-slow: $(VENV)/ready-dev  ## kills, long simulations, real grids
	$(BIN)/pytest -m slow -n 2 --dist worksteal

check: $(VENV)/ready-dev  ## format, lint, types, walls, generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/generate.py --check

docs: $(VENV)/ready-dev  ## write the generated pages and stubs
	$(BIN)/python tools/generate.py

bench: $(VENV)/ready  ## overhead of the driver against a bare loop
	$(BIN)/python benchmarks/overhead.py

clean:  ## remove the environment and the caches, keep the results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build
