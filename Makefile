# Six targets; `make demo` and `make test` each work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test check results docs oracles
ORACLES := bcftools bgzip plink1.9 plink2

demo: $(READY)
	$(BIN)/genopact demo

test: $(READY) oracles check
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --warnings --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache

# The full bars, resumable: rows that stand for this commit's code are skipped.
results: $(READY) oracles
	$(BIN)/python -m tests.benchmarks.results

# The programs that the tests compare with, from Debian; without root they have to be there already.
oracles:
	@command -v $(ORACLES) >/dev/null && test `command -v $(ORACLES) | wc -l` = $(words $(ORACLES)) || { \
	  apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends bcftools tabix plink1.9 plink2 >/dev/null; }

docs: $(READY)
	$(BIN)/python -m tests.generate

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
