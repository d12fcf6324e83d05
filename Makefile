# make demo       synthetic clips -> catalog -> masks -> pairs -> 30 steps of Video-As-Prompt -> samples, all on a CPU
# make test       the whole suite        make test-fast   without the slow tests        make lint   ruff
# make miniature  the benchmark: one table of what masks, captions and references do (long)
# make tiny-models   trained weights for the tiny models from nothing (about an hour on two cores)
#
# Each sets up what it needs: the virtual environment .venv, and in it this project with the versions of
# constraints.txt. PYTHON=python3.12 picks an interpreter; PYTEST_ARGS="-k cuts" narrows a test run; two
# test files run side by side (TEST_WORKERS=0: one after the other, with their output).

PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$each"; break; }; done)
VENV := .venv
INSTALLED := $(VENV)/.installed
PYTEST_ARGS ?=
TEST_WORKERS ?= 2
PYTEST := $(VENV)/bin/python -m pytest --numprocesses $(TEST_WORKERS) --no-loadscope-reorder

# One thread per process: the workers share the machine, and a repeated build repeats its bytes.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint miniature tiny-models

help:
	@sed -n '1,8s/^# \{0,1\}//p' Makefile

setup: $(INSTALLED)

demo: $(INSTALLED)
	$(VENV)/bin/vapdata build --source miniature --root demo/videos --catalog demo/catalog --recipe miniature --set miniature.count=104
	$(VENV)/bin/vapdata query --catalog demo/catalog \
		"select clip_id, round(motion, 2) as motion, role, left(text, 64) as caption from clips_wide left join captions using (clip_id) order by motion desc limit 8"
	$(VENV)/bin/python -m train.masks --catalog demo/catalog --out demo/masks.png
	$(VENV)/bin/vapdata pairs --catalog demo/catalog --provider mined
	$(VENV)/bin/python -m train.vap --catalog demo/catalog --recipe vap-miniature --out demo/run --steps 30 $(if $(wildcard demo/run/config.json),--resume)
	$(VENV)/bin/python -m train.sample --run demo/run --pairs 4 --steps 20 --guidance 2 --out demo/samples

miniature: $(INSTALLED)
	$(VENV)/bin/python -m train.miniature --tier cpu --out miniature

tiny-models: $(INSTALLED)
	$(VENV)/bin/python -m train.miniature.make --work tiny-models

test: $(INSTALLED)
	$(PYTEST) $(PYTEST_ARGS)

test-fast: $(INSTALLED)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(VENV)/bin/python -m ruff check .

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing into $(VENV): some minutes the first time, torch alone is several GB."
	$(VENV)/bin/python -m pip install --editable '.[test,lint]' --constraint constraints.txt
	@touch $@

# bin/pip is the last thing that venv makes, so a half-made environment is made again.
$(VENV)/bin/pip:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer here. Type: sudo apt-get install -y python3 python3-venv" \
		"(Debian 12, Ubuntu 24.04 or newer), or name one: make PYTHON=/path/to/python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		package="python$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
		then apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq "$$package"; \
		else echo "$(PYTHON) cannot make a virtual environment. Type: sudo apt-get install -y $$package"; exit 1; fi; }
	"$(PYTHON)" -m venv $(VENV)
