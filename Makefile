# Five targets; `make demo` and `make test` each work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test check results docs

demo: $(READY)
	$(BIN)/genopact demo

test: $(READY) check
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --warnings --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache

# The full bars, resumable: rows that stand for this commit's code are skipped.
results: $(READY)
	$(BIN)/python -m tests.benchmarks.results

docs: $(READY)
	$(BIN)/python -m tests.generate

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
