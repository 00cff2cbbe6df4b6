# `make check` is what has to pass before a commit; ./launch.sh test is the whole suite.
PYTHON ?= .venv/bin/python

.PHONY: check lint format types layers unit lock

check: lint types layers unit

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types:
	$(PYTHON) -m mypy

layers:
	$(PYTHON) -m pytest -q tests/test_layers.py

unit:
	$(PYTHON) -m pytest -q -m "not slow" tests

# The exact versions of this environment, as constraints: no local builds (+cpu), no file paths.
lock:
	{ sed -n '/^#/p' requirements.lock; \
	  $(PYTHON) -m pip freeze --exclude-editable --exclude llmkit | sed -E 's/\+[a-z0-9]+$$//; / @ /d'; } > requirements.new
	mv requirements.new requirements.lock
