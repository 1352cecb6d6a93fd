# Two commands for a newcomer: `make demo` and `make test`. The others make `.venv` first, if there is none.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# `make demo` runs recipes/demo.yaml; `SALAD_DEMO=short make demo` runs recipes/demo-short.yaml.
DEMO := recipes/demo$(if $(SALAD_DEMO),-$(SALAD_DEMO)).yaml
BENCHMARKS := $(filter-out benchmarks/bench.py,$(sort $(wildcard benchmarks/*.py)))

# Processes that each start a thread per core on few cores run 10-50 times slower; a recipe's `threads` sets its own.
OMP_NUM_THREADS ?= 2
export OMP_NUM_THREADS

.PHONY: .venv demo test test-fast coverage fuzz lint docs notebooks bench
.DEFAULT_GOAL := .venv

.venv: $(STAMP)

# The stamp is written last: an install that was cut short is done again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "salad needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt torch
	$(BIN)/pip install -c constraints.txt -e '.[demo,data,serve,test,lint,docs]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/salad run $(DEMO)

test: $(STAMP)
	$(BIN)/pytest

# Lines of src/ that no test runs, counted in workers too; fails under 90 %. About twice as long as `make test`.
coverage: $(STAMP)
	$(BIN)/pytest -q --cov --cov-report=term-missing:skip-covered --cov-fail-under=90

# The rooms whose tests need no model of a real size: under a minute, for the time between two edits.
FAST := audio files house config text objective measure select sequence
test-fast: $(STAMP)
	$(BIN)/pytest -q -m 'not gpu and not slow' $(foreach room,$(FAST),$(wildcard tests/$(room) tests/test_$(room).py))

# 2,000 manifests, tables, archives, task files and headers of sound of each kind, drawn by chance; `make test` draws a few.
fuzz: $(STAMP)
	SALAD_FUZZ=2000 $(BIN)/pytest -q tests/fuzz

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

bench: $(STAMP)
	@set -e; for file in $(BENCHMARKS); do echo "# $$file" >&2; $(BIN)/python $$file; done

# build/site/index.html: opens without a server. A link that leads nowhere, and a page that nobody names, fail it.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Both notebooks at a small setting, about two minutes each.
notebooks: $(STAMP)
	SALAD_SMALL=1 $(BIN)/python scripts/run_notebook.py $(wildcard examples/*.ipynb)
