# What a developer and CI call. Each target does by itself what it needs, and finds what an earlier run has done.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
CACHE := $(if $(QWENVL_CACHE),$(QWENVL_CACHE),$(HOME)/.cache/qwenvl)
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo $(CACHE)/uv-$(UV_VERSION)/bin/uv)
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
export PYTHONPATH := tests
export MYPY_CACHE_DIR := $(CACHE)/mypy
# What is imported is compiled once, when that happens: all of it would take half a minute, nothing twice the time of each
# start of vLLM.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: fuzz rest help demo demo-down check-demo check-test test test-engine test-node test-cluster test-unit test-pure test-component lint format generate images bench scale clean

help:
	@echo "make demo        a real one-node Kubernetes, the operator, a tiny model, and a question about a picture"
	@echo "make demo-down   remove every trace of it"
	@echo "make test        everything that is checked: lint, unit, component, cluster and end-to-end tests"
	@echo "make test-unit   the tests that need no cluster, in seconds"
	@echo "make fuzz        100,000 hostile requests to the front of a runtime pod"
	@echo "make rest        what the operator asks of the API server in five minutes in which nothing happens; part of make test"
	@echo "make lint        ruff, mypy and the import contracts"
	@echo "make format      format the code and fix what can be fixed by itself"
	@echo "make generate    write the CRD, the API reference and the plain manifests anew"
	@echo "make images      build the container images"
	@echo "make bench       what the front costs beside HAProxy and LiteLLM, written to docs/benchmarks.md"
	@echo "make scale       what 1,000 resources at once ask of the operator, written to docs/benchmarks.md"
	@echo "make clean       remove the nodes, the cache and the virtual environment"

demo: check-demo .venv/all
	@$(PYTHON) -m harness demo

demo-down: .venv/all
	@$(PYTHON) -m harness down --name demo

# What this machine lacks is said at once, not after a quarter of an hour. It needs nothing but Python.
check-demo:
	@[ -n "$${KUBECONFIG:-}" ] || python3 -m harness check --name demo

check-test:
	@python3 -m harness check --name test

# That generated files are up to date is among the unit tests. The lots run side by side: one is busy with vLLM, one mostly
# waits for a node with the product on it, one for five minutes in which nothing happens, one for everything else.
test: check-test lint
	@$(PYTHON) -m harness tools >/dev/null
	@$(PYTHON) -m harness images >/dev/null
	@$(MAKE) --no-print-directory --jobs=4 test-engine test-node test-cluster rest

test-engine:
	@QWENVL_TEST_NODE=engine $(PYTEST) tests/e2e -m engine | sed --unbuffered "s/^/[engine] /"

test-node:
	@$(PYTEST) tests/e2e -m "not engine" --ignore=tests/e2e/test_node.py | sed --unbuffered "s/^/[node] /"

test-cluster:
	@QWENVL_TEST_NODE=bare $(PYTEST) tests/unit tests/component tests/cluster tests/e2e/test_node.py \
		--ignore=tests/cluster/test_rest.py | sed --unbuffered "s/^/[cluster] /"

# Side by side, as one of them waits for sockets half of its time.
test-unit:
	@$(MAKE) --no-print-directory --jobs=2 test-pure test-component

test-pure: .venv/unit
	@$(PYTEST) tests/unit -m "not engine and not process" | sed --unbuffered "s/^/[unit] /"

test-component: .venv/unit
	@$(PYTEST) tests/component -m "not engine and not process" | sed --unbuffered "s/^/[component] /"

# As many hostile requests as FUZZ_REQUESTS says, the same ones for the same FUZZ_SEED.
fuzz: .venv/unit
	cd tests && PYTHONPATH=. ../$(PYTHON) -m component.runtime.fuzz --requests $(or $(FUZZ_REQUESTS),100000) --seed $(or $(FUZZ_SEED),1)

# What the operator asks of the API server while nothing happens to 20 resources, for REST_SECONDS.
rest: .venv/unit
	@$(PYTEST) tests/cluster/test_rest.py | sed --unbuffered "s/^/[rest] /"

lint: .venv/all
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m ruff check
	$(PYTHON) -m mypy
	.venv/bin/lint-imports

format: .venv/unit
	$(PYTHON) -m ruff format
	$(PYTHON) -m ruff check --fix

generate: .venv/unit
	$(PYTHON) -m qwenvl_operator.api.crd
	$(PYTHON) -m qwenvl_operator.api.reference
	$(PYTHON) -m harness.manifests

images: .venv/all
	@$(PYTHON) -m harness images

# All parts, or those that PARTS names.
bench: .venv/all
	@UV=$(UV) $(PYTHON) -m bench $(PARTS)

# As many as RESOURCES says.
scale: .venv/unit
	@$(PYTHON) -m bench scale --resources $(or $(RESOURCES),1000)

clean:
	if [ -x $(PYTHON) ]; then $(PYTHON) -m harness clean; fi
	rm -rf .venv

# The environment in two sizes: `unit` leaves out vLLM and torch. Each is a stamp that is newer than what it was made of.
.venv/unit: pyproject.toml uv.lock | $(UV)
	@if [ .venv/all -nt uv.lock ] && [ .venv/all -nt pyproject.toml ]; then exit 0; fi; \
	echo "==> Installing the Python environment (usually 5 s, the first time 30 s)" >&2; \
	$(UV) sync --quiet --frozen --inexact --extra operator --extra front --group test --group lint
	@touch $@

.venv/all: pyproject.toml uv.lock | $(UV)
	@echo "==> Installing the Python environment with vLLM for the CPU (usually 5 s, the first time 2 min)" >&2
	@$(UV) sync --quiet --frozen --extra operator --extra cpu --group test --group lint
	@touch $@ .venv/unit

uv: ;

$(CACHE)/uv-$(UV_VERSION)/bin/uv:
	@echo "==> Installing uv $(UV_VERSION) (usually 10 s)" >&2
	@python3 -c "import ensurepip" 2>/dev/null || { \
	  if [ "$$(id -u)" != 0 ]; then echo "error: Python's venv module is missing: sudo apt-get install python3-venv" >&2; exit 1; fi; \
	  echo "==> Installing the Debian package python3-venv" >&2; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes python3-venv >/dev/null; }
	@rm -rf $(CACHE)/uv-unfinished && python3 -m venv $(CACHE)/uv-unfinished
	@$(CACHE)/uv-unfinished/bin/pip install --quiet uv==$(UV_VERSION)
	@mkdir -p $(dir $@) && mv $(CACHE)/uv-unfinished/bin/uv $@ && rm -rf $(CACHE)/uv-unfinished
