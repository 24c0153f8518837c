# One command per habit. `make demo` and `make test` do all the set-up a fresh machine needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: install demo test test-all chaos check format bench lock clean

install: $(STAMP)

# uv lives inside the environment, so nothing outside .venv is touched.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8'
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: install
	$(BIN)/vitrine demo

# Three workers are for two cores: now and then one waits for a server (tests/conftest.py says which). pytest's closing
# line is the last that this prints.
test: install
	$(BIN)/pytest -n 3 --no-loadscope-reorder -m "not slow"

test-all: install
	$(BIN)/pytest -n 3 --no-loadscope-reorder

# Nights that are killed, raced and badly served; some on S3, where a server is given as for the tests.
chaos: install
	$(BIN)/python -m tests.chaos $(CHAOS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# Resolve anew within pyproject.toml's bounds. --no-emit-index-url keeps addresses out of the file.
lock: install
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev \
	  --no-emit-index-url --upgrade --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
