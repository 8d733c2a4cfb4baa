PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

run demo: export BLIP_MODEL ?= models/blip-scenes
# OpenVINO's and NNCF's telemetry forks the process, and waits 3 s where there is no network; it is off in CI.
test check: export CI = true
# Two processes share the cores: PyTorch's threads are not to wait for work by spinning.
test check: export OMP_WAIT_POLICY = PASSIVE
PYTEST = $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: run test check lint demo notebook bench

run: $(VENV)/installed
	$(BIN)/python tests/run_notebooks.py

test: $(VENV)/installed-dev lint
	$(PYTEST)

check: $(VENV)/installed-dev lint
	$(PYTEST) -m "not slow"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

demo: $(VENV)/installed
	$(BIN)/blip-ov demo

bench: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks.bench $(ARGS)

notebook: $(VENV)/installed
	$(BIN)/jupyter lab 233-blip-convert.ipynb

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable ".[convert,demo,notebook]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --editable ".[dev]"
	touch $@
