# Needs Python 3.11 or newer and make; everything else is installed into .venv from pinned, hashed packages.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := build/bench-peers
PYTEST := $(BIN)/python -m pytest
# Three processes share the servers, since tests wait for servers half of their time. The tests of one file stay together, and files
# run in the order of tests/conftest.py, longest first.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder
# uv in its pinned version, with the package index and certificate that pip is configured for.
UV := $(BIN)/python infra/install/uv.py
COMPILE := env -u PIP_FIND_LINKS UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile pyproject.toml --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --quiet

# Tests and checks start hundreds of Python processes, and each would compile every module it loads anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv lint check test-unit docs reference test test-full clusters recovery coverage demo demo-selftest chaos chaos-clusters fuzz bench bench-full bench-peers scale scale-out audit-scale simulate mutants lock clean

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

venv: $(READY) ## Create .venv with every pinned package (done by the others when needed)

$(READY): requirements-dev.lock pyproject.toml infra/install/uv.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(UV) pip sync --quiet --require-hashes --python $(BIN)/python requirements-dev.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $@

lint: $(READY) ## Check format, style, types and the import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(READY) ## Build the documentation site in build/site; a warning or a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

reference: $(READY) ## Write the pages of the reference anew from the code
	$(BIN)/python -m tests.documents

check: $(READY) ## Check while you work, in under two minutes: lint and types beside unit and property tests
	@$(MAKE) --no-print-directory -j 2 --output-sync=target lint test-unit

test-unit: $(READY)
	$(PYTEST) tests/unit tests/properties -m "not stack" $(ARGS)

test: $(READY) ## Run the tests that need nothing but Python, and are not long
	$(PYTEST) $(PARALLEL) -m "not full" $(ARGS)

test-full: $(READY) ## Run all tests, those included that need Debian's tools or take long
	$(PYTEST) $(PARALLEL) $(ARGS)

clusters: $(READY) ## Kill brokers of three, and a primary before its standby, under load
	$(PYTEST) tests/clusters $(ARGS)

recovery: $(READY) ## Lose the database, or the topics, and come back; the runbook's own commands included
	$(PYTEST) tests/recovery $(ARGS)

coverage: $(READY) ## Run all tests and hold branch coverage: 95 % of sagas and schemas, 90 % overall
	$(PYTEST) --cov --cov-report= $(ARGS)
	$(BIN)/coverage report --include 'sagas/*,schemas/*' --skip-covered --fail-under 95
	$(BIN)/coverage report --skip-covered --fail-under 90

demo: $(READY) ## Trade on real prices through the whole stack and check every cent
	$(BIN)/tradesaga demo $(ARGS)

demo-selftest: $(READY) ## Corrupt each source of the demo's checks and see that they notice
	$(BIN)/tradesaga demo-selftest $(ARGS)

chaos: $(READY) ## Break a whole stack for some minutes and judge what it kept (ARGS=--short: under two)
	$(BIN)/python -m tests.faults $(ARGS)

chaos-clusters: $(READY) ## The same on three brokers, and PostgreSQL with a standby that takes over
	$(BIN)/python -m tests.faults --clusters $(ARGS)

fuzz: $(READY) ## Let strangers write to every topic and door of a whole stack, an hour (ARGS="--minutes 2": for every commit)
	$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(READY) bench-peers ## Measure real trades, and the saga path beside its floor and its peers, 40 minutes at most (ARGS=--sustained, --sealing)
	$(BIN)/python -m tests.benchmarks $(ARGS)

bench-full: $(READY) bench-peers ## The same in nine rounds, as long as they take
	$(BIN)/python -m tests.benchmarks --pairs 9 --minutes 0 --seconds 60 $(ARGS)

bench-peers: $(PEERS)/.ready $(PEERS)/temporal/server ## Install the systems that make bench compares with, apart from the project (done by bench)

$(PEERS)/.ready: requirements-bench.lock tests/benchmarks/peers/package-lock.json | $(READY)
	@mkdir -p $(PEERS)
	test -x $(PEERS)/venv/bin/python || $(PYTHON) -m venv $(PEERS)/venv
	$(UV) pip sync --quiet --require-hashes --python $(PEERS)/venv/bin/python requirements-bench.lock
	cp tests/benchmarks/peers/package.json tests/benchmarks/peers/package-lock.json $(PEERS)
	@if command -v npm >/dev/null; then cd $(PEERS) && npm ci --ignore-scripts --no-audit --no-fund --loglevel error; \
	else echo "npm is not installed: Restate is left out of the comparison"; fi
	@touch $@

$(PEERS)/temporal/server: tests/benchmarks/peers/temporal/go.mod tests/benchmarks/peers/temporal/go.sum
	@if ! command -v go >/dev/null; then echo "Go is not installed: Temporal is left out of the comparison"; \
	elif mkdir -p $(@D) && go build -C tests/benchmarks/peers/temporal -mod=readonly -buildvcs=false -trimpath -o $(abspath $(@D))/ tool; then touch $@; \
	else echo "Temporal could not be built: it is left out of the comparison"; fi

scale: $(READY) ## Measure how it bears size: in flight, overload, a million sagas, restarts, rebalances (ARGS=--small: in little)
	$(BIN)/python -m tests.benchmarks.scale $(ARGS)

scale-out: $(READY) ## Measure more processes on a slow network; what 1,000 and 100,000 sagas a second take (ARGS=--model: only that)
	$(BIN)/python -m tests.benchmarks.scale_out $(ARGS)

audit-scale: $(READY) ## Take a million facts through the audit, to an export verified with no network (ARGS="--facts 60000": less)
	$(BIN)/python -m tests.audit_scale $(ARGS)

simulate: $(READY) ## Run 5,000 seeded schedules of the step path among faults
	$(BIN)/tradesaga simulate --schedules 5000 $(ARGS)

mutants: $(READY) ## Plant each known hole in the code and see that a test finds it
	$(BIN)/python -m tests.mutants $(ARGS)

lock: $(READY) ## Pin all packages anew, with hashes
	$(COMPILE) --all-extras --group dev --upgrade -o requirements-dev.lock
	$(COMPILE) --extra stack --extra tracing -c requirements-dev.lock -o requirements.lock
	$(subst pyproject.toml,tests/benchmarks/peers/requirements.in,$(COMPILE)) --upgrade -o requirements-bench.lock

clean: ## Remove what was built; a stack's data in .tradesaga stays
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
