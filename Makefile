# Everything that a person or CI does with this repository; `make` lists it.
# The environment is made on first use and made anew only when a lock file changes.
#
#   make demo PYTHON=python3.12        another Python than the first that fits
#   make demo TORCH_INDEX=ADDRESS      torch and torchvision from another package index, such as
#                                      https://download.pytorch.org/whl/cpu (a quarter of the size)

PYTHON ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# One environment, two degrees: what serving needs, and on top of it what development needs.
TO_SERVE := $(VENV)/.installed-to-serve
TO_DEVELOP := $(VENV)/.installed-to-develop
# The index that torch was taken from is kept: what comes on top must not bring another build.
TORCH_FROM := $(shell cat $(VENV)/.torch-index 2>/dev/null)
TORCH_INDEX ?= $(TORCH_FROM)
# Measured on two cores.  On Linux the registry's torch brings CUDA along, elsewhere it does not.
ifeq ($(TORCH_INDEX)$(filter-out Linux,$(shell uname -s)),)
SIZE_TO_SERVE := 2.8 GB to fetch (4 minutes at 100 Mbit/s) and 2 minutes to unpack, 6.3 GB on disk.
else
SIZE_TO_SERVE := 0.4 GB to fetch and a minute to unpack, 1.8 GB on disk.
endif
SIZE_TO_DEVELOP := 0.1 GB to fetch, half a minute, 0.3 GB on disk.
SIZE_OF_LABEL_STUDIO := 0.3 GB to fetch and a minute or two to unpack, 1 GB on disk.
LABEL_STUDIO_VENV := .venv-label-studio
LABEL_STUDIO_INSTALLED := $(LABEL_STUDIO_VENV)/.installed
BROWSER_DRIVER := tests/e2e/node_modules/.installed
# A process of tests takes up to 1.5 GB; more than four gain little.
IN_PARALLEL := -n auto --maxprocesses 4

PIP_INSTALL := python -m pip install --quiet --disable-pip-version-check --no-deps
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	--no-strip-extras --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	$(ARGS)
# Some people's pip installs for the user unless told otherwise, which no environment permits.
export PIP_USER := 0

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

## — Use it —

.PHONY: demo
demo: $(TO_SERVE) $(LABEL_STUDIO_INSTALLED)  ## Strop and a real Label Studio with sample images, connected and ready to click
	$(BIN)/strop demo $(ARGS)

.PHONY: serve
serve: $(TO_SERVE)  ## Strop alone on port 9090, for your own Label Studio (ARGS="--port 9091 ...")
	$(BIN)/strop serve --config configs/serve.yaml $(ARGS)

.PHONY: doctor
doctor: $(TO_SERVE)  ## Check the set-up, a line for each finding (ARGS="--fix --project 4 --url http://...")
	@$(BIN)/strop doctor --config configs/serve.yaml $(ARGS)

.PHONY: shell
shell: $(TO_SERVE)  ## A shell in which `strop` and `strop-train` are found
	@PATH="$(CURDIR)/$(BIN):$$PATH" $${SHELL:-sh} || true

.PHONY: prepare
prepare: $(TO_SERVE)  ## Install what serving needs into .venv, and nothing else

.PHONY: wheel
wheel: $(TO_SERVE)  ## Make dist/strop-*.whl, for pipx and `uv tool install`
	$(BIN)/python -m hatchling build --target wheel

.PHONY: pretrain
pretrain: $(TO_DEVELOP)  ## Train the embedded model anew (ARGS="key=value ...")
	$(BIN)/strop-train pretrain $(ARGS)

.PHONY: evaluate
evaluate: $(TO_DEVELOP)  ## Measure a model with simulated clicks (ARGS="--data FOLDER ...")
	$(BIN)/strop-train evaluate $(ARGS)

.PHONY: bench
bench: $(TO_DEVELOP)  ## Time clicks through HTTP beside the bare decoder
	$(BIN)/python -m benchmarks.click_latency $(ARGS)

## — Work on it —

.PHONY: install
install: $(TO_DEVELOP)  ## Make .venv from the lock file, with hashes

.PHONY: test
test: $(TO_DEVELOP)  ## The default tests: CPU, offline, minutes (ARGS="-k name")
	$(BIN)/python -m pytest $(IN_PARALLEL) $(ARGS)

.PHONY: test-slow
test-slow: $(TO_DEVELOP)  ## The slow tests
	$(BIN)/python -m pytest -m "slow and not gpu and not e2e and not registry" --timeout 1500 $(ARGS)

