# make demo   sets everything up and runs the whole line on the embedded model and data
# make test   sets everything up and passes every test
# Both install into .venv, which belongs to this project alone.

PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo test test-faults quick check format browser lock gpu-kit

demo: .venv/command
	$(PY) -m jobs.run --config configs/quickstart.yaml

# Two files at a time, as tests of the doors wait for processes to start as long as they compute; these are first in order.
PYTEST := $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: check browser .venv/trackers/ready
	$(PYTEST) --durations=40

quick: .venv/tools .venv/trackers/ready
	$(PYTEST) -m "not e2e"

# Every fault again and again: TIMES rounds; then killed scorers, drivers and workers, and step 0's
# check in bfloat16, of the demo model.
TIMES ?= 5
FAULTS := $(wildcard tests/e2e/test_*faults.py) $(patsubst %,tests/e2e/test_%.py,nodes store judge asked malformed)
test-faults: .venv/tools .venv/trackers/ready
	for round in $$(seq $(TIMES)); do $(PYTEST) $(FAULTS) || exit 1; done
	$(PY) -m pytest --real-model -k "killed and not generator" tests/e2e/test_faults.py tests/e2e/test_train_faults.py
	$(PY) -m pytest --real-model tests/e2e/conftest.py tests/pipeline/training/test_parity.py

check: .venv/tools
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: .venv/tools
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.venv/ready: requirements/cpu.txt requirements/owners.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	PYTHON=$(PYTHON) docker/install.sh python cpu .venv
	touch .venv/ready

# The command `widemargin`, in .venv/bin: the package as it stands here, so that a change of code changes it.
.venv/command: .venv/ready pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch .venv/command

# What tests compare with, and the checks. The line needs none of it. Peers are apart, for the tests that ask for them:
# transformers imports scikit-learn wherever it finds it.
.venv/tools: .venv/command requirements/dev.txt requirements/peers.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/dev.txt
	rm -rf .venv/peers
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/peers -r requirements/peers.txt
	touch .venv/tools

# Trackers' own packages, for the tests that read back what they were sent; apart, as the line runs without any.
.venv/trackers/ready: .venv/ready requirements/trackers.txt
	rm -rf .venv/trackers
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/trackers -r requirements/trackers.txt
	touch .venv/trackers/ready

# The report's test drives a real browser: Debian's Chromium is fetched where there is none and we may install it.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	else echo "no Chromium here: the browser test will be skipped (Debian: apt-get install chromium)"; fi

# What a GPU machine without a network lacks, as wheels: they travel in an ignored folder, for its Python 3.12.
KIT := ^(pydantic|pydantic-core|annotated-types|typing-inspection|liger-kernel)==
gpu-kit: .venv/ready
	$(PY) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
	  --implementation cp --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
	  -d .gpu-kit $$(grep -hE '$(KIT)' requirements/gpu.txt)
	@echo 'with .gpu-kit beside the repository, there:'
	@echo 'python3 -m pip install -q --no-index --no-deps --target /tmp/kit .gpu-kit/*.whl && PYTHONPATH=/tmp/kit python3 -m benchmarks.gpu --out FOLDER'

# The lock files, generated from pyproject.toml.
COMPILE := .venv/bin/uv pip compile --quiet --no-header --no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_28
lock: .venv/tools
	$(COMPILE) pyproject.toml --extra cpu --extra demo --override requirements/not-locked.txt -o requirements/cpu.txt
	$(COMPILE) --group dev -c requirements/cpu.txt --override requirements/not-locked.txt -o requirements/dev.txt
	$(COMPILE) --group peers -c requirements/cpu.txt --no-emit-package numpy --no-emit-package narwhals -o requirements/peers.txt
	$(COMPILE) --group trackers -c requirements/cpu.txt -c requirements/dev.txt --override requirements/not-locked-trackers.txt -o .venv/trackers.txt
	cat requirements/cpu.txt requirements/dev.txt | grep -vxFf - .venv/trackers.txt > requirements/trackers.txt  # what .venv has not
	$(COMPILE) pyproject.toml --extra gpu --extra demo --override requirements/not-locked-gpu.txt -o requirements/gpu.txt
