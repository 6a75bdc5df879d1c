# make demo: the whole pipeline on real photographs.   make test: every check.   Both set up .venv by themselves.
# make test-thorough: every case of the tests that kill and damage again and again; make test tries some of them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: demo test test-thorough lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-demo
	@$(BIN)/python -m demo.collect $(DEMO)
	@$(BIN)/codistill extract run demo/catalogue.toml --cache $(DEMO)/cache --summary $(DEMO)/extraction.json
	@$(BIN)/codistill train run demo --cache $(DEMO)/cache --out $(DEMO)/run --resume
	@$(BIN)/codistill eval report $(DEMO)/run --out $(DEMO)/report --extraction $(DEMO)/extraction.json

test: $(VENV)/.installed-test
	@$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

test-thorough: export CODISTILL_TESTS = thorough
test-thorough: test

lint: $(VENV)/.installed-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# One stamp per set of extras; the test set contains the demo's.
$(VENV)/.installed-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"codistill needs Python >= 3.11, {sys.executable} is {sys.version.split()[0]}. Run: make PYTHON=python3.12 ...")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "installing codistill[$*] into $(VENV) (once; several GB with torch)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
	@if [ $* = test ]; then touch $(VENV)/.installed-demo; fi

clean:
	rm -rf $(DEMO)/cache $(DEMO)/images $(DEMO)/weights $(DEMO)/run $(DEMO)/report $(DEMO)/extraction.json
