# Every target sets up .venv by itself. PYTHON=/path/to/python chooses the interpreter it is made from.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DELETE_ON_ERROR:
.PHONY: help demo test lint docs bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

demo: $(STAMP) ## train, attack, explain and diagnose a small network, and write its report
	$(BIN)/interpretgan demo

test: lint ## everything that CI checks: lint, types, tests with coverage, docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup --cov --cov-report=term --durations=10
	$(MAKE) docs

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP) ## the documentation, into docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

bench: $(STAMP) ## measure the speed
	$(BIN)/python -m benchmarks

clean: ## remove .venv and everything that the tools left
	rm -rf $(VENV) docs/_build .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache

# A candidate counts when it runs, is new enough and can make a venv: a name on PATH alone says neither.
$(STAMP): pyproject.toml constraints.txt
	@for python in $(CANDIDATES); do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    found="$$python"; break; \
	  fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "error: expected Python 3.11 or newer with venv, got none of: $(CANDIDATES); install one, or run make PYTHON=/path/to/python" >&2; \
	  exit 1; \
	fi; \
	echo "setting up $(VENV) with $$found (once, a few minutes)"; \
	$(BIN)/python -c '' 2>/dev/null || "$$found" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,docs]'
	@touch $@
