PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
# The CPU build that development and CI use; a plain `torch` may bring gigabytes of CUDA.
TORCH ?= torch==2.13.0

.PHONY: demo test lint bench paper train clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: $(VENV)/installed  ## generate with the embedded pipeline in full, accelerated, and with fewer steps
	$(BIN)/ertacache demo --out out/demo

test: $(VENV)/installed lint  ## the tests that CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed  ## the slow tests, and the table of the README
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.method

paper: $(VENV)/installed  ## the paper's tables and figures, and docs/paper.md about them; hours, and resumable
	$(BIN)/python -m benchmarks.paper

train: $(VENV)/installed  ## train the embedded pipeline anew; hours on a CPU
	$(BIN)/python -m training.train flux

clean:
	rm -rf $(VENV) out
