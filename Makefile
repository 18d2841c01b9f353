# `make help` lists the verbs. Each sets up what it needs; nothing but make and Python 3.11-3.14 is assumed.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# Where it is set, every process compiles all it imports: `volcast serve` starts in 1.2 s instead of 0.5.
unexport PYTHONDONTWRITEBYTECODE

# The first interpreter that answers with a version we support. A name on PATH may be a shim that
# does not run, so each candidate is asked.
PYTHON ?= $(shell for candidate in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	$$candidate -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null \
	&& echo $$candidate && break; done)

VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# The same version as deploy/compose.yaml (tests/pipeline/broker/test_jars.py).
KAFKA_VERSION := 4.4.0
LOCKS := requirements.lock requirements-bootstrap.lock pyproject.toml
# One universal lock pins every extra by hash; it serves as constraints, so a machine installs only what it runs.
INSTALL = $(UV) pip install --quiet --python $(BIN)/python --link-mode copy --require-hashes -r pyproject.toml -c requirements.lock

.PHONY: help setup run test unit check format proto docs bench train nightly clean
.PHONY: lock kafka compose deploy-check coverage mutation

help: ## list the verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@awk -F':.*#= ' '/^[a-z-]+:.*#= /{verbs = verbs ", " $$1} END {print "  also: " substr(verbs, 3)}' $(MAKEFILE_LIST)

$(VENV)/.bootstrap: requirements-bootstrap.lock
	@test -n "$(PYTHON)" || { echo "volcast needs Python 3.11, 3.12, 3.13 or 3.14 with venv and ensurepip (Debian: apt install python3-venv); none found. Name one with: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.lock
	@touch $@

# The run-time extras only: no training library, no test tool.
$(VENV)/.run: $(VENV)/.bootstrap $(LOCKS)
	@test -e $(VENV)/.all || $(INSTALL) --extra serving --extra pipeline --extra broker --extra models
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.all: $(VENV)/.bootstrap $(LOCKS)
	@$(INSTALL) --all-extras
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.run

setup: $(VENV)/.all ## build .venv with every extra (training, tests, checks)

run: $(VENV)/.run ## the whole path on this machine; ARGS='--duration 30s' passes options on
	@$(BIN)/volcast run $(ARGS)

# tests/conftest.py says how many workers `auto` is.
PYTEST := $(BIN)/python -m pytest -n auto

test: $(VENV)/.all ## all tests; ARGS='tests/server -k drain -n 0' passes options to pytest
	@$(PYTEST) $(ARGS)

unit: $(VENV)/.all ## the fast tests: no child process, no training, no benchmark
	@$(PYTEST) -m "not process and not slow" $(ARGS)

check: $(VENV)/.all ## format, lint, types, import contracts, generated code, locks
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python proto/generate.py --check
	@$(BIN)/python .ci/check_locks.py

format: $(VENV)/.all ## rewrite to the house format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

proto: $(VENV)/.all ## regenerate the Python and the docs page beside the .proto files
	@$(BIN)/python proto/generate.py

docs: proto ## regenerate the pages that are made from something else
	@$(BIN)/python -m training.reporting.evaluation_format > docs/model_eval.md
	@$(BIN)/python -m training.reporting.model_card
	@$(BIN)/python -m training.reporting.data_card || echo "docs/data_card.md stays as it is: it needs the recordings"

lock: $(VENV)/.all #= re-resolve the lock files (hashes, no addresses)
	@$(UV) pip compile --quiet --universal --generate-hashes --all-extras --no-header --upgrade pyproject.toml -o requirements.lock
	@$(UV) pip compile --quiet --universal --generate-hashes --no-header --upgrade --python-version 3.11 requirements-bootstrap.in -o requirements-bootstrap.lock
	@$(BIN)/python -m pipeline.broker.lock_jars $(KAFKA_VERSION)
	@$(PYTHON) .ci/check_locks.py

bench: $(VENV)/.all ## benchmarks, printed with machine, load and command
	@$(BIN)/volcast bench all $(ARGS)

train: $(VENV)/.all ## train the shipped model on the recorded Coinbase ticks
	@$(BIN)/volcast train $(ARGS)

kafka: $(VENV)/.run #= Apache Kafka on port 9092, without Java or Docker
	@$(BIN)/volcast broker $(ARGS)

compose: #= everything in containers (needs Docker); make compose ARGS='-f deploy/compose.simulated.yaml'
	@docker compose -f deploy/compose.yaml $(ARGS) up --build

deploy-check: $(VENV)/.all #= check compose files, Dockerfiles, Prometheus rules (gets the tools it needs)
	@deploy/check $(ARGS)

coverage: $(VENV)/.all #= all tests with line and branch coverage: a table here, pages in reports/coverage
	@$(PYTEST) --cov --cov-report=html --cov-report=term:skip-covered $(ARGS)

mutation: $(VENV)/.all #= change the code in 400 places, one at a time, and count the changes that tests notice
	@$(BIN)/python -m benchmarks.mutation --save $(ARGS)

nightly: $(VENV)/.all ## what takes longer than a submission may: coverage, abuse at length, mutation
	@.ci/nightly

clean: ## remove the environment and caches
	@rm -rf $(VENV) .venv-* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .numba_cache
