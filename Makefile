PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
# The CPU build that development and CI use; a plain `torch` may bring gigabytes of CUDA.
TORCH ?= torch==2.13.0
# All byte code would take half a minute; Python compiles what it imports.
QUICKLY = --quiet --disable-pip-version-check --no-compile

.PHONY: demo test test-integrations test-ray test-comfyui test-sglang docs style lint bench paper train clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(QUICKLY) "$(TORCH)"
	$(BIN)/pip install $(QUICKLY) -e ".[dev]"
	touch $@

demo: $(VENV)/installed  ## generate with the embedded pipeline in full, accelerated, and with fewer steps
	$(BIN)/ertacache demo --out out/demo

test: $(VENV)/installed style  ## style, types and the tests that CI runs; types beside the tests, which leave time for them
	$(BIN)/mypy & types=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder; tests=$$?; \
	wait $$types || { echo "mypy has found errors: see above"; exit 1; }; exit $$tests

$(VENV)-integrations/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-integrations
	$(VENV)-integrations/bin/pip install $(QUICKLY) "$(TORCH)"
	$(VENV)-integrations/bin/pip install $(QUICKLY) -e ".[dev,quantised,gradio]"
	touch $@

test-integrations: $(VENV)-integrations/installed  ## with packages that change what diffusers does, in their own environment
	OMP_NUM_THREADS=1 $(VENV)-integrations/bin/python -m pytest tests/integrations --ignore tests/integrations/comfyui --ignore tests/integrations/sglang

$(VENV)-ray/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-ray
	$(VENV)-ray/bin/pip install $(QUICKLY) "$(TORCH)"
	$(VENV)-ray/bin/pip install $(QUICKLY) -e ".[dev,ray]"
	touch $@

test-ray: $(VENV)-ray/installed  ## workers on a Ray cluster that is started for the tests, in their own environment
	OMP_NUM_THREADS=1 $(VENV)-ray/bin/python -m pytest tests/distributed/test_ray.py

$(VENV)-comfyui/installed: pyproject.toml tests/integrations/comfyui/requirements.txt
	$(PYTHON) -m venv $(VENV)-comfyui
	$(VENV)-comfyui/bin/pip install $(QUICKLY) "$(TORCH)"
	$(VENV)-comfyui/bin/pip install $(QUICKLY) -r tests/integrations/comfyui/requirements.txt
	$(VENV)-comfyui/bin/pip install $(QUICKLY) --no-deps spandrel  # it asks for torchvision
	$(VENV)-comfyui/bin/pip install $(QUICKLY) -e . pytest==9.2.0 playwright==1.65.2
	$(VENV)-comfyui/bin/python tests/integrations/comfyui/fetch.py $(VENV)-comfyui
	touch $@

test-comfyui: $(VENV)-comfyui/installed  ## the nodes in the real ComfyUI server, fetched into its own environment
	COMFYUI=$(VENV)-comfyui/ComfyUI $(VENV)-comfyui/bin/python -m pytest tests/integrations/comfyui

$(VENV)-sglang/installed: pyproject.toml tests/integrations/sglang/requirements.txt
	$(PYTHON) -m venv $(VENV)-sglang
	$(VENV)-sglang/bin/pip install $(QUICKLY) "$(TORCH)"
	$(VENV)-sglang/bin/pip install $(QUICKLY) -r tests/integrations/sglang/requirements.txt
	$(VENV)-sglang/bin/pip install $(QUICKLY) --no-deps sglang==0.5.23  # without CUDA packages
	$(VENV)-sglang/bin/pip install $(QUICKLY) -e . pytest==9.2.0
	touch $@

test-sglang: $(VENV)-sglang/installed  ## the plug-in in SGLang's wheel, and the oldest diffusers, which it pins
	OMP_NUM_THREADS=1 $(VENV)-sglang/bin/python -m pytest tests/integrations/sglang

$(VENV)-docs/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/pip install $(QUICKLY) "$(TORCH)"
	$(VENV)-docs/bin/pip install $(QUICKLY) -e ".[docs]"
	touch $@

docs: $(VENV)-docs/installed  ## the site of docs/, in out/site; a broken link or a missing reference is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict

style: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint: $(VENV)/installed style  ## style and types
	$(BIN)/mypy

bench: $(VENV)/installed  ## the slow tests, and tables like those of docs/records/pipelines.md
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.method

paper: $(VENV)/installed  ## the paper's tables and figures, and docs/records/paper.md about them; hours, and resumable
	$(BIN)/python -m benchmarks.paper

train: $(VENV)/installed  ## train the embedded pipeline anew; hours on a CPU
	$(BIN)/python -m training.train emoji

clean:
	rm -rf $(VENV) $(VENV)-integrations $(VENV)-ray $(VENV)-comfyui $(VENV)-sglang $(VENV)-docs out
