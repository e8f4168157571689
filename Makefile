# Two targets for a stranger: `make gate` runs the main job on the embedded checkpoint, `make test` the tests.
# The CPU build of torch is enough for both. PYTHON chooses the interpreter, TORCH what pip installs as torch.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
OUT ?= gate-out
ROOMS ?= parity packs judge rewrite
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The tests start some hundred processes: each would compile the gate's modules again where the environment forbids to keep
# what was compiled.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup gate test test-all tests test-long test-kill test-versions test-browser picture mutants gpu-test attacks fuzz lint docs clean

setup: $(READY)

# torch goes first and by name, so that a build chosen by the user is not replaced. pip says what it does: it is minutes.
$(READY): pyproject.toml
	@echo '== $(VENV): a Python environment with torch, then eaftgate and what it needs'
	@$(PYTHON) -c 'import sys; sys.exit("eaftgate needs Python 3.11 or later: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[test]'
	@touch $@

# profile -> prune to 24 -> gate -> report -> lock, with the command that works on any checkpoint. Given again after an
# interruption it goes on where it was, and what is finished is used as it is; remove $(OUT) to start from nothing.
gate: $(READY)
	@mkdir -p $(OUT) && ln -sf run/parity.json $(OUT)/parity.json
	$(BIN)/eaftgate run recipes/demo.yaml --out $(OUT)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# At most 6 minutes on two quiet cores. What is slow by nature is left to test-all, which is what CI runs.
test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not slow" --ignore=tests/browser tests/

test-all: lint tests

tests: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not long" --ignore=tests/browser tests/

# What takes more than a minute each: verdicts at every budget, all stages killed and interrupted, a disk that
# is full.
test-long: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m long --ignore=tests/browser tests/

# Every command that writes, killed at 20 moments and on a disk that is full: given again, it ends as if nothing had been.
test-kill: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q --moments=20 tests/kill

# report.html in Chromium: needs Debian's chromium and npm, which brings axe-core. A minute; pictures lie in $(OUT)/browser.
AXE := $(OUT)/browser/package/axe.min.js

$(VENV)/.browser: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[browser]'
	@touch $@

$(AXE):
	mkdir -p $(OUT)/browser
	cd $(OUT)/browser && tar -xzf "$$(npm pack --silent axe-core@4.14.1)" package/axe.min.js

test-browser: $(AXE) $(VENV)/.browser
	$(BIN)/python -m pytest -q tests/browser --axe=$(AXE) --screenshots=$(OUT)/browser

# The picture in README.md, from a stored run.
picture: $(VENV)/.browser
	$(BIN)/python tests/browser/picture.py

# The lowest and the newest declared pytest, pydantic, pyarrow, transformers, by the tests that concern them.
test-versions: $(READY)
	$(BIN)/python .ci/versions.py

# Which change of a line would no test notice? Each room by its own tests, in a copy of what git tracks; what was found
# stays there, so that the same command goes on. CONTRIBUTING.md has the scores.
mutants: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mutants]'
	for room in $(ROOMS); do \
	  work=$(OUT)/mutants/$$room; mkdir -p $$work; git ls-files -z | tar -c --null -T - | tar -x -C $$work || exit 1; \
	  sed "s/ROOM/$$room/" tests/mutmut.toml >> $$work/pyproject.toml; \
	  (cd $$work && $(abspath $(BIN))/mutmut run && $(abspath $(BIN))/mutmut results) || exit 1; \
	done

# Tables and reference of the documents, from docs/data and the code.
docs: $(READY)
	$(BIN)/python docs/tables.py

# Every attack of tests/attacks, and the table of docs/attacks.md from what came of them.
attacks: $(READY)
	PYTHONPATH=.:tests $(BIN)/python -m attacks --out docs/data/attacks.json
	$(BIN)/python docs/tables.py

# A minute of bytes that nobody has thought of for each parser; what breaks one is kept in $(OUT)/fuzz.
fuzz: $(READY)
	PYTHONPATH=.:tests $(BIN)/python -m fuzz --seconds 60 --out $(OUT)/fuzz

# Everything that needs a GPU (an H100 or H200, SGLang installed); fails without one.
gpu-test: $(READY)
	mkdir -p $(OUT)
	PYTHONPATH=.:tests $(BIN)/python benchmarks/h200.py --device cuda --work $(OUT)/gpu --out $(OUT)/gpu.jsonl
	PYTHONPATH=.:tests $(BIN)/python benchmarks/h200_sglang.py --work $(OUT)/gpu --out $(OUT)/gpu.jsonl --record $(OUT)/answer.json
	$(BIN)/python -m pytest gates/ -q --collector=sglang --results=$(OUT)/gpu-gate

clean:
	rm -rf $(OUT) $(VENV) results
