# make demo: the whole way once, on data that comes with scikit-learn. make test: every check.
PYTHON ?= python3
BIN := .venv/bin
TWO := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0  # two processes, one core each
FILES := tests/exporting tests/targets
PAGE := tests/report/test_page.py
DEMO := train(6, batch=32) | sparsify(1e-4, 2, batch=32) | prune(0.5, by="bn") | distill("kd", 7, batch=32) | quantize(8)

.PHONY: setup demo test lint style types house docs clean
MAKEFLAGS += --jobs=2

setup: .venv/ready

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lissom needs Python 3.11 or newer; make PYTHON=python3.x names one")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/lissom run '$(DEMO)' --data digits --model resnet20 --to onnxruntime,openvino --store demo/store
	@echo; echo "The report:"; $(BIN)/lissom report --store demo/store -o demo/report.html

# Tests of files run in processes of their own. With every runtime loaded beside PyTorch, processes
# that had run all other tests have died of segmentation faults; which library is at fault is not known.
test: export OMP_NUM_THREADS = 1
test: lint
	$(BIN)/python -m pytest $(TWO) $(addprefix --ignore=,$(FILES) $(PAGE))
	$(BIN)/python -m pytest $(TWO) $(FILES)
	$(BIN)/python -m pytest $(PAGE)  # by itself, since it times a browser

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation: site/index.html; with search, python -m http.server -d site"

lint: style types house

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

types: setup
	$(BIN)/mypy

house: setup
	$(BIN)/python tools/check.py

clean:
	rm -rf .venv demo site .mypy_cache .ruff_cache .pytest_cache .hypothesis
