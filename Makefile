# `make demo` and `make test` do all the set-up that they need. PYTHON: which Python (3.11 or later) makes .venv.
# TORCH_INDEX: package index of torch's CPU build (see README); empty takes torch from where pip finds it.
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP_OPTIONS := --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: demo test lint types contracts clean setup

demo: setup
	$(BIN)/storagebench demo --work-dir .demo

test: setup lint types contracts
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11" >&2; echo "hint: make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv" >&2; echo "hint: apt-get install python3-venv" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_OPTIONS) -c constraints.txt torch==2.13.0 setuptools wheel
	$(BIN)/pip install $(PIP_OPTIONS) -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

# Deletes what the targets above and .ci made, by name.
clean:
	rm -rf $(VENV) .venv-loaders .venv-mosaic .venv-kubeflow .venv-mlflow .demo storagebench.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
