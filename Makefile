# Two commands do all the set-up: `make demo` and `make test`.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint protos web docs constraints check-install clean

demo: $(VENV)/.demo
	$(BIN)/python client/examples/demo.py out

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint

# Generates the stubs from the protos.
protos: $(VENV)/.dev
	$(BIN)/python protos/generate.py

# Builds the browser page; needs Node 20 or newer and npm.
web: $(VENV)/.dev
	cd web && npm ci && PATH="$(abspath $(BIN)):$$PATH" npm run generate && npm run check && npm run build

# Builds the documentation in out/site.
docs: $(VENV)/.dev
	$(BIN)/python -m mkdocs build --strict

# Runs the Dockerfile's install steps without an engine, starts what came of them, and ends it: minutes.
check-install: $(VENV)/.dev
	$(BIN)/python deploy/check_install.py cpu

# Pins what is installed now.
constraints: $(VENV)/.dev
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu//' > constraints.txt

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[server,zoo,demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[server,web,faiss,umap,ray,telemetry,zoo,demo,docs,dev]'
	touch $@ $(VENV)/.demo

$(VENV):
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .cache out
