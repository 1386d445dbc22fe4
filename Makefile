# Everything runs from .venv, made once from the lock file. `make help` lists the commands.
PYTHON ?= python3
CUSTOMERS ?= 10000
AS_OF ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export DBT_PROFILES_DIR ?= $(CURDIR)
# No tool of this project reports home.
export DO_NOT_TRACK := 1
export FEAST_USAGE := False
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help setup run daily report oulad test lint bench bench-features bench-online bench-scoring clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(INSTALLED)  ## make .venv from requirements.lock

# The lock is complete, so pip installs it without resolving; the project itself is linked, not copied.
$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

run: setup  ## simulate (unless RAW_DATA_DIR is given), build, train, score, serve: CUSTOMERS=10000
	$(BIN)/python -m pipeline run --customers $(CUSTOMERS)

daily: setup  ## one night on new raw files: AS_OF=2026-07-02
	$(BIN)/python -m pipeline daily $(if $(AS_OF),--as-of $(AS_OF))

# Data too young for any label cannot be exported, and still have much to report.
report: setup  ## training files, then the data and model report: data/report/report.html and .md, after `make run`
	$(BIN)/python -m training export || echo "make report: there are no new training files; the report goes on"
	$(BIN)/python -m report

oulad: setup  ## the whole pipeline on real students: OULAD_DIR=directory of the data set
	$(BIN)/python -m examples.oulad $(if $(OULAD_DIR),--data $(OULAD_DIR))

test: setup  ## every test: dbt tests and unit tests, pytest
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: setup  ## ruff, dbt parse without warnings, sqlfluff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/dbt --warn-error parse --no-partial-parse
	$(BIN)/sqlfluff lint --disable-progress-bar models tests/dbt

bench: bench-features bench-scoring bench-online  ## every benchmark; on an idle machine

bench-features: setup  ## features: full build, nights, windows by the usual ways; simulates its own data
	$(BIN)/python -m benchmarks.features --write

bench-scoring: setup  ## scoring: ours beside the usual ways, after `make run`
	$(BIN)/python -m benchmarks.scoring --write

bench-online: setup  ## online: materialization and latency, after `make run`; needs redis-server
	$(BIN)/python -m benchmarks.materialization --write
	$(BIN)/python -m benchmarks.latency --write
	$(BIN)/python -m benchmarks.freshness --write

clean:  ## remove all that was simulated, built and trained (keeps .venv)
	rm -rf data/* target logs
