# make repro   the whole pipeline, from nothing to the report
# make check   format, lint, types and the fast tests: before a commit
# make test    the same and the slow tests: what CI runs
# Needs Python 3.11 (or 3.12, 3.13), git and make; everything else goes into .venv.

.DELETE_ON_ERROR:
.PHONY: help install history repro lint check test

# DVC runs its stages through /bin/sh: `python` must be ours there too.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export ITERATIVE_DO_NOT_TRACK := 1
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export GX_ANALYTICS_ENABLED := false

PIP := python -m pip --disable-pip-version-check install -q -q -c constraints.txt
STAMP = { echo "$(CURDIR)"; cat pyproject.toml constraints.txt; }

help:
	@sed -n '1,4s/^# //p' Makefile

# The stamp holds what was installed, so a second run needs no network and a moved folder is redone.
install:
	@if ! $(STAMP) | cmp -s - .venv/.installed; then \
	  set -e; \
	  PATH="$${PATH#*:}"; python=; \
	  for name in python3.11 python3 python3.12 python3.13; do \
	    "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null && \
	      { python=$$name; break; }; \
	  done; \
	  [ "$$python" ] || { echo "make: Python 3.11 is needed and not found" >&2; exit 2; }; \
	  echo "installing into .venv (some gigabytes; minutes)"; \
	  [ "$$(head -n 1 .venv/.installed 2> /dev/null)" = "$(CURDIR)" ] || \
	    "$$python" -m venv --clear .venv; \
	  PATH="$(CURDIR)/.venv/bin:$$PATH"; \
	  $(PIP) setuptools; \
	  $(PIP) --no-build-isolation -e '.[dev]'; \
	  admodels track migrate; \
	  $(STAMP) > .venv/.installed; \
	fi

# DVC wants a git repository with a commit; an unpacked archive has none.
history:
	@set -e; \
	[ -e .git ] || git init -q -b main; \
	git status --porcelain > /dev/null || \
	  { echo 'make: if git distrusts the owner: git config --global --add safe.directory "$(CURDIR)"' >&2; exit 2; }; \
	git rev-parse -q --verify HEAD > /dev/null || { \
	  git add -A; \
	  git -c user.name=admodels -c user.email=admodels@localhost -c commit.gpgsign=false \
	    commit -q --no-verify -m "Import"; }

repro: install history
	@admodels check
	@admodels repro
	@admodels track sync || case $$? in \
	  69|74) echo "the pipeline is done; only MLflow is behind: admodels track sync" >&2;; \
	  *) exit 1;; \
	esac
	@admodels report

lint: install
	@ruff check .
	@ruff format --check .
	@mypy

# Whole files in order, and the end of the longer queue to whoever is idle: a module's fixtures are
# built once, and no long file is the last one.
PYTEST := OMP_NUM_THREADS=1 pytest -q -n 2 --dist worksteal

check: lint
	@$(PYTEST) -m "not slow"

test: lint
	@$(PYTEST)
