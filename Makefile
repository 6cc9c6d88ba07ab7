# The first four are what a person needs; each makes the environment in .venv when it has to.
#
#   make demo         one full round with simulated labelers, at http://127.0.0.1:8000
#   make up           the application for real use            (ARGS="--port 8001" for another port)
#   make test         lint, types and all tests
#   make clean-demo   remove the demo
#   make screenshots  docs/screenshots/ anew, after a demo      (ARGS="--without-demo" for the rest)
#
# PYTHON=/path/to/python chooses the interpreter of a new .venv.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
SHELL := /bin/sh

.PHONY: help demo up test lint clean-demo constraints screenshots
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.train
	@$(BIN)/plumbline demo $(ARGS)

up: $(VENV)/.train
	@$(BIN)/plumbline up $(ARGS)

# A file's tests stay together; ARGS="-n 0" runs all in one process.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

screenshots: $(VENV)/.dev
	$(BIN)/python -m tests.browser.screenshots $(ARGS)

# The command refuses while the demo runs. Without an environment there was no demo.
clean-demo:
	@if [ -x $(BIN)/plumbline ]; then $(BIN)/plumbline clean-demo; fi

constraints: $(VENV)/.dev
	@$(BIN)/python -m pip freeze --all --exclude-editable | LC_ALL=C sort -f > $(VENV)/frozen
	@sed -n 1p constraints.txt > $(VENV)/constraints
	@sed -e '/^pip==/d' -e '/^plumbline/d' -e 's/+.*//' $(VENV)/frozen >> $(VENV)/constraints
	@mv $(VENV)/constraints constraints.txt

# Stamps: made anew only when what they name has changed. `dev` includes `train`.
$(VENV)/.train: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing what pyproject.toml names; the first time takes minutes."
	$(PIP) -e '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[train,dev]'
	@touch $(VENV)/.train $@

$(VENV)/.made:
	@python=; for name in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    python=$$name; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "Plumbline needs Python 3.11 or newer, and found none." >&2; \
	  echo "Debian, Ubuntu: apt install python3 python3-venv   macOS: brew install python@3.13" >&2; \
	  exit 1; \
	fi; \
	if ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "$$python has no venv module: apt install python3-venv" >&2; \
	  exit 1; \
	fi; \
	"$$python" -m venv $(VENV)
	@touch $@
