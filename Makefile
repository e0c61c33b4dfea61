# Everything runs in .venv, which the targets make by themselves and renew when pyproject.toml
# changes. Nothing is installed outside of this folder, and nothing needs root.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

# What `make serve` serves, and where: an unprivileged port, so that anybody can try it.
ROOT ?= fixtures/trees/demo
PORT ?= 6969
# More arguments for pytest, for example: make test ARGS='-k netascii'
ARGS ?=

# What to measure, for example: make bench BENCH='--quick --parts servers --loads small'
BENCH ?=

.PHONY: help demo test check serve bench clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Serve, download and upload real files, and verify their hashes
	$(BIN)/python tests/demo.py

test: $(VENV)/.installed-test ## Run all tests, in random order, on all cores
	$(BIN)/python -m pytest -n auto $(ARGS)

check: $(VENV)/.installed-dev ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

serve: $(VENV)/.installed ## Serve ROOT on PORT (fixtures/trees/demo on 6969)
	$(BIN)/tftp serve $(ROOT) --port $(PORT)

bench: $(VENV)/.installed ## Compare with other servers and clients (benchmarks/README.md)
	$(BIN)/python -m benchmarks.run $(BENCH)

clean: ## Remove .venv and everything else that was made here
	rm -rf $(VENV) .bench .peers build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp for each set of packages, so that the demo does not wait for the tools of the tests.
$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --editable '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(PIP) install --editable '.[dev]'
	@touch $@

# The checks come first because a failed `python -m venv` leaves half an environment behind.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "tftpkit needs Python 3.11 or newer as $(PYTHON); to use another: make PYTHON=python3.12 ..." >&2; \
	    exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, apt install python3-venv" >&2; \
	    exit 1; }
	$(PYTHON) -m venv $(VENV)
