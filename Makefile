PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

run demo: export BLIP_MODEL ?= models/blip-easy-vqa

.PHONY: run test demo notebook lint bench

run: $(VENV)/installed
	$(BIN)/python run_notebooks.py

test: $(VENV)/installed-test lint
	$(BIN)/python -m pytest

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

demo: $(VENV)/installed
	$(BIN)/python blip_convert.py $(BLIP_MODEL:%/=%)
	$(BIN)/python blip_demo.py build/$(notdir $(BLIP_MODEL:%/=%))

bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.bench $(ARGS)

notebook: $(VENV)/installed
	$(BIN)/jupyter lab 233-blip-convert.ipynb

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -r requirements.txt
	touch $@

$(VENV)/installed-bench: $(VENV)/installed requirements-bench.txt
	$(BIN)/python -m pip install -r requirements-bench.txt
	touch $@

$(VENV)/installed-test: $(VENV)/installed-bench requirements-test.txt
	$(BIN)/python -m pip install -r requirements-test.txt
	touch $@
