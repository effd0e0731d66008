# make demo   the main job: fine-tune, compare, plot
# make test   lint, types, tests
# make docs   the documentation, in docs/_build
# make bench  the benchmark against transformers.Trainer
# make fuzz   10,000 combinations of parameters, sane and absurd; minutes
# make soak   many fits, predictions and kills: nothing grows, nothing is lost; minutes
# Each creates .venv and installs what it needs; a second run finds it installed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint docs bench fuzz soak clean

demo: $(VENV)/.demo
	$(BIN)/python examples/quickstart.py

# The tests last: pytest's summary is the last line. One thread a process, two processes; a file in
# one of them, whose tests share what they have fitted.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

bench: $(VENV)/.bench
	$(BIN)/python examples/benchmarks/finetune.py

fuzz: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/robustness/fuzzing.py --cases 10000 --jobs 2

soak: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/robustness/soak.py

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache docs/_build docs/generated examples/output

# A stamp says what is installed; it is out of date when the requirements have changed.
$(VENV)/.demo: EXTRAS := offline,plot
$(VENV)/.dev: EXTRAS := dev
$(VENV)/.bench: EXTRAS := offline,bench
$(VENV)/.demo $(VENV)/.dev $(VENV)/.bench: pyproject.toml $(VENV)/.torch
	$(INSTALL) -e '.[$(EXTRAS)]'
	@touch $@

# torch first and alone, so that nothing else chooses its build.
$(VENV)/.torch: constraints.txt $(VENV)/.created
	$(INSTALL) torch
	@touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@
