# make demo: everything, for real, on this machine. make test: the tests. make help: the rest.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(abspath $(VENV))/bin
# Tests at a time, each file in one process: as many as the machine has cores, or one more.
TESTERS ?= 2
# Checkpoints that benchmarks make are kept here.
BENCH  ?= work/benchmarks
FROZEN := -c envs/constraints.txt
# Python compiles what is imported; all of torch would take half of the set-up's CPU time.
QUICKLY := --disable-pip-version-check --quiet --no-compile

# Rules call `rlsubnet` and `python` by name: the environment's must come first.
export PATH := $(BIN):$(PATH)
# One thread a job: tiny models gain nothing from a second, and jobs run side by side.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

# `make demo SAME_BITS=1`: matrix products and vector functions that every x86-64 CPU with AVX2 sums in
# the same order, as the committed results were made (docs/LOG.md, "The same bits on two CPUs").
ifdef SAME_BITS
export ATEN_CPU_CAPABILITY := avx2
export MKL_CBWR := COMPATIBLE
export OPENBLAS_CORETYPE := Haswell
export NPY_ENABLE_CPU_FEATURES := X86_V3
endif

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo reference figures status resume report test coverage test-verl test-vllm bench lint clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## make .venv and install what the demo needs

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "rlsubnet needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make demo PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.ready: $(VENV)/.python pyproject.toml envs/constraints.txt
	$(BIN)/python -m pip install $(QUICKLY) $(FROZEN) -e '.[train,workflow]'
	@touch $@

setup-dev: $(VENV)/.ready-dev

$(VENV)/.ready-dev: $(VENV)/.python pyproject.toml envs/constraints.txt
	$(BIN)/python -m pip install $(QUICKLY) $(FROZEN) -e '.[train,workflow,dev]'
	@touch $(VENV)/.ready $@

demo: setup ## train, measure and draw everything at demo scale, beside the committed results
	@$(BIN)/python workflow/scripts/run_demo.py

reference: setup ## make your results/demo, once complete, the committed ones that others compare with
	$(BIN)/snakemake --cores all --quiet
	rm -rf results/reference/demo
	cp -r results/demo results/reference/demo
	rm -f results/reference/demo/report.html results/reference/demo/tables/comparison.*

figures: setup ## draw all tables and figures again from the committed results alone
	@rm -rf results/redrawn && cp -r results/reference/demo results/redrawn
	@rm -rf results/redrawn/tables results/redrawn/figures results/redrawn/verdicts.csv
	@$(BIN)/python workflow/scripts/run_demo.py tables figures --forceall \
	  --config cached=True results=results/redrawn
	@echo "tables   results/redrawn/tables/*.md (also .csv, .tex)"
	@echo "figures  results/redrawn/figures/*.png (also .pdf)"

report: setup ## write results/demo/report.html again
	$(BIN)/snakemake --quiet all --report results/demo/report.html

status: setup ## say what is done, running, failed and missing, per table and figure
	@$(BIN)/rlsubnet status $(ARGS)

resume: setup ## go on after a killed run: cancel what it left, unlock, continue
	@$(BIN)/rlsubnet resume $(ARGS)

test: setup-dev ## run the tests
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder --durations=10 $(COVERED)

coverage: COVERED := $(patsubst %,--cov=rlsubnet.%,measure checkpoints training) --cov-report=term
coverage: test ## run the tests and say what they cover of measure, checkpoints, training

# verl and vLLM need older packages than the rest: an environment each, from exact versions. torch comes
# with its dependencies, since of its builds only the one for CPUs does without.
$(VENV)-%/.ready: envs/%-cpu.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "the versions of $< are for Python 3.11: make test-$* PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install $(QUICKLY) torch==2.13.0
	$(VENV)-$*/bin/python -m pip install $(QUICKLY) --no-deps -r $<
	$(VENV)-$*/bin/python -m pip install $(QUICKLY) --no-deps -e .
	@touch $@

test-verl: $(VENV)-verl/.ready ## train with the released verl in two CPU processes (8 minutes)
	env -u PYTHONPATH PATH="$(abspath $(VENV)-verl)/bin:$$PATH" $(VENV)-verl/bin/python -m pytest \
	  tests/backends/test_verl.py tests/backends/test_verl_step.py tests/backends/test_verl_config.py \
	  -v -s --durations=8

test-vllm: $(VENV)-vllm/.ready ## draw responses with the released vLLM on a CPU (2 minutes)
	env -u PYTHONPATH $(VENV)-vllm/bin/python -m pytest tests/vllm -v --durations=5

bench: setup-dev ## compare speed and memory with other ways (10 GB of disk, 9 minutes)
	$(BIN)/python -m benchmarks --folder $(BENCH) --out benchmarks/results.md

lint: setup-dev ## check style, types and workflow
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check .
	$(BIN)/snakemake --lint
	$(BIN)/mypy

clean: ## remove what was made here and git does not keep (your results too, not .venv)
	rm -rf work logs .snakemake results/demo results/redrawn
