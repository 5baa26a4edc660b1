# One word a duty; `make help` lists them.
#
#   make demo, make test      need Python >= 3.11 and make, nothing else: they make their own .venv
#   make install CPU=0        a machine with a GPU: no constraints, the index's own build of torch
#   make demo PYTHON=python3.12

VENV   := .venv
PY     := $(VENV)/bin/python
# An environment stays what it was made as, until CPU= says otherwise.
CPU    ?= $(if $(wildcard $(VENV)/.gpu-*),0,1)
KIND   := $(if $(filter 0,$(CPU)),gpu,cpu)
# Stamps: there only when an install has ended well, so an environment without one is half made and is made anew.
BASE   := $(VENV)/.$(KIND)-base
DEV    := $(VENV)/.$(KIND)-dev
DOCS   := $(VENV)/.$(KIND)-docs
INPUTS := pyproject.toml constraints/cpu.txt
CODE   := $(wildcard src tests benchmarks tools)
HOOK   := '\#!/bin/sh\n\# written by: make hooks\nexec make --no-print-directory lint types floors\n'

ifeq ($(KIND),cpu)
export PIP_CONSTRAINT := constraints/cpu.txt
CHECK_PLAN := $(PY) tools/check_install.py --plan
CHECK      := $(PY) tools/check_install.py
else
CHECK_PLAN := true
CHECK      := true
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: help install demo test lint types floors check bench hooks docs clean
.NOTPARALLEL:

help:
	@echo "make demo      the main job end to end in minutes, into demo-out/"
	@echo "make test      all tests"
	@echo "make check     what CI runs: lint, types, floors, test"
	@echo "make install   the environment .venv for work on the code (CPU=0 on a machine with a GPU)"
	@echo "make lint      ruff: rules and format"
	@echo "make types     pyright over src"
	@echo "make floors    the layout's own rules"
	@echo "make bench     list the measurements; make bench NAME=loader runs one"
	@echo "make hooks     run lint, types and floors before every git commit"
	@echo "make docs      the documentation as pages, into site/"
	@echo "make clean     remove .venv and what the duties above have made"

install: $(DEV)

demo: $(BASE)
	@$(VENV)/bin/selectivemae demo --out demo-out --overwrite

test: $(DEV)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2

lint: $(DEV)
	@$(PY) -m ruff check $(CODE)
	@$(PY) -m ruff format --check $(CODE)

types: $(DEV)
	@$(PY) -m pyright

floors: $(DEV)
	@$(PY) -m pytest tests/test_floors.py tests/test_files.py

check: lint types floors test

bench: $(DEV)
ifdef NAME
	@OMP_NUM_THREADS=1 $(PY) benchmarks/$(NAME).py
else
	@echo "make bench NAME=...  with one of:"; ls benchmarks 2>/dev/null | sed -n 's/\.py$$//p'
endif

hooks:
	@hook="$$(git rev-parse --git-path hooks)/pre-commit"; \
	if [ -e "$$hook" ] && ! grep -q 'written by: make hooks' "$$hook"; then \
	  echo "make hooks: $$hook exists and is not ours; add 'make lint types floors' to it by hand" >&2; exit 1; \
	fi; \
	mkdir -p "$$(dirname "$$hook")" && printf $(HOOK) > "$$hook" && chmod +x "$$hook" && echo "$$hook runs lint, types and floors"

docs: $(DOCS)
	@$(PY) -m mkdocs build --strict --quiet && echo "site/index.html"

clean:
	@rm -rf $(VENV) demo-out site build dist .ruff_cache .hypothesis
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BASE): $(INPUTS)
	@$(call install,geo)
	@touch $(BASE)

$(DEV): $(INPUTS)
	@$(call install,geo$(comma)dev)
	@touch $(BASE) $(DEV)

$(DOCS): $(INPUTS)
	@$(call install,docs)
	@touch $(BASE) $(DOCS)

comma := ,

# $(call install,EXTRAS): the package, editable, into .venv.
define install
set -eu; \
if [ ! -e $(BASE) ]; then \
  found=; \
  for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python); do \
    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$python; break; fi; \
  done; \
  if [ -z "$$found" ]; then \
    echo "make: no Python >= 3.11 found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; \
  fi; \
  echo "making $(VENV) ($(KIND)) with $$("$$found" --version)"; \
  "$$found" -m venv --clear $(VENV); \
  $(CHECK_PLAN); \
fi; \
rm -f $(VENV)/.cpu-* $(VENV)/.gpu-*; \
echo "installing selectivemae[$(1)]: a minute or two the first time"; \
$(PY) -m pip install -qq --editable '.[$(1)]'; \
$(CHECK)
endef
