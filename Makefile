# The two commands of the README: `make demo` sets up and runs the main job, `make test` sets up and
# passes the tests. Nothing needs typing before either. `make format lint types test docs` is what a
# change goes through, `make check` all that CI asks for. `make arithmetic` sets up and trains a
# language model to talk to, `make lab` sets up and measures the main job between real processes
# (Linux, root).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest --numprocesses auto --dist worksteal
SOURCES := src tests reproduction benchmarks examples experiments .ci

.PHONY: demo arithmetic lab paper format lint types test test-promises test-typed test-all docs \
	coverage check clean

demo: $(VENV)/installed-all
	$(BIN)/cutlayer train

# a language model learns to solve word problems, for `cutlayer chat`: a few minutes
arithmetic: $(VENV)/installed-all
	$(BIN)/cutlayer train src/cutlayer/examples/arithmetic.yaml

lab: $(VENV)/installed-all
	$(BIN)/cutlayer lab --scheme sft

# the paper's tables and figures, each number beside the published one: a quarter of an hour
paper: $(VENV)/installed-all
	$(BIN)/python -m reproduction all

# quick: no types checked, few examples, a worker a core
test: $(VENV)/installed-dev
	$(PYTEST)

# slow, but what cutlayer promises: equality of trainer and network, faults over real processes,
# resuming what was killed, the live page in a browser, the documents' commands
test-promises: $(VENV)/installed-dev
	$(PYTEST) -m promise

# shapes and types checked at every call, in every eighth test of each folder
test-typed: $(VENV)/installed-dev
	CUTLAYER_TESTS=typed $(PYTEST) --every 8

# before a release: everything, types checked, many examples
test-all: $(VENV)/installed-dev
	CUTLAYER_TESTS=all $(PYTEST) -m ''

coverage: $(VENV)/installed-dev
	$(PYTEST) --cov --cov-report=term:skip-covered

# puts right what it can
format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports

types: $(VENV)/installed-dev
	$(BIN)/mypy

# the page of the Python interface, from docstrings; every code block of the documents, and their
# examples
docs: $(VENV)/installed-dev
	$(BIN)/python docs/make_api.py
	$(PYTEST) -m '' tests/docs

# all that CI asks for: `.ci/run` is this on a clean clone
check: lint types test test-promises test-typed demo
	$(BIN)/python .ci/check_demo.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# new dependencies, or new C to build, are a new installation; the Python is read in place
$(VENV)/installed-%: pyproject.toml src/cutlayer/codec/kernels/_native.c | $(BIN)/pip
	@echo "installing into $(VENV), a few minutes the first time"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cutlayer needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
