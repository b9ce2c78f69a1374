# `make demo` and `make test` set up what they need; `make install` only does that.
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo/mobile-sam-openvino-fp32

.PHONY: install demo test test-slow lint

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

demo: install
	$(BIN)/effsam fetch mobile-sam
	$(BIN)/effsam export mobile-sam --target openvino --output $(DEMO) --force
	$(BIN)/effsam run $(DEMO) calibration/images/coffee.jpg --box 320,215,412,332 --output demo/overlay.png
	$(BIN)/effsam verify $(DEMO)

test: install
	$(BIN)/effsam fetch mobile-sam
	$(BIN)/python -m pytest -m "not slow"

# Every model end to end, and the largest ones against the authors' figures: hours on two cores.
test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
