# Every target sets up what it needs: `make demo` and `make test` work on a fresh machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
STAMP := $(VENV)/.installed
DEMO := .demo

.PHONY: demo test lint docs mutate mutate-fast table clean

$(STAMP): requirements.lock pyproject.toml passes/pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.lock)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -e passes -e .
	touch $@

demo: $(STAMP)
	rm -rf $(DEMO)
	$(VENV)/bin/moec compile qwen3-30b-a3b --target targets/elmoe3d-8gb.yaml -o $(DEMO)

test: $(STAMP)
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# The documentation site, without a network: site/index.html.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

# Tests of the tests: each mutant makes one thing wrong, and the tests of its folder must notice.
mutate: $(STAMP)
	$(VENV)/bin/python tests/mutate.py

mutate-fast: $(STAMP)
	$(VENV)/bin/python tests/mutate.py --fast

table: $(STAMP)
	$(VENV)/bin/python benchmarks/models.py

clean:
	rm -rf $(VENV) $(DEMO) site
