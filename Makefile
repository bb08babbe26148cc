# vnfleet: one entry for people and for CI. Needs python3.11 or newer and pip; the rest is installed into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
STAMP := $(VENV)/.installed
SOURCES := src tests benchmarks scripts
# one thread per test process: two processes on two cores are faster than four threads fighting for them
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 POLARS_MAX_THREADS=1

.PHONY: help install demo test prove check clean

help: ## show what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

install: $(STAMP) ## create .venv from requirements.lock

# torch first and pinned, so that no other package brings another one
$(STAMP): requirements.lock pyproject.toml
	@if [ ! -x $(BIN)/python ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  rm -rf $(VENV); \
	  $(PYTHON) -m venv $(VENV) || { \
	    rm -rf $(VENV); \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	      apt-get update -qq; \
	      apt-get install -y -qq "$$(basename $(PYTHON))-venv" || apt-get install -y -qq python3-venv; \
	      $(PYTHON) -m venv $(VENV); \
	    else \
	      echo "python venv is missing: install the package python3-venv, then run make again" >&2; exit 1; \
	    fi; }; \
	fi
	@echo "installing requirements.lock into $(VENV) (one to five minutes, only when it changed)"
	@$(PIP) "$$(grep '^torch==' requirements.lock)"
	@$(PIP) -r requirements.lock
	@$(PIP) --no-deps -e .
	@touch $(STAMP)

demo: $(STAMP) ## the whole week on a simulated market: trained, judged, deployed, reported, in three minutes
	$(BIN)/vnfleet demo

test: $(STAMP) ## every mechanism once, small
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n 2 --dist loadgroup -m "not prove"

prove: $(STAMP) ## the full counts: real prices, many kills
	$(BIN)/python -m pytest -q -m prove

check: $(STAMP) ## format, lint, strict types, import layers
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove caches, builds and the demo; never a work directory
	rm -rf build dist vnfleet-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +
	find src -type d -name '*.egg-info' -prune -exec rm -rf {} +
