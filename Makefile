# Everything a newcomer needs: `make demo`, `make test`. The tested versions are pinned in .ci/constraints.txt;
# `make CONSTRAINTS= test` takes the newest that pyproject.toml allows.
PYTHON ?= python3
CONSTRAINTS ?= .ci/constraints.txt
PIP = .venv/bin/python -m pip --disable-pip-version-check --quiet install $(addprefix -c ,$(CONSTRAINTS))

# Compiled files are kept, wherever a container says not to: every test process would compile all of them anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test sweep matrix power families fuzz lint format bench docs commands snapshots gallery web lowest site release clean

demo: .venv/package
	.venv/bin/attnviz score --head 0
	.venv/bin/attnviz plot --head all -o demo.png

test: .venv/tests
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --dist worksteal $(PYTEST)  # a worker a core: more threads would fight

sweep: .venv/tests  ## Every case of the tests of which `make test` runs a covering part, and more random examples; ten minutes.
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --dist worksteal --sweep $(PYTEST)

matrix: .venv/tests  ## Every combination of what `make test` covers in pairs; about an hour.
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto -m matrix $(PYTEST)

# Threads that wait for work leave the cores to others: those of kernels that run on two of them, a worker a core beside.
power: .venv/tests  ## Every planted fault in every dtype, length and output, and right kernels over many seeds; half an hour.
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive .venv/bin/python -m pytest -n auto --dist worksteal -m power $(PYTEST) tests/compare

fuzz: .venv/tests  ## Thousands of files and options made to break it; `make fuzz SEED=7 CASES=20000` draws others, and more.
	OMP_NUM_THREADS=1 SEED=$(SEED) CASES=$(CASES) .venv/bin/python -m pytest -n auto -m fuzz $(PYTEST) tests/fuzz

families: .venv/models  ## Captures a tiny model of every family of transformers and writes docs/families.md; ten minutes.
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto -m families $(PYTEST) tests/captures
	OMP_NUM_THREADS=1 .venv/bin/python -W ignore -m tests.captures.every

snapshots: .venv/tests  ## Rewrites the snapshots and what the docs show; read the difference before you commit it.
	.venv/bin/python -m pytest -n 0 --sweep --snapshot-update tests/snapshots tests/testing/test_plugin.py tests/test_docs.py

gallery: .venv/tests  ## Rewrites docs/gallery.md and its pictures, all of real heads; look at them before you commit.
	.venv/bin/python examples/gallery.py

docs: .venv/tests commands  ## Writes docs/commands.md and docs/python.md, and runs what the docs show.
	.venv/bin/python -m pytest -n auto --dist worksteal --sweep tests/test_docs.py

commands: .venv/package  ## Writes docs/commands.md and docs/python.md from the program.
	.venv/bin/python -m attnviz.cli.manual docs/commands.md
	.venv/bin/python -m attnviz.cli.names docs/python.md

lint: .venv/lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/vulture

format: .venv/lint
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/tests  ## Prints the table of docs/benchmarks.md and writes benchmarks/results.json.
	.venv/bin/python -m benchmarks

lowest: .venv-lowest/tests  ## The tests with the lowest versions that pyproject.toml allows (.ci/lowest.txt), those of what is drawn apart.
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n auto --dist worksteal -p no:cacheprovider $(LOWEST)

# What pins versions of its own is left to `make test`: pictures and snapshots, documentation, a browser, whole models.
LOWEST ?= tests/attention tests/base tests/cli tests/compare tests/engine tests/maps tests/measures tests/plots tests/sources

site: .venv/tests  ## The documentation as a site, site/html/index.html; a link that leads nowhere ends it.
	$(PIP) --editable '.[docs]'
	.venv/bin/python .ci/site.py

release: .venv/tests  ## Builds dist/, and tries the wheel and the sdist in clean environments, outside the checkout.
	$(PIP) --editable '.[release]'
	rm -rf dist
	.venv/bin/python -m build --outdir dist .
	.venv/bin/python -m twine check --strict dist/*
	.venv/bin/python .ci/release.py

web: web/node_modules/.package-lock.json  ## Builds the interactive page into attnviz/pages/assets; needs node.
	cd web && npm run --silent check && npm run --silent test && npm run --silent build

web/node_modules/.package-lock.json: web/package-lock.json
	cd web && npm ci --silent
	touch $@

# Each stamp says that this much is installed, and is as new as what decides it.
.venv/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "attnviz needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/package: .venv/python pyproject.toml $(CONSTRAINTS)
	$(PIP) --editable .
	touch $@

.venv/tests: .venv/python pyproject.toml $(CONSTRAINTS)
	$(PIP) --editable '.[test]'
	touch .venv/package $@

.venv/models: .venv/tests
	$(PIP) --editable '.[test,models]'
	touch $@

.venv/lint: .venv/tests
	$(PIP) --editable '.[test,lint]'
	touch $@

.venv-lowest/tests: pyproject.toml .ci/lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip --disable-pip-version-check --quiet install -c .ci/lowest.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-lowest dist site demo.png
