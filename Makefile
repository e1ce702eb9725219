# `make` alone lists the targets. `make demo` and `make test` set everything up themselves.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Variables a caller may set: make test TESTS=tests/index ARGS='-x -k block', make serve INDEX=/data/scifact ARGS='--port 7000'
TESTS ?= tests
INDEX ?=
ARGS  ?=

# What makes up the package `csplade`; pyproject.toml says the same to pip.
MODULES := $(wildcard *.py) py.typed $(patsubst %/__init__.py,%,$(wildcard */__init__.py)) proto/csplade/v1

# Threads that wait must sleep: spinning ones starve the others as soon as there are more threads than cores.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test lint serve proto

help: ## list the targets
	@awk -F ' *:.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

venv: $(READY) ## create .venv with all that development needs (PYTHON=python3.12 picks another Python)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# torch on its own first: of all builds of the pinned version pip then takes the CPU one where it is offered.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## index the example corpus, ask it questions over gRPC, explain the hits
	$(BIN)/csplade demo $(ARGS)

test: $(READY) ## run the tests (TESTS=tests/index ARGS='-k block' runs some of them)
	$(BIN)/csplade model pull
	$(BIN)/python -m pytest $(TESTS) $(ARGS)

lint: $(READY) ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# The repository root is the package; mypy sees it as such in a folder of links.
	@rm -rf build/mypy && mkdir -p build/mypy/csplade && ln -s $(MODULES:%=$(CURDIR)/%) build/mypy/csplade
	MYPYPATH=build/mypy $(BIN)/mypy -p csplade

serve: $(READY) ## serve an index over gRPC: make serve INDEX=DIR
	@test -n '$(INDEX)' || { echo "make: name the index: make serve INDEX=DIR" >&2; exit 2; }
	$(BIN)/csplade serve $(INDEX) $(ARGS)

proto: $(READY) ## generate the Python modules of proto/ anew
	$(BIN)/python proto/generate.py
