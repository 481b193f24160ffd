# Everything a developer does here. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_FLAGS ?=
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit test-contract lint format generate verify bench bench-latency clean
.PHONY: faults test-faults
.PHONY: cluster-up cluster-down test-cluster test-cluster-here test-chart

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with everything in it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Headrace needs Python 3.11 or newer; try: make PYTHON=python3.11 setup" >&2; exit 1; }
	@echo "installing into $(VENV) (a minute the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## 2,000 real tasks on a local pool: watch it grow and shrink
	@$(BIN)/python -m examples.documents.demo

test: test-unit test-contract test-chart  ## unit, contract and chart tests, on real servers

test-unit: $(STAMP)  ## seconds; nothing real
	$(BIN)/python -m pytest tests/unit $(PYTEST_FLAGS)

test-contract: $(STAMP)  ## every broker, real nats-servers, faults
	$(BIN)/python -m pytest tests/contract -n 5 --dist loadfile $(PYTEST_FLAGS)

test-faults: $(STAMP)  ## every fault once; Linux, root (docs/faults.md)
	$(BIN)/python -m pytest tests/faults -n 2 $(PYTEST_FLAGS)

faults: $(STAMP)  ## ten minutes of faults on three servers and six workers
	$(BIN)/python -m tests.faults --minutes 10 --servers 3 --workers 6

test-chart: $(STAMP)  ## the Helm chart; builds helm the first time
	@scripts/cluster/helm.sh
	$(BIN)/python -m pytest tests/chart -n 2 $(PYTEST_FLAGS)

# The chart for who has no Helm; a test of the chart tier says when it is not current.
.PHONY: deploy/headrace.yaml
deploy/headrace.yaml: $(STAMP)
	@scripts/cluster/helm.sh
	@PATH=$$PATH:$$(dirname $$(ls -d $${XDG_CACHE_HOME:-$$HOME/.cache}/headrace/*/bin/helm | head -1)) \
		$(BIN)/python scripts/plain_manifests.py > $@

# so that a killed make takes its script along, which then cleans up
FOLLOW = $(shell command -v setpriv >/dev/null && echo setpriv --pdeathsig TERM)

cluster-up:  ## Kubernetes here, on kind; scripts/cluster/README.md
	@$(FOLLOW) scripts/cluster/up.sh

cluster-down:  ## remove it
	@$(FOLLOW) scripts/cluster/down.sh

test-cluster: $(STAMP)  ## cluster and end-to-end tests; KEEP_CLUSTER=1 leaves the cluster up
	@$(FOLLOW) scripts/cluster/test.sh $(MAKE) --no-print-directory test-cluster-here

# Where a cluster can be reached. Hypothesis's plugin is left out: it is not used there, and its
# import at the end of a run breaks on Python 3.11.
CLUSTER_PYTEST = $(BIN)/python -m pytest -p no:hypothesispytest --timeout 300 $(PYTEST_FLAGS)
test-cluster-here:
	$(CLUSTER_PYTEST) tests/cluster -n 3 --dist load
	$(CLUSTER_PYTEST) tests/e2e

lint: $(STAMP)  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=operator:worker $(BIN)/lint-imports

format: $(STAMP)  ## let ruff lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: $(STAMP)  ## write the generated files
	$(BIN)/python scripts/generate.py

verify: $(STAMP)  ## fail if a generated file is not what its source says
	$(BIN)/python scripts/generate.py --check

bench: $(STAMP)  ## throughput next to the peers (some minutes)
	$(BIN)/python -m benchmarks.throughput

bench-latency: $(STAMP)  ## latency next to the peers
	$(BIN)/python -m benchmarks.latency

clean:  ## remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .headrace
