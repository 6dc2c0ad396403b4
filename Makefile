# Two commands do everything on a fresh machine: make demo, make test. Help: make help.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Most modules are never imported: bytecode is compiled for those that are.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
# Its wheel carries the face detector's weights; its dependencies (gigabytes) are not needed.
FACE_WEIGHTS := --no-deps facenet-pytorch==2.5.3
# Few clips of few, small frames, so that the demo takes minutes on two cores.
DEMO_CLIPS := --clips_per_emotion 4
DEMO_FRAMES := --num_frames 6 --image_size 64
CODE := avjax configs tests tools
# Huge pages for the step's buffers: without them a third of a CPU step goes into page faults.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

.DEFAULT_GOAL := help
.PHONY: help setup demo voices test check format constraints clean

help:  ## Show this help.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP)  ## Install avjax and its tools into .venv.

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: avjax needs CPython 3.11 or newer, this is " + sys.version.split()[0] + "; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	$(PIP) $(FACE_WEIGHTS)
	@touch $@

demo: setup  ## Generate clips, prepare, train, evaluate; goes on where it was stopped.
	$(BIN)/python tools/make_demo_clips.py --out data/demo_clips $(DEMO_CLIPS)
	$(BIN)/python -m avjax.prepare --source data/demo_clips --out data/demo $(DEMO_FRAMES)
	$(BIN)/python -m avjax.train --config configs/demo.py --workdir runs/demo

voices: setup  ## Download RAVDESS's sound (208 MB), prepare, train, evaluate a voice model.
	$(BIN)/avjax download --out data/RAVDESS --sound_only
	$(BIN)/avjax prepare --source data/RAVDESS --out data/voices --log_mels 128
	$(BIN)/avjax train --config audio_only_strong --workdir runs/voices --config.data.dir=data/voices

test: setup  ## Run the tests.
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: setup  ## Lint, formatting, types.
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

format: setup  ## Format the code and mend what the linter can.
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

constraints:  ## Pin what a fresh install resolves to (constraints.txt).
	rm -rf build/constraints
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip --disable-pip-version-check install --quiet '.[dev,serve]'
	{ sed -n '/^#/p; /;.*python_version/p' constraints.txt; \
	  build/constraints/bin/python -m pip --disable-pip-version-check freeze --exclude avjax \
	  | grep '=='; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:  ## Remove the environment, the demo and what tools left behind.
	rm -rf $(VENV) build dist .*_cache data/demo data/demo.partial data/demo_clips runs/demo
