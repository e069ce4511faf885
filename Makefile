# Each target sets up what it needs, on a machine that has make and a Python (3.10 or newer) with venv and pip.
#
#     make demo                     an outage, a second process, and the count at the end
#     make chaos                    everything is broken on purpose, and a report says what was lost
#     make chaos CHAOS_PROFILE=full CHAOS_ONLY=network/lost-reply CHAOS_SEED=7   (more: docs/chaos.md)
#     make test                     the tests, against the built wheel
#     make test PYTEST_ARGS="-k fork -x"
#     make test PYTHON=python3.12

PYTHON ?= python3
PYTEST_ARGS ?=
# How often the tests that kill and race repeat themselves.
FEW_ROUNDS := 3
ALL_ROUNDS := 50
ROUNDS ?= $(FEW_ROUNDS)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
SOURCES := $(wildcard src lab chaos tests demo bench tools)

.DEFAULT_GOAL := help
.PHONY: help demo chaos chaos-mutants chaos-compare test test-all test-long lint format bench docs build clean

help:
	@sed -n 's/^#     //p' $(firstword $(MAKEFILE_LIST))
	@echo "targets: demo chaos chaos-mutants chaos-compare test test-all test-long lint format bench docs build clean"

# What a run of the chaos suite is asked for; empty is as it likes.
export CHAOS_PROFILE CHAOS_SEED CHAOS_ONLY CHAOS_MINUTES CHAOS_JOBS CHAOS_PROXY CHAOS_REPORT

# Touched last, so that a set-up that was interrupted is done again.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --group dev --editable '.[cli,demo]'
	@touch $@

demo: $(READY)
	$(BIN)/python -m demo

# chaos/choices.py says what can be asked for.
chaos: $(READY)
	$(BIN)/python -m chaos

# The library is broken on purpose, and each time a scenario must see it.
chaos-mutants: $(READY)
	$(BIN)/python -m chaos.mutants

# Other sinks meet the same faults; makes an environment for each.
chaos-compare: $(READY)
	$(BIN)/python -m chaos.comparison

test:
	ROUNDS=$(ROUNDS) $(PYTHON) tools/test_wheel.py $(PYTEST_ARGS)

# On every Python from 3.10 to 3.13 that is there; what is not there is said.
test-all:
	ROUNDS=$(ROUNDS) $(PYTHON) tools/test_wheel.py --every-python $(PYTEST_ARGS)

# The same tests, with all their rounds.
test-long:
	ROUNDS=$(ALL_ROUNDS) $(PYTHON) tools/test_wheel.py $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	PYTHONPATH=. $(BIN)/lint-imports --no-logo

format: $(READY)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(READY)
	$(BIN)/python -m bench
	$(BIN)/python -m bench drain

docs: $(READY)
	$(BIN)/python tools/make_reference.py
	$(PYTHON) tools/check_docs.py

build: $(READY)
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) .test-venvs build dist .tools chaos/report .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
