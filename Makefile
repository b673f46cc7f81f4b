# What a developer does with lowheap. Each target makes the virtual environment that it needs, in $(VENV).

PYTHON ?= python3
VENV ?= .venv

BIN = $(VENV)/bin
INSTALLED = $(VENV)/.lowheap-installed

# Bytecode is kept, whatever the environment says: tests start hundreds of processes, which would each compile it anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run peers programs test test-full coverage spec fuzz bench lint clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 15

run: $(INSTALLED) ## build and drop binary trees on the heap, and print its figures
	$(BIN)/lowheap run examples/binary_trees.wat --invoke run 16 20 --stats

peers: $(INSTALLED) ## install the wasmtime wheels that tests compare with, in .peers
	@$(BIN)/python -m lowheap.peers

programs: $(INSTALLED) ## compile the examples in Kotlin and MoonBit, into .programs, once
	@$(BIN)/python -m toolchains

test: $(INSTALLED) peers programs ## run all tests
	$(BIN)/python -m pytest -n auto --dist worksteal

test-full: $(INSTALLED) peers programs ## run every combination, and more random examples (an hour or so)
	$(BIN)/python -m pytest -n auto --dist worksteal --full

coverage: $(INSTALLED) peers programs ## run all tests and report which lines and branches of lowheap/ Python ran
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n auto --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

spec: $(INSTALLED) ## run the spec scripts in a folder: make spec SUITE=folder
	@test -n "$(SUITE)" || { echo "which folder has the scripts? make spec SUITE=folder" >&2; exit 2; }
	$(BIN)/lowheap wast --jobs 2 --time-limit 300 $(SUITE)

fuzz: $(INSTALLED) ## compare random modules with wasmtime: make fuzz COUNT=1000 SEED=0
	$(BIN)/python -m fuzz --count $(or $(COUNT),1000) --seed $(or $(SEED),0)

bench: $(INSTALLED) ## measure lowheap beside wasmtime, V8 and C, and write docs/performance.md (some minutes)
	$(BIN)/python -m benchmarks --provide --docs

lint: $(INSTALLED) ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict

clean: ## remove .venv, caches and what was built
	rm -rf .venv .peers .programs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .fuzz .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Editable, so that only a change of the dependencies calls for a new installation.
$(INSTALLED): pyproject.toml
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --disable-pip-version-check --editable '.[dev]' >$(VENV)/install.log 2>&1 || \
		{ cat $(VENV)/install.log >&2; exit 1; }
	@touch $@
