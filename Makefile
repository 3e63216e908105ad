PYTHON ?= python

.PHONY: check test test-slow

check:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# Three files at a time, the longest first (tests/conftest.py): tests that start real runs wait as much as they compute.
PYTEST = $(PYTHON) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test:
	$(PYTEST) -m "not slow"

test-slow:
	$(PYTEST) -m slow
