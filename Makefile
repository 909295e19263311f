# Two commands do all set-up: `make demo` and `make test`. They need make and a Python with venv, no compiler.
#
#   make demo [PHOTOS=dir] [KEEP=dir]    install into .venv, run the demonstration
#   make test [PYTEST_ARGS=...]          install into .venv, run every check
#   make lint | types | layers | cover   one check alone
#   make mutants [MUTANTS=...]           change what holds a promise, see a test fail (benchmarks/mutants.py)
#   make pins [UPGRADE=--upgrade]        write requirements/ anew from pyproject.toml
#   make clean                           remove .venv and what the checks leave behind
#
# PYTHON=/path/to/python chooses the interpreter.

SHELL := /bin/sh
BIN := .venv/bin
PYTEST_ARGS ?=
TYPED = src tests $(if $(wildcard benchmarks/*.py),benchmarks)

# Wheels only: nothing of ours needs a compiler, so a source build is a mistake that should say so.
export PIP_ONLY_BINARY := :all:
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The newest Python from 3.11 to 3.13 on PATH. Each candidate is run, since a name may be a shim with nothing
# behind it. `ensurepip` is what Debian leaves out of python3 without python3-venv.
FIND_PYTHON = IFS=:; best=0; found=; for dir in $$PATH; do \
	for name in python3 python3.13 python3.12 python3.11; do \
	  [ -x "$$dir/$$name" ] || continue; \
	  minor=$$("$$dir/$$name" -c 'import sys, venv, ensurepip; v = sys.version_info; print(v[1] * (v[0] == 3))' \
	    2>/dev/null </dev/null) || continue; \
	  [ "$$minor" -ge 11 ] && [ "$$minor" -le 13 ] && [ "$$minor" -gt "$$best" ] || continue; \
	  best=$$minor; found=$$dir/$$name; \
	done; done; echo "$$found"
ifeq ($(origin PYTHON),undefined)
PYTHON = $(eval PYTHON := $$(shell $$(FIND_PYTHON)))$(PYTHON)
endif
NO_PYTHON = facekeep needs Python 3.11, 3.12 or 3.13 with venv and pip. Debian or Ubuntu: apt install python3 \
	python3-venv. Elsewhere: python.org, or PYTHON=/path/to/python3

# pip's script names its interpreter by path: it fails when the environment is half made, its Python is gone,
# or the checkout was moved. Then everything is made again.
ifeq ($(shell $(BIN)/pip --version 2>/dev/null),)
.PHONY: .venv/installed-demo .venv/installed-test
endif

# Everything comes by the version and hash that stand in requirements/, whoever serves it; the backend that
# builds facekeep itself does, too. uv installs in seconds what takes pip half a minute. It does not read pip's
# configuration, so a private index set there is left to pip; so is any trouble with uv.
define INSTALL
	@$(BIN)/pip --version >/dev/null 2>&1 || { \
	  echo "making .venv with $(or $(PYTHON),$(error $(NO_PYTHON)))"; \
	  "$(PYTHON)" -m venv --clear .venv || { rm -rf .venv; exit 1; }; }
	@echo "installing facekeep[$(1)] into .venv"
	@$(BIN)/pip install --quiet --require-hashes -r requirements/tools.txt
	@if ! $(BIN)/pip config list | grep -q '[.]index' && $(BIN)/uv pip install --quiet \
	  --python $(BIN)/python --only-binary :all: --require-hashes -r requirements/$(1).txt; then :; \
	else echo "installing with pip"; $(BIN)/pip install --quiet --require-hashes -r requirements/$(1).txt; fi
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
endef

# Files for pip and uv that name no registry: one resolution for all Pythons and systems, `test` first, and
# the others by its versions. Without UPGRADE what is pinned stays, where pyproject.toml still allows it.
UPGRADE ?=
PIN = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --only-binary :all: --generate-hashes \
	--no-annotate --custom-compile-command 'make pins' $(UPGRADE)

.PHONY: demo test lint types layers cover mutants pins clean help

help:
	@sed -n 's/^# \{0,1\}//; 1,10p' Makefile

demo: .venv/installed-demo
	@$(BIN)/facekeep demo $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(KEEP),--keep "$(KEEP)")

test: lint types layers cover

lint: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed-test
	$(BIN)/mypy $(TYPED)

layers: .venv/installed-test
	$(BIN)/lint-imports

# The floor (pyproject.toml, fail_under) is for the whole suite; a chosen part of it has none.
cover: .venv/installed-test
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report $(if $(strip $(PYTEST_ARGS)),--fail-under=0)

MUTANTS ?=
mutants: .venv/installed-test
	$(BIN)/python benchmarks/mutants.py $(MUTANTS)

pins:
	$(PIN) --extra test pyproject.toml -o requirements/test.txt
	$(PIN) -c requirements/test.txt --extra demo pyproject.toml -o requirements/demo.txt
	$(PIN) -c requirements/test.txt pyproject.toml -o requirements/core.txt
	$(PIN) -c requirements/test.txt requirements/tools.in -o requirements/tools.txt

.venv/installed-demo: pyproject.toml requirements/demo.txt requirements/tools.txt
	$(call INSTALL,demo)
	@touch $@

# The test extra includes the demo's.
.venv/installed-test: pyproject.toml requirements/test.txt requirements/tools.txt
	$(call INSTALL,test)
	@touch .venv/installed-demo $@

clean:
	rm -rf .venv build dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
