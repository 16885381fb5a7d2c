# make demo: set up and run the main job. make test: set up and run the suite. make check: the gate for people and CI.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
READY = $(VENV)/.ready
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = true

.PHONY: setup demo test check check-all docs bench mini mini-ship clean
.DEFAULT_GOAL := check

setup: $(READY)

# torch comes first and by its exact pin: a looser spelling pulls gigabytes of GPU packages
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,data,scale,serve]" --group dev --group docs
	touch $(READY)

demo: $(READY)
	$(BIN)/tain demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(MAKE) docs
	$(MAKE) test

# the gate, then the base install alone, the oldest versions that pyproject.toml allows, and the notebooks
check-all: check
	.ci/base_install.sh
	.ci/oldest.sh
	VENV=$(VENV) .ci/notebooks.sh

# the site, in site/; a dead link or an unknown name is an error
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(READY)
	$(BIN)/python benchmarks/run_all.py

# tain-mini: seven minutes on an H200, days on two cores; checkpoints every five minutes, goes on where it was
CORPUS ?= ../shared/corpus
PRETRAIN = $(BIN)/tain pretrain scratch $(filter-out $(wildcard $(CORPUS)/valid_*),$(wildcard $(CORPUS)/*.txt.xz)) \
	--settings benchmarks/tain_mini.toml $(foreach file,$(wildcard $(CORPUS)/valid_*.txt.xz),--validation $(file))
mini: $(READY)
	$(PRETRAIN) --output runs/mini $(if $(wildcard runs/.mini.pretrain/checkpoint),--resume)

# cools a copy of an unfinished run down, to TOKENS in all, into runs/mini-ship; the run itself stays as it is
TOKENS ?= 1e8
DECAY ?= 0.5
mini-ship: $(READY)
	test -d runs/.mini-ship.pretrain || cp -r runs/.mini.pretrain runs/.mini-ship.pretrain
	$(PRETRAIN) --output runs/mini-ship --overwrite --resume --tokens $(TOKENS) --decay-share $(DECAY)

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache
