# Every target makes the virtual environment first if it is not there: Python 3.11+, git and make are all that is assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ISAACLAB_VENV := .venv-isaaclab
MJLAB_VENV := .venv-mjlab
BENCH_VENV := .venv-bench
EXAMPLES_VENV := .venv-examples
DOCS_VENV := .venv-docs
DOCS_STAMP := $(DOCS_VENV)/.installed
DIST_VENV := .venv-dist
OLDEST_VENV := .venv-oldest
BENCH_STAMP := $(BENCH_VENV)/.installed
EXAMPLES_STAMP := $(EXAMPLES_VENV)/.installed
ISAACLAB_STAMP := $(ISAACLAB_VENV)/.installed
MJLAB_STAMP := $(MJLAB_VENV)/.installed

# Without ensurepip, which Debian packs separately, venv leaves an environment that has no pip behind.
make_venv = $(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(1) || { \
	echo "$(PYTHON) cannot make a virtual environment with pip. On Debian and Ubuntu: sudo apt install python3-venv" >&2; \
	exit 1; }

# A process for each core, each with its own files: they share fixtures.
PARALLEL := -n auto --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help venv venv-isaaclab venv-mjlab venv-examples demo test test-slow test-isaaclab test-mjlab test-examples check format docs dist test-oldest bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(STAMP)  ## make the virtual environment

# torch goes in together with everything else under the constraints, so that nothing pulls another build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ...")'
	@$(call make_venv,$(VENV))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch -e '.[all,dev]'
	@touch $@

venv-isaaclab: $(ISAACLAB_STAMP)  ## make the virtual environment with Isaac Lab (CPU, without Isaac Sim)

venv-mjlab: $(MJLAB_STAMP)  ## make the virtual environment with mjlab (CPU)

venv-examples: $(EXAMPLES_STAMP)  ## make the virtual environment with tasks that others wrote

demo: $(STAMP)  ## train and evaluate the quick start (minutes, no network needed)
	$(BIN)/defm-rl train experiment=quickstart

test: $(STAMP)  ## run the tests (minutes)
	$(BIN)/python -m pytest $(PARALLEL)

test-slow: $(STAMP)  ## run the tests that `make test` leaves out: exhaustive sweeps, large networks
	$(BIN)/python -m pytest -m slow $(PARALLEL)

test-isaaclab: $(ISAACLAB_STAMP)  ## run the tests against Isaac Lab (an environment of its own, on the CPU, without Isaac Sim)
	$(ISAACLAB_VENV)/bin/python -m pytest tests/isaaclab

test-mjlab: $(MJLAB_STAMP)  ## run the tests against mjlab (an environment of its own, on the CPU)
	$(MJLAB_VENV)/bin/python -m pytest tests/mjlab

test-examples: $(EXAMPLES_STAMP)  ## run the examples on tasks that others wrote (an environment of its own)
	$(EXAMPLES_VENV)/bin/python -m pytest tests/examples

# The simulators' pins differ from ours, and from each other's. Their Warp kernels are compiled once and kept in
# ~/.cache/warp (or WARP_CACHE_PATH).
$(ISAACLAB_STAMP) $(MJLAB_STAMP): .venv-%/.installed: pyproject.toml tests/%/requirements.txt tests/%/requirements-no-deps.txt
	@$(call make_venv,.venv-$*)
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r tests/$*/requirements.txt
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python \
		-r tests/$*/requirements-no-deps.txt -e .
	@touch $@

check: $(STAMP)  ## formatting, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DOCS_STAMP)  ## build the documentation's site into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --quiet --strict

$(DOCS_STAMP): docs/requirements.txt
	@$(call make_venv,$(DOCS_VENV))
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	@touch $@

dist:  ## build wheel and sdist, check them, and run the quick start for a few steps from the wheel in a clean environment
	rm -rf dist build $(DIST_VENV)
	@$(call make_venv,$(DIST_VENV))
	$(DIST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r packaging/requirements.txt
	$(DIST_VENV)/bin/python -m build --outdir dist .
	$(DIST_VENV)/bin/python -m twine check --strict dist/*
	rm -rf $(DIST_VENV)
	@$(call make_venv,$(DIST_VENV))
	$(DIST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch "$$(echo dist/*.whl)[experiments]"
	$(call a_few_steps,$(DIST_VENV))

# The quick start, but shorter, away from the checkout, so that nothing but what is installed can be found.
a_few_steps = cd "$$(mktemp -d)" && $(abspath $(1))/bin/defm-rl train experiment=quickstart encoder.weights=random \
	env.num_envs=4 algo.n_steps=32 algo.total_steps=128 evaluation.episodes=4 evaluation.clips=0

# The constraints, but for what packaging/oldest.txt names.
test-oldest:  ## run the wrappers' tests and the quick start with the oldest gymnasium and Stable-Baselines3
	@$(call make_venv,$(OLDEST_VENV))
	grep -viE "^($$(sed 's/==.*//' packaging/oldest.txt | tr '_\n' '.|')none)==" constraints.txt | cat - packaging/oldest.txt > $(OLDEST_VENV)/constraints.txt
	$(OLDEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c $(OLDEST_VENV)/constraints.txt \
		torch -e '.[experiments,deploy]' pytest
	$(OLDEST_VENV)/bin/python -m pytest -q tests/test_gymnasium.py tests/test_observations.py tests/sb3
	$(call a_few_steps,$(OLDEST_VENV))

bench: $(BENCH_STAMP)  ## run the benchmarks against the published package, one after the other
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BENCH_VENV)/bin/python $$file || exit 1; done
	$(BENCH_VENV)/bin/python benchmarks/tables.py

# The published package for comparison, and the tasks of others: each on top of the project's environment, without what
# they ask for, such as another torch.
$(BENCH_STAMP): $(STAMP) benchmarks/requirements.txt
$(EXAMPLES_STAMP): $(STAMP) tests/examples/requirements.txt
$(BENCH_STAMP) $(EXAMPLES_STAMP): .venv-%/.installed:
	@$(call make_venv,.venv-$*)
	@$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
		> "$$(.venv-$*/bin/python -c 'import site; print(site.getsitepackages()[0])')/defm_rl.pth"
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		-r $(lastword $(filter %.txt,$^))
	@touch $@

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) $(ISAACLAB_VENV) $(MJLAB_VENV) $(BENCH_VENV) $(EXAMPLES_VENV) $(DOCS_VENV) $(DIST_VENV) $(OLDEST_VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist site *.egg-info
