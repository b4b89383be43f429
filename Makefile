# `make` lists the targets. Everything is installed in .venv.
.DEFAULT_GOAL := help
.PHONY: help demo test pytest lint format clean

BIN := .venv/bin
# Supported Pythons, the best tested first.
PYTHONS := python3.11 python3.12 python3.13 python3
# Stages run `python -m stages.<name>` with the python in PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/installed ## Train, distil, export, measure and pack on handwritten digits, then show the result
	@$(BIN)/python -m dvc repro
	@$(BIN)/ackd show

test: .venv/installed-dev ## Run all checks: format, types, layers and tests
	@$(MAKE) --no-print-directory --jobs=2 lint pytest

pytest: .venv/installed-dev
	@# More workers than a small machine has cores, because many tests wait for other processes.
	$(BIN)/python -m pytest --numprocesses=4 --dist=worksteal --durations=10

lint: .venv/installed-dev ## Check format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and the tools' caches; results and DVC's cache stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info

.venv/bin/python:
	@for python in $(PYTHONS); do \
	  if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	    exec $$python -m venv .venv; \
	  fi; \
	done; \
	echo "error: no Python 3.11, 3.12 or 3.13 was found; install one of them and run make again" >&2; \
	exit 1

# Reinstall when a requirement has changed since the stamp.
.venv/installed: pyproject.toml requirements.lock | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e .
	@touch $@

.venv/installed-dev: pyproject.toml requirements.lock | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $@ .venv/installed
