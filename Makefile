# Two commands do everything: `make demo` and `make test`. Both set up .venv on a machine that has only Python 3.11 or newer.
# `make test-torch` tests the import of PyTorch modules in an environment of its own, with PyTorch for the CPU.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_VENV ?= .venv-torch
TORCH_BIN := $(TORCH_VENV)/bin
TORCH_PIP_OPTIONS ?=  # for example an index that has PyTorch for the CPU alone, which is far smaller

.PHONY: demo test test-torch lint setup environments docs clean

demo: setup
	$(BIN)/perfmodel demo --output demo-output

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-torch: $(TORCH_VENV)/.installed
	$(TORCH_BIN)/python -m pytest tests_torch --numprocesses 2 --dist worksteal --quiet

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/python docs/generate.py

setup: $(VENV)/.installed

environments: $(VENV)/.installed $(TORCH_VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("perfmodel needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=") if sys.version_info < (3, 11) else None'
	@echo "setting up $(VENV) (once, about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(TORCH_VENV)/.installed: pyproject.toml
	@echo "setting up $(TORCH_VENV) (once, a few minutes)"
	@test -x $(TORCH_BIN)/python || $(PYTHON) -m venv $(TORCH_VENV)
	@$(TORCH_BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_PIP_OPTIONS) --editable '.[test-torch]'
	@touch $@

clean:
	rm -rf $(VENV) $(TORCH_VENV) demo-output .mypy_cache .pytest_cache .ruff_cache
