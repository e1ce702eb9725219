# `make` alone lists the targets. `make demo` and `make test` set everything up themselves.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Variables a caller may set: make test TESTS=tests/index ARGS='-x -k block',
# make serve INDEX=/data/scifact ARGS='--port 7000'.
TESTS ?= tests
INDEX ?=
ARGS  ?=

# The container engine, and what `make image` builds; the Dockerfile describes the variants.
ENGINE  ?= $(notdir $(firstword $(shell command -v docker podman)))
VARIANT ?= cpu
BASE.cpu := debian:bookworm-slim
BASE.cpu-ray := debian:bookworm-slim
BASE.cuda := nvidia/cuda:13.0.0-base-ubuntu24.04

# What the package `csplade` consists of; pyproject.toml tells pip the same.
MODULES := $(wildcard *.py) py.typed proto/csplade/v1 \
	$(filter-out tests,$(patsubst %/__init__.py,%,$(wildcard */__init__.py)))

# Threads that wait must sleep: spinning ones starve the others once threads outnumber cores.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test lint fmt types coverage docs bench serve image proto study \
	gpu-check clean

help: ## list the targets
	@awk -F ' *:.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' \
		$(firstword $(MAKEFILE_LIST))

venv: $(READY) ## create .venv with all that development needs (PYTHON=python3.12)

PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
		"make: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12" >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# torch alone first: of all builds of the pinned version pip takes the CPU one where one is
	@# offered.
	$(PIP) torch
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(READY) ## index the example corpus, ask it questions over gRPC, explain the hits
	$(BIN)/csplade demo $(ARGS)

test: $(READY) ## run the tests (TESTS=tests/index ARGS='-k block' runs some of them)
	$(BIN)/csplade model pull
	$(BIN)/python -m pytest $(TESTS) $(ARGS)

lint: $(READY) types ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: $(READY) ## format the code and sort its imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY) ## check types with mypy
	@# The repository root is the package; mypy sees it as such in a folder of links.
	@rm -rf build/mypy && mkdir -p build/mypy/csplade && \
		ln -s $(MODULES:%=$(CURDIR)/%) build/mypy/csplade
	MYPYPATH=build/mypy $(BIN)/mypy -p csplade

coverage: $(READY) ## run the tests and report the lines that none reaches (TESTS, ARGS as for test)
	@rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/csplade model pull
	$(BIN)/python -m coverage run -m pytest $(TESTS) $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

docs: $(READY) ## build the API reference from the docstrings, build/docs/index.html
	@rm -rf build/docs
	$(BIN)/python docs/api.py build/docs

bench: $(READY) ## time the scorer beside its peers (other benchmarks: csplade bench --help)
	$(BIN)/csplade bench score $(ARGS)

serve: $(READY) ## serve an index over gRPC: make serve INDEX=DIR
	@test -n '$(INDEX)' || { echo "make: name the index: make serve INDEX=DIR" >&2; exit 2; }
	$(BIN)/csplade serve $(INDEX) $(ARGS)

image: ## build the image csplade:cpu (VARIANT=cpu-ray or cuda, ENGINE=podman, ARGS)
	@test -n '$(ENGINE)' || { echo "make: install docker or podman" >&2; exit 2; }
	@test -n '$(BASE.$(VARIANT))' || { echo "make: VARIANT is cpu, cpu-ray or cuda" >&2; exit 2; }
	$(ENGINE) build $(if $(findstring podman,$(ENGINE)),--format docker) $(ARGS) \
		--build-arg VARIANT=$(VARIANT) --build-arg BASE=$(BASE.$(VARIANT)) \
		--tag csplade:$(VARIANT) .
	@mkdir -p build
	$(ENGINE) run --rm --entrypoint cat csplade:$(VARIANT) /opt/csplade/sbom.json \
		> build/sbom-$(VARIANT).json

proto: $(READY) ## generate the Python modules of proto/, and service/http/openapi.json
	$(BIN)/python proto/generate.py
	@mkdir -p build
	$(BIN)/python -m csplade.service.http.openapi > build/openapi.json
	mv build/openapi.json service/http/openapi.json

study: $(READY) ## train toy models and print the tables of docs/study.md
	$(BIN)/csplade model pull
	$(BIN)/csplade study --work build/study $(ARGS)

gpu-check: ## check and time the kernels on this GPU, nothing installed (ARGS='--out DIR')
	$(PYTHON) bench/gpu_check.py $(ARGS)

clean: ## remove build/ and the caches of the tools
	rm -rf build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
