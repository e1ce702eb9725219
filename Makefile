# `make` alone lists the targets. `make demo` and `make test` set everything up themselves.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Variables a caller may set: make test TESTS=tests/index ARGS='-x -k block', make serve INDEX=/data/scifact ARGS='--port 7000'
TESTS ?= tests
INDEX ?=
ARGS  ?=
# Of a GPU machine that has another Triton than the pinned one: what gpu-triton packs one for.
GPU_PYTHON ?= 3.12

# What makes up the package `csplade`; pyproject.toml says the same to pip.
MODULES := $(wildcard *.py) py.typed $(filter-out tests,$(patsubst %/__init__.py,%,$(wildcard */__init__.py))) proto/csplade/v1

# Threads that wait must sleep: spinning ones starve the others as soon as there are more threads than cores.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test lint serve proto study gpu-check gpu-triton

help: ## list the targets
	@awk -F ' *:.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

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

study: $(READY) ## train toy models and print the tables of docs/study.md
	$(BIN)/csplade model pull
	$(BIN)/csplade study --work build/study $(ARGS)

gpu-check: ## check and time the kernels on this machine's GPU, nothing installed (ARGS='--out DIR'; --rehearse without a GPU)
	$(PYTHON) bench/gpu_check.py $(ARGS)

# The wheel takes 190 MB, most of it symbols and profilers; what compiling and launching needs fits into 50.
gpu-triton: ## pack the pinned Triton as build/triton.tar.xz, to carry to a GPU machine (GPU_PYTHON=3.12)
	@rm -rf build/triton && mkdir -p build/triton
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: -c constraints.txt \
		--python-version $(GPU_PYTHON) --implementation cp --platform manylinux_2_28_x86_64 \
		--platform manylinux_2_27_x86_64 -d build/triton triton
	$(PYTHON) -m zipfile -e build/triton/triton-*.whl build/triton
	cd build/triton/triton && rm -rf profiler FileCheck _C/libproton.so instrumentation/*.so plugins/*.so* backends/amd \
		backends/nvidia/lib/cupti backends/nvidia/bin/ptxas-blackwell
	strip build/triton/triton/_C/libtriton.so && chmod +x build/triton/triton/backends/nvidia/bin/*
	tar -C build/triton -c triton | xz -6 -T0 > build/triton.tar.xz && rm -rf build/triton
