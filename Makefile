# Each target sees to what it needs: the first one sets the clone up (.venv), later ones find it done.
# Without make: `python tools/setup.py`, then the programs in .venv/bin (Windows: .venv\Scripts).

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && exit; done; echo python3)
BIN := .venv/bin
READY := .venv/ready

.DEFAULT_GOAL := help
.PHONY: help setup run dash test slow browser lint catalogue notebooks sync site bench lab lock

help:            ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /:/' | awk -F: '{ printf "  make %-10s %s\n", $$1, $$2 }'

setup: $(READY)  ## install everything into .venv (the other targets do this by themselves)
	@:

$(READY): pyproject.toml requirements.lock tools/setup.py
	@$(PYTHON) tools/setup.py
	@touch $@

run: $(READY)    ## start the dashboard and a first search; NO_SEARCH=1 make run leaves the search out
	@$(BIN)/darts-dash

dash: run        ## the same

# SLOW=1: every test. ARGS: more words for pytest, e.g. make test ARGS="-k genotype"
test: $(READY) browser  ## the tests, without the slow ones
	@$(BIN)/python -m pytest $(if $(SLOW),,-m "not slow") -n 2 $(ARGS)

slow: $(READY)   ## all tests
	@$(MAKE) --no-print-directory test SLOW=1

browser: $(READY)  ## a Chromium for the browser tests; without one they are skipped, in the CI they fail
	@$(BIN)/python tools/browser.py || test -z "$$CI"

lint: $(READY)   ## ruff and pyright
	@$(BIN)/ruff check .
	@$(BIN)/pyright

catalogue: $(READY)  ## write darts_core/catalogue.json from the registries of strategies and data sets
	@$(BIN)/python tools/catalogue.py

notebooks: $(READY)  ## run every notebook from top to bottom; DARTS_NB_FAST=1 shortens the searches in them
	@$(BIN)/python tools/notebooks.py check
	@$(BIN)/python tools/notebooks.py run

sync: $(READY)   ## write notebooks/*.ipynb from notebooks/src/*.py, without outputs
	@$(BIN)/python tools/notebooks.py sync

site: $(READY)   ## the notebooks, run and rendered as pages in site/ that open without a network
	@$(BIN)/python tools/notebooks.py site site

bench: $(READY)  ## the benchmarks, one after another
	@set -e; for file in benchmarks/*.py; do if test -e "$$file"; then $(BIN)/python "$$file"; fi; done

lab: $(READY)    ## JupyterLab at the first notebook
	@$(BIN)/python tools/notebooks.py lab

lock: $(READY)   ## write requirements.lock anew from pyproject.toml, for all systems and Pythons
	@$(BIN)/uv pip compile --quiet --upgrade --all-extras --universal --python-version 3.11 --fork-strategy fewest \
		--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		--output-file requirements.lock pyproject.toml
