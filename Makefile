# Everything that a person or CI does with this repository; `make` lists it.
# The environment is made on first use and made anew only when a lock file changes.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LABEL_STUDIO_VENV := .venv-label-studio
LABEL_STUDIO_INSTALLED := $(LABEL_STUDIO_VENV)/.installed
BROWSER_DRIVER := tests/e2e/node_modules/.installed
# A process of tests takes up to 1.5 GB; more than four gain little.
IN_PARALLEL := -n auto --maxprocesses 4

PIP_INSTALL := python -m pip install --quiet --disable-pip-version-check
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(ARGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

## — Use it —

.PHONY: demo
demo: $(INSTALLED) $(LABEL_STUDIO_INSTALLED)  ## Strop and a real Label Studio with sample images, connected and ready to click
	$(BIN)/strop demo $(ARGS)

.PHONY: serve
serve: $(INSTALLED)  ## Strop alone on port 9090, for your own Label Studio (ARGS="--port 9091 ...")
	$(BIN)/strop serve --config configs/serve.yaml $(ARGS)

.PHONY: pretrain
pretrain: $(INSTALLED)  ## Train the embedded model anew (ARGS="key=value ...")
	$(BIN)/strop-train pretrain $(ARGS)

.PHONY: evaluate
evaluate: $(INSTALLED)  ## Measure a model with simulated clicks (ARGS="--data FOLDER ...")
	$(BIN)/strop-train evaluate $(ARGS)

.PHONY: bench
bench: $(INSTALLED)  ## Time clicks through HTTP beside the bare decoder
	$(BIN)/python -m benchmarks.click_latency $(ARGS)

## — Work on it —

.PHONY: install
install: $(INSTALLED)  ## Make .venv from the lock file, with hashes

.PHONY: test
test: $(INSTALLED)  ## The default tests: CPU, offline, minutes (ARGS="-k name")
	$(BIN)/python -m pytest $(IN_PARALLEL) $(ARGS)

.PHONY: test-slow
test-slow: $(INSTALLED)  ## The slow tests
	$(BIN)/python -m pytest -m "slow and not gpu and not e2e" --timeout 1500 $(ARGS)

.PHONY: test-services
test-services: $(INSTALLED)  ## The tests that need Redis and PostgreSQL (starts private ones)
	.ci/with-services $(BIN)/python -m pytest -m "redis or postgres" $(ARGS)

.PHONY: test-e2e
test-e2e: $(INSTALLED) $(LABEL_STUDIO_INSTALLED) $(BROWSER_DRIVER)  ## A browser clicks in a real Label Studio
	$(BIN)/python -m pytest -m e2e --timeout 1500 tests/e2e $(ARGS)

.PHONY: coverage
coverage: $(INSTALLED)  ## The default tests with branch coverage
	$(BIN)/python -m pytest $(IN_PARALLEL) --cov --cov-report=term --cov-report=html $(ARGS)

.PHONY: check
check: $(INSTALLED)  ## Lint, format, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(INSTALLED)  ## Format the code and sort the imports
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

.PHONY: lock
lock: $(INSTALLED)  ## Resolve the lock files anew (ARGS="--upgrade" takes newer versions)
	$(UV_COMPILE) --extra dev pyproject.toml -o requirements/dev.lock
	$(UV_COMPILE) --extra export --extra mobile-sam --extra postgres -c requirements/dev.lock pyproject.toml -o requirements/serve.lock
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

$(INSTALLED): requirements/dev.lock pyproject.toml
	$(call make_venv,$(VENV))
	@echo "Installing Strop's dependencies into $(VENV): about 6 GB, some minutes, once."
	@$(BIN)/$(PIP_INSTALL) --require-hashes -r requirements/dev.lock
	@$(BIN)/$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(LABEL_STUDIO_INSTALLED): requirements/label-studio.lock
	$(call make_venv,$(LABEL_STUDIO_VENV))
	@echo "Installing Label Studio into $(LABEL_STUDIO_VENV): about 1 GB, a minute or two, once."
	@$(LABEL_STUDIO_VENV)/bin/$(PIP_INSTALL) --require-hashes -r requirements/label-studio.lock
	@touch $@

$(BROWSER_DRIVER): tests/e2e/package.json
	@command -v npm >/dev/null || { \
		echo "The browser tests need Node.js 18+ with npm (Debian: apt-get install nodejs npm)." >&2; exit 1; }
	cd tests/e2e && npm install --no-audit --no-fund --no-package-lock --loglevel=error
	@touch $@

define make_venv
@command -v $(PYTHON) >/dev/null || { \
	echo "No '$(PYTHON)' here. Install Python 3.10 to 3.13, or name one: make PYTHON=python3.12" >&2; exit 1; }
@$(PYTHON) -c 'import sys; (3, 10) <= sys.version_info < (3, 14) or sys.exit( \
	"Strop needs Python 3.10 to 3.13, but $(PYTHON) is %s. Name another: make PYTHON=python3.12" \
	% sys.version.split()[0])'
@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	echo "$(PYTHON) cannot make environments (Debian: apt-get install python3-venv)." >&2; exit 1; }
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
endef
