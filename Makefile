# Needs Python >= 3.10 and make. What there is to make: `make help`.
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
PIP = $(PY) -m pip install --disable-pip-version-check
# TORCH=cpu: PyTorch's builds without CUDA, from PyTorch's own index.
TORCH ?=
CPU_WHEELS = https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow readme-test identity faults lint format clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name what; do \
	    printf '  make %-12s %s\n' "$$name" "$$what"; done
	@echo "TORCH=cpu installs PyTorch without CUDA; VENV=$(VENV) and PYTHON=$(PYTHON) can be others."

demo: $(VENV)/.installed  ## install into .venv (5.8 GB; TORCH=cpu: no CUDA) and train for a minute
	$(PY) TrainGeneratorWandB.py --preset smoke
	@echo "Before the next command: . $(VENV)/bin/activate"

# One thread a process: two test workers on two cores, and results that do not depend on the count.
test: $(VENV)/.installed-dev  ## the tests, but for the slow ones
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/.installed-dev  ## the slow tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal -m slow

readme-test: $(VENV)/.installed-dev  ## every command of README.md in a fresh clone; ARGS=--slow: all to their ends
	OMP_NUM_THREADS=1 $(PY) -m tests.readme $(ARGS)

identity: $(VENV)/.installed-dev  ## whether all smoke modes still give the files of an earlier revision
	$(PY) -m tests.identity

faults: $(VENV)/.installed-dev  ## kills, signals and faults of the disk, over and over; ARGS=--kills 50: more
	OMP_NUM_THREADS=1 $(PY) -m tests.faults $(ARGS)

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.installed-dev  ## ruff, changing files
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 10) else f"Python >= 3.10 needed, $(PYTHON) is {v[0]}.{v[1]}; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

COST = PyTorch with CUDA and its compiler are most of the 5.8 GB that go into $(VENV); TORCH=cpu is without

# What is installed of torch already satisfies the requirements, whichever build it is.
$(VENV)/.torch: | $(VENV)/bin/python
ifeq ($(TORCH),cpu)
	$(PIP) --index-url $(CPU_WHEELS) $$(grep '^torch' requirements.txt)
else ifneq ($(TORCH),)
	@echo "TORCH=$(TORCH) is not known: TORCH=cpu, or nothing" >&2; exit 2
else
	@echo "$(COST)"
endif
	touch $@

$(VENV)/.installed: requirements.txt setup.py pyproject.toml $(VENV)/.torch
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements.txt requirements-dev.txt setup.py pyproject.toml $(VENV)/.torch
	$(PIP) -r requirements-dev.txt
	touch $(VENV)/.installed $@

clean:  ## remove .venv and what tools left
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
