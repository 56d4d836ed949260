# Two commands are enough:  make demo   and   make test
# Needs Python >= 3.11, make and git; everything else is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin
# Compiled files halve the time of every import, workers' included.
export UV_COMPILE_BYTECODE := 1
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-ray test-others test-outcome test-all test-rest test-rest-ray test-rest-others \
  test-rest-outcome test-elsewhere test-fast check docs setup lock clean

help:
	@echo "make demo       set up, and compare eight ways to distil on handwritten digits (3 minutes)"
	@echo "make test       set up, lint, type-check, run what a change has to pass (16 minutes on two cores); tests"
	@echo "                about outcomes of training once more with another processor's arithmetic"
	@echo "make test-all   make test, then make test-rest"
	@echo "make test-rest  what make test leaves out: the rest of large products, faults of several processes at once"
	@echo "make test-fast  make test without the tests that take long or start Ray, and as this machine is"
	@echo "make test-elsewhere  only those about outcomes: two other processors' arithmetic, three sets of seeds"
	@echo "make docs       the pages of docs/ as a site: build/site/index.html (half a minute)"
	@echo "make setup      only set up .venv (quick the second time)"
	@echo "make lock       resolve requirements.lock anew"

demo: setup
	$(BIN)/ray-kd demo

# Tests that start Ray run one by one, as each wants two cores now and then. All others run beside them, on as many
# processes as there are cores: Ray's tests wait often.
OTHERS := $(shell $(PYTHON) -c 'import os; print(max(1, min(8, os.cpu_count() or 2)))')

# Other processors, by the instructions that PyTorch may use: floats are added up in another order there, so that
# a training comes out otherwise, as it would with other seeds.
SSE41 := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
SPREAD := -n $(OTHERS) --dist worksteal

# Two at a time; test-outcome begins when one of the two before it has ended.
test: check
	$(MAKE) --no-print-directory -j 2 test-ray test-others test-outcome

test-ray:
	$(BIN)/python -m pytest -m "ray and not exhaustive" tests/cli tests/cluster

test-others:
	$(BIN)/python -m pytest -m "not ray and not exhaustive" $(SPREAD)

test-outcome:
	$(SSE41) $(BIN)/python -m pytest -m "outcome and not ray and not exhaustive" $(SPREAD)

test-all: test
	$(MAKE) --no-print-directory test-rest

test-rest: setup
	$(MAKE) --no-print-directory -j 2 test-rest-ray test-rest-others test-rest-outcome

test-rest-ray:
	$(BIN)/python -m pytest -m "ray and exhaustive" tests/cli tests/cluster

test-rest-others:
	$(BIN)/python -m pytest -m "exhaustive and not ray" $(SPREAD)

test-rest-outcome:
	$(SSE41) $(BIN)/python -m pytest -m "outcome and exhaustive and not ray" $(SPREAD)

test-elsewhere: setup
	set -e; for shift in 0 1000 2000; do \
	  $(SSE41) $(BIN)/python -m pytest -m "outcome and not ray" $(SPREAD) --seed-shift $$shift; \
	  $(AVX2) $(BIN)/python -m pytest -m "outcome and not ray" $(SPREAD) --seed-shift $$shift; \
	done

test-fast: check
	$(BIN)/python -m pytest -m "not slow and not ray and not exhaustive" -n logical --maxprocesses 8 --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Not --quiet, which would hide warnings from mkdocs itself: `strict` would then pass. The variable silences an
# advertisement of the theme's.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "open build/site/index.html"

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ray-kd needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up .venv (a minute or two, about 6 GB: the standard PyTorch with its GPU libraries)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

lock:
	$(BIN)/uv pip compile --quiet --universal --upgrade --no-header --no-annotate --python-version 3.11 \
	  --extra wandb --extra mtl --extra timm --extra huggingface --extra onnx --extra object-store \
	  --extra dev --extra peers --extra docs pyproject.toml -o requirements.lock

clean:
	rm -rf results .pytest_cache .mypy_cache .ruff_cache build dist
