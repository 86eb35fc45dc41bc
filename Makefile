# Six entry points; the plain commands behind them stand in docs/results.md.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: api-docs demo demo-photos demo-reconstruction docs-test test

demo: .venv/installed
	$(BIN)/python -m render.demo

# photographs or a video of your own: make demo-photos DEMO_PHOTOS=DIR
demo-photos: .venv/installed
	$(if $(DEMO_PHOTOS),,$(BIN)/python -m data.download stone_sign --out runs/photos/stone_sign)
	$(BIN)/python -m render.photos "$(or $(DEMO_PHOTOS),runs/photos/stone_sign/stone_sign.mp4)" --out runs/demo_photos

# the shipped MapAnything on a room it has not seen, from more and more inputs
demo-reconstruction: .venv/installed
	$(BIN)/python -m render.reconstruction_demo

# what README, docs/, docstrings, configs and notebooks show: every command at toy size, launchers, citations, examples
docs-test: .venv/installed
	$(BIN)/python -m pytest -rfE --durations=10 \
		tests/test_documented_commands.py tests/test_docs.py tests/test_extending.py tests/test_troubleshooting.py \
		tests/test_notebooks.py tests/training/test_launch.py

# pages of all public classes and functions, from their docstrings, in runs/api
api-docs: .venv/installed
	$(BIN)/python -m pdoc -d google -o runs/api geometry models data training render

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest

# uv only for speed: it downloads in parallel and links from its cache
.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e .[test]
	touch $@
