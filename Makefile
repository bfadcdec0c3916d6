# PYTHON is the interpreter that makes the virtual environment; everything else runs inside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# auto: the full profile where MNIST is present or can be downloaded, else quick (digits).
PROFILE ?= auto
# For "make versions": lowest, colab or newest.
VERSIONS ?= lowest
# Further options of "python -m book execute", for instance: ARGS="-p seed=1 01_vae_theory"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install book html test check-book publish claims long-runs models benchmarks mutants versions badges address clean
.DELETE_ON_ERROR:

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED)  ## Build .venv and install the package with its tools (the others do it too)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + \
	    ". Name another one: make PYTHON=python3.13")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): some minutes, mostly for torch"
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[book,test,dev]"
	@touch $@

book: $(INSTALLED)  ## Run every chapter and render the book: _build/html
	$(BIN)/python -m book execute --profile $(PROFILE) $(ARGS)
	$(BIN)/python -m book stage executed
	$(BIN)/python -m book render

html: $(INSTALLED)  ## Render the committed outputs, without running anything: _build/html
	$(BIN)/python -m book stage committed
	$(BIN)/python -m book render

test: $(INSTALLED)  ## Lint, unit tests, and every chapter against its committed outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --nbval

check-book: $(INSTALLED)  ## Open every page of _build/html in headless Chromium and look for faults
	$(BIN)/python -m book.check_book

publish: $(INSTALLED)  ## Maintainers: full run of the chapters, copied to notebooks/ and results/
	$(BIN)/python -m book publish $(ARGS)

claims: $(INSTALLED)  ## Maintainers: write the ledger of claims, in both profiles: results/claims
	$(BIN)/python -m book claims $(ARGS)

long-runs: $(INSTALLED)  ## Train what the chapters cannot train live; resumable, a GPU helps
	$(BIN)/python -m vaelib.course $(ARGS)

models: $(INSTALLED)  ## Maintainers: measure the pretrained models, and write their sums and scores
	$(BIN)/python -m book models $(ARGS)

benchmarks: $(INSTALLED)  ## Speed and quality against other implementations, twenty minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[benchmarks]"
	$(BIN)/python -m benchmarks $(ARGS)

mutants: $(INSTALLED)  ## Maintainers: apply each known error, and see which test or claim catches it
	$(BIN)/python tests/mutation.py $(ARGS)

versions:  ## Run every chapter in quick on other versions: VERSIONS=lowest, colab or newest
	$(PYTHON) book/versions.py $(VERSIONS)

badges: $(INSTALLED)  ## Write the address and the reading times into everything that shows them
	$(BIN)/python -m book badges

address: $(INSTALLED)  ## Fail unless the committed address is this repository's
	$(BIN)/python -m book address

clean:  ## Remove everything that is built, but not .venv
	rm -rf _build .pytest_cache .ruff_cache
