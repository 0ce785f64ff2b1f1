# Verbs, each one line of what it runs. `make` shows them. No logic lives here: scripts and programs have it.

PY := .venv/bin/python
# Tests run make themselves: they must not take themselves for a part of this one.
PYTEST := env -u MAKELEVEL -u MAKEFLAGS -u MFLAGS $(PY) -m pytest
REAL := docker or postgres or sandbox

.DEFAULT_GOAL := help
.PHONY: help env packages demo up down test check format unit component e2e fuzz compat sim bench docs clean

help: ## show these verbs
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 12

env: ## make .venv with everything that development needs
	./backend.ai --dev-env

packages: ## install missing system packages (as root, on Debian)
	tools/system_packages

demo: ## start a cluster, run a session, show its output
	./backend.ai demo

up: ## start a cluster in the background
	./backend.ai up --detach

down: ## stop it
	./backend.ai down

test: env packages check unit component e2e fuzz compat sim ## everything but bench, as in CI

check: ## lint, format, types, import contracts, diagrams, tidiness
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m mypy -p sim -p bench
	$(PY) -m mypy tools/tidy.py
	.venv/bin/lint-imports
	$(PY) tools/diagrams --check
	$(PY) tools/tidy.py

format: ## format and fix what can be fixed
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

unit: ## tests of decisions and of single parts, in parallel
	$(PYTEST) -n 2 --dist loadfile -m "not ($(REAL))" packages sim tools/tests

component: ## tests against a real Docker Engine, PostgreSQL and the sandbox
	$(PYTEST) -m "$(REAL)" packages $(wildcard tests/component)

e2e: ## whole clusters on loopback, started as users start them
	$(PYTEST) tests/e2e

fuzz: ## requests made from the API's descriptions, and ones that break them
	$(PYTEST) tests/fuzz

compat: ## unmodified published clients against live clusters, two at a time
	$(PYTEST) -n 2 tests/compat

sim: ## the whole cluster in virtual time, 200 seeds of faults
	$(PY) -m sim.run --seeds 200

bench: ## figures, each beside a peer in the same run
	$(PY) -m bench.report

docs: ## redraw what is drawn from code
	$(PY) tools/diagrams

clean: ## remove caches
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
