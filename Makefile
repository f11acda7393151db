# Every target makes the environment that it needs, from constraints.txt, with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
CORE := $(VENV)/.core
DEV := $(VENV)/.dev
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUN := $(VENV)/bin/python -m
# Three processes for two cores, since some tests wait; what is imported is compiled once, not by each.
TESTS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest \
	--tx "3*popen//python=$(VENV)/bin/python tests/xdist_worker.py" --dist loadfile --no-loadscope-reorder

.PHONY: help sweep test check docs format lock clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(CORE): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (once; some minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --editable .
	@touch $@

$(DEV): $(CORE)
	@$(PIP) --editable '.[dev]'
	@touch $@

sweep: $(CORE)  ## the environment, a teacher, the default sweep on digits, its report
	@$(RUN) kd_research.run -m

test: $(DEV)  ## the environment and the whole test suite
	@$(TESTS)

check: $(DEV)  ## format, lint, types, tests
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy
	@$(TESTS)

docs: $(DEV)  ## the documentation as a site in site/, to open from disk
	@$(RUN) mkdocs build --quiet
	@echo "site/index.html"

format: $(DEV)  ## bring the code into form
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

lock:  ## write constraints.txt anew from what pyproject.toml admits today
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 --editable '.[dev]'
	{ echo "# Written by make lock: the versions that the tests ran with."; \
	  $(VENV)-lock/bin/pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.txt
	rm -rf $(VENV)-lock

clean:  ## remove the environment and the caches; outputs/ stays
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache kd_research.egg-info
