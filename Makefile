PYTHON ?= python

.PHONY: check test

check:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# Three files at a time, the longest first (tests/conftest.py): the tests of launch/ and those that start real runs wait as much as they compute.
test:
	$(PYTHON) -m pytest -n 3 --dist loadfile --no-loadscope-reorder
