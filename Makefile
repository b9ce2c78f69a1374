# Each target sets up what it needs; `make install` only does that.
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo/mobile-sam-openvino-fp32
PYTEST := $(BIN)/python -m pytest --durations=20
# Tests of one file share fixtures that take long to make, so they stay in one worker.
# Files run in their order: the quick ones come last, so that no worker ends long before the other.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: install demo test test-code test-weights test-slow test-fuzz coverage docs lint lint-fast requirements

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,dev,docs]'
	touch $@

demo: install
	$(BIN)/effsam fetch mobile-sam
	$(BIN)/effsam export mobile-sam --target openvino --output $(DEMO) --force
	$(BIN)/effsam run $(DEMO) calibration/images/coffee.jpg --box 320,215,412,332 --output demo/overlay.png
	$(BIN)/effsam verify $(DEMO)

# Unit and flow tests on tiny models.
test: install
	$(PYTEST) $(PARALLEL) -m "not weights and not slow and not compiler and not fuzz"

# The generated C++, Kotlin and JavaScript, compiled and run.
test-code: install
	$(PYTEST) $(PARALLEL) -m "compiler and not weights and not slow and not fuzz"

# The official MobileSAM on every backend, in INT8 too.
test-weights: install
	$(BIN)/effsam fetch mobile-sam
	$(PYTEST) $(PARALLEL) -m "weights"

# Every model end to end, and the largest ones against the authors' figures: hours on two cores.
# One worker: two of the largest models do not fit into memory together.
test-slow: install
	$(BIN)/effsam fetch mobile-sam
	$(PYTEST) -m "slow"

# Generated inputs for each reader of files: 20,000 for each, a quarter of an hour.
test-fuzz: install
	$(PYTEST) $(PARALLEL) -m "fuzz"

# Lines and branches of the package over all tiers, those that run in subprocesses too.
coverage: install
	$(BIN)/effsam fetch mobile-sam
	$(BIN)/coverage erase
	$(PYTEST) $(PARALLEL) --cov --cov-report= -m "not slow and not fuzz"
	$(PYTEST) --cov --cov-append --cov-report= -m "slow"
	$(BIN)/coverage report --skip-covered

# The documentation as a site in `site/`. With --quiet mkdocs does not count warnings, and --strict lets them pass.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Style and the import contract, in an environment of three linters: seconds on a fresh clone.
lint-fast: .venv-lint/installed
	.venv-lint/bin/ruff check .
	.venv-lint/bin/ruff format --check .
	.venv-lint/bin/lint-imports

.venv-lint/installed: requirements/lint.txt
	$(PYTHON) -m venv .venv-lint
	.venv-lint/bin/pip install --quiet --require-hashes --requirement requirements/lint.txt
	touch $@

lint: lint-fast install
	$(BIN)/mypy

# Pinned versions with hashes, from constraints.txt and the package index.
requirements: install
	requirements/compile
