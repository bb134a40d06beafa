# The two commands of the README are `make demo` and `make test`. Each installs what it needs into .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-faults test-cluster test-browser test-all test-fast check bench bench-data bench-train \
	bench-checkpoint bench-recovery docs clean

demo: $(VENV)/.installed
	$(BIN)/headrace run recipes/demo.yaml

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not long"

# Every fault that a run is to survive, one after the other.
test-faults: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m faults

# On separate hosts in network namespaces, one of which is cut off; needs root.
test-cluster: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m hosts

# The pages in Debian's browser: apt-get install chromium chromium-driver.
test-browser: $(VENV)/.installed-browser
	$(BIN)/python -m pytest -m browser

test-all: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not browser"

# No Ray, no process group, no server: what can be run after every edit.
test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow and not long"

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_house.py

# Everything that is measured, beside the peers, one after the other: hours. What fails is told at the end.
bench: $(VENV)/.installed-test .venv-peers/.installed .venv-train-peers/.installed
	status=0; for part in data train checkpoint faults reading chaos generation activations; do \
		$(BIN)/python -m benchmarks.$$part || { echo "benchmarks.$$part has failed" >&2; status=1; }; \
	done; exit $$status

# Beside the peers, which have an environment of their own. BENCH=--quick: little data; BENCH="--text FILE ...": your text.
bench-data: $(VENV)/.installed-test .venv-peers/.installed
	$(BIN)/python -m benchmarks.data $(BENCH)

# Hours: BENCH="--only memory" measures a part, BENCH=--quick shows that every arm runs.
bench-train: $(VENV)/.installed-test .venv-train-peers/.installed
	$(BIN)/python -m benchmarks.train $(BENCH)

# Beside the training peers, likewise. BENCH=--quick, BENCH="--seed N".
bench-checkpoint: $(VENV)/.installed-test .venv-train-peers/.installed
	$(BIN)/python -m benchmarks.checkpoint $(BENCH)

bench-recovery: $(VENV)/.installed-test .venv-train-peers/.installed
	$(BIN)/python -m benchmarks.faults $(BENCH)

docs: $(VENV)/.installed
	$(BIN)/python -m docs.generate

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[test]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-browser: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[browser]'
	touch $(VENV)/.installed $(VENV)/.installed-test $@

.venv-peers/.installed: benchmarks/data/peers.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 numpy==2.1.3
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	touch $@

.venv-train-peers/.installed: benchmarks/train/peers.txt
	test -x .venv-train-peers/bin/python || $(PYTHON) -m venv .venv-train-peers
	.venv-train-peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 setuptools==84.2.1
	.venv-train-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

clean:
	rm -rf $(VENV) .venv-peers .venv-train-peers build *.egg-info
