# make setup   the virtual environment in .venv, with everything that development needs
# make demo    train on the glyphs of matplotlib's fonts and evaluate: no download, one CPU core is enough
# make lint    format, style and types
# make test    lint, then the tests
# make bench   every benchmark beside its peer, in little: one line of JSON each (installs the peers)

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo lint test bench

setup: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv .venv

# The stamp is as old as the last install, so a second call does nothing until pyproject.toml changes.
$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e '.[dev]'
	@touch $@

demo: setup
	rm -rf runs/demo
	$(BIN)/selfsup train simclr --data sample:glyphs --out runs/demo
	$(BIN)/selfsup eval runs/demo --labels 100%

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/basedpyright

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup

bench: setup
	$(BIN)/python -m pip install -q -e '.[bench]'
	for name in views simclr mae dino causal_lm masked_lm tokens encode contrastive_text mine word2vec index; do $(BIN)/python benchmarks/$$name.py --quick || exit 1; done