.PHONY: test-services
test-services: $(TO_DEVELOP)  ## The tests that need Redis and PostgreSQL (starts private ones)
	.ci/with-services $(BIN)/python -m pytest -m "redis or postgres" $(ARGS)

.PHONY: test-e2e
test-e2e: $(TO_DEVELOP) $(LABEL_STUDIO_INSTALLED) $(BROWSER_DRIVER)  ## A browser clicks in a real Label Studio
	$(BIN)/python -m pytest -m e2e --timeout 1500 tests/e2e $(ARGS)

.PHONY: test-locks
test-locks: $(TO_DEVELOP)  ## Resolve the lock files with the pip of every Python here (gigabytes pass)
	$(BIN)/python -m pytest -m registry --timeout 1500 tests/test_locks.py $(ARGS)

.PHONY: coverage
coverage: $(TO_DEVELOP)  ## The default tests with branch coverage
	$(BIN)/python -m pytest $(IN_PARALLEL) --cov --cov-report=term --cov-report=html $(ARGS)

.PHONY: check
check: $(TO_DEVELOP)  ## Lint, format, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(TO_DEVELOP)  ## Format the code and sort the imports
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

.PHONY: lock
lock: $(TO_DEVELOP)  ## Resolve the lock files anew (ARGS="--upgrade" takes newer versions)
	$(UV_COMPILE) --extra dev pyproject.toml -o requirements/dev.lock
	$(UV_COMPILE) --extra export --extra hub --extra mobile-sam --extra onnx --extra postgres --extra traces -c requirements/dev.lock pyproject.toml -o requirements/serve.lock
	$(UV_COMPILE) -c requirements/dev.lock requirements/build.in -o requirements/build.lock
	$(UV_COMPILE) --allow-unsafe requirements/pip.in -o requirements/pip.lock
	$(UV_COMPILE) --no-annotate requirements/label-studio.in -o requirements/label-studio.lock

.PHONY: clean
clean:  ## Remove environments, caches and build outputs; data and journals stay
	rm -rf $(VENV) $(LABEL_STUDIO_VENV) tests/e2e/node_modules build dist htmlcov .coverage
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.PHONY: help
help:  ## Show this list
	@awk 'BEGIN {FS = ":.*## "} \
		/^## / {print "\n" substr($$0, 4)} \
		/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The environments.  A stamp file marks one that is complete, so that the next `make` is instant.

$(TO_SERVE): requirements/serve.lock requirements/build.lock requirements/pip.lock pyproject.toml | as-asked
	@requirements/make-environment $(VENV) $(PYTHON)
	@echo "$(TORCH_INDEX)" > $(VENV)/.torch-index
	@$(BIN)/python requirements/install.py requirements/serve.lock --torch-index "$(TORCH_INDEX)" \
		--announce "Installing what serving needs into $(VENV): $(SIZE_TO_SERVE)"
	@$(BIN)/$(PIP_INSTALL) --require-hashes -r requirements/build.lock
	@$(BIN)/$(PIP_INSTALL) --no-build-isolation --editable .
	@touch $@

$(TO_DEVELOP): $(TO_SERVE) requirements/dev.lock
	@$(BIN)/python requirements/install.py requirements/dev.lock --torch-index "$(TORCH_INDEX)" \
		--announce "Installing what development needs into $(VENV): $(SIZE_TO_DEVELOP)"
	@touch $@

$(LABEL_STUDIO_INSTALLED): requirements/label-studio.lock requirements/pip.lock
	@requirements/make-environment $(LABEL_STUDIO_VENV) $(PYTHON)
	@$(LABEL_STUDIO_VENV)/bin/python requirements/install.py requirements/label-studio.lock \
		--announce "Installing Label Studio into $(LABEL_STUDIO_VENV): $(SIZE_OF_LABEL_STUDIO)"
	@touch $@

$(BROWSER_DRIVER): tests/e2e/package.json
	@command -v npm >/dev/null || { \
		echo "The browser tests need Node.js 18+ with npm (Debian: apt-get install nodejs npm)." >&2; exit 1; }
	cd tests/e2e && npm install --no-audit --no-fund --no-package-lock --loglevel=error
	@touch $@

# What was asked for with a variable, and an environment that is there, have to agree.
.PHONY: as-asked
as-asked:
	@test ! -e $(VENV)/.torch-index || test "$(TORCH_INDEX)" = "$(TORCH_FROM)" || { \
		echo "$(VENV) holds torch from $(or $(TORCH_FROM),the registry), not from" \
			"$(or $(TORCH_INDEX),the registry): 'make clean' removes it." >&2; exit 1; }
	@test -z "$(PYTHON)" || requirements/make-environment $(VENV) $(PYTHON)
