# Two commands are enough: `make demo` and `make test`. Each sets up .venv first and prints what it runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
# Tests at a time, each with a core and some GB of memory.
JOBS ?= 2

.PHONY: setup demo format lint types imports test docs wheel bench ci

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/tapadl demo $(ARGS)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(ARGS)

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

imports: $(VENV)/.installed
	$(BIN)/lint-imports

docs: $(VENV)/.installed
	$(BIN)/mkdocs build --strict --quiet --site-dir build/site

# The wheel must hold everything the demo needs: it runs from an environment that borrows the dependencies but
# has never seen the source tree.
wheel: $(VENV)/.installed
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel .
	$(BIN)/python -m venv build/wheel/venv
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$(build/wheel/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth"
	build/wheel/venv/bin/python -m pip install --quiet --no-deps build/wheel/*.whl
	cd build/wheel && venv/bin/tapadl demo --quick --out demo

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/pooling.py
	$(BIN)/python benchmarks/diversification.py
	$(BIN)/python benchmarks/attach.py
	$(BIN)/python benchmarks/corruptions.py
	$(BIN)/python benchmarks/models.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/segmentation.py
	$(BIN)/python benchmarks/diagnostics.py

ci: lint types imports test docs wheel
