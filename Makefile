# Everything runs from .venv, which `make setup` builds with nothing but Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNS := tests/system/faults/test_runs.py tests/system/faults/test_upgrade.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz faults faults-one-by-one faults-in-runs soak unprotected resilience libvirt page bench check monitoring audit lock clean

help: ## Show what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: $(STAMP) ## Create .venv with everything pinned in requirements-dev.txt

$(STAMP): requirements-dev.txt pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "There is no $(PYTHON): install Python 3.11 or newer, or say where it is: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("cvmstop needs Python 3.11 or newer: make setup PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@echo "Setting up $(VENV) (once; about a minute) ..."
	@$(PYTHON) -m venv --clear $(VENV) || { echo "Python's venv does not work. On Debian and Ubuntu it is a package of its own: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . >$(VENV)/install.log 2>&1 || { cat $(VENV)/install.log >&2; exit 1; }
	@touch $@

demo: setup ## Start a whole stack, stop 150 CVMs on three hosts, show what failed and why (KEEP=1 leaves it up)
	@$(BIN)/cvmstop demo $(if $(KEEP),--keep)

test: setup ## Run the tests, on real PostgreSQL, Valkey, workers and HTTP
	@$(BIN)/pytest

fuzz: setup ## At least 20,000 requests made up from the OpenAPI document (SEED=N repeats a run, CASES=N)
	@$(BIN)/pytest tests/api/fuzz $(if $(SEED),--fuzz-seed=$(SEED)) $(if $(CASES),--fuzz-cases=$(CASES))

# Side by side, each with a cluster of its own: one mostly waits, the other mostly computes.
faults: setup ## Break every part in the middle of work: 2,000 stops a run (SEED=N repeats a run)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target faults-one-by-one faults-in-runs

faults-one-by-one: setup
	@$(BIN)/pytest tests/system/faults --ignore-glob='*/test_runs.py' --ignore-glob='*/test_upgrade.py' $(if $(SEED),--faults-seed=$(SEED))

faults-in-runs: setup
	@$(BIN)/pytest $(RUNS) $(if $(SEED),--faults-seed=$(SEED))

soak: setup ## The same with 20,000 stops a run: hours
	@$(BIN)/pytest $(RUNS) --stops=20000 $(if $(SEED),--faults-seed=$(SEED))

unprotected: setup ## Take each protection out of a copy, and show the test that goes red (ONLY=words)
	@$(BIN)/python -m tests.system.faults.unprotected $(if $(ONLY),--only="$(ONLY)")

resilience: setup ## Measure one black hole among ten hosts, and 50 clients for a minute
	@$(BIN)/python -m bench.bulkhead
	@$(BIN)/python -m bench.overload

libvirt: setup ## Stop real QEMU machines through libvirt (Debian, Ubuntu; installs what is missing, as root)
	@.ci/install-libvirt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --require-hashes -r requirements-libvirt.txt
	@$(BIN)/pytest tests/workers/drivers/libvirt tests/system/libvirt

page: setup ## Try the page in Chromium, on a whole stack (Debian; installs it if missing, as root)
	@.ci/install-chromium
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-page.txt
	@$(BIN)/pytest tests/page

bench: setup ## Measure every figure beside its goal, under fifteen minutes (ONLY=N one of them)
	@$(BIN)/python -m bench $(if $(ONLY),--only=$(ONLY))

check: setup ## Format, lint, types, layers, compose file, pinned set
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/bandit --quiet --configfile pyproject.toml --recursive api workers cli shared bench migrations
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	@$(BIN)/python -m pip check

monitoring: setup ## Check the alert rules, and try each of them, with promtool
	@.ci/install-promtool $(BIN)/promtool
	@$(BIN)/promtool check rules monitoring/alerts.yml
	@$(BIN)/promtool test rules monitoring/alerts_test.yml
	@$(BIN)/promtool check config --syntax-only monitoring/prometheus.yml

audit: setup ## Known vulnerabilities in the pinned set (asks the package index)
	@$(BIN)/python .ci/audit.py

lock: setup ## Pin again, with hashes and without naming an index
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command 'make lock' pyproject.toml -o requirements.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command 'make lock' --extra dev --extra bench -c requirements.txt pyproject.toml -o requirements-dev.txt
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["libvirt"], sep="\n")' | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command 'make lock' - -o requirements-libvirt.txt
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["page"], sep="\n")' | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command 'make lock' -c requirements-dev.txt - -o requirements-page.txt

clean: ## Remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
