# Commands for the platform on this machine. STACK=folder runs another stack beside the first.
# STACK_KIND=native|compose forces processes or containers. HISTORY=hours is the past of a new simulated field.
# SCALE="ingest-worker=3 …" sets replicas of containers.
STACK ?= .stack
HISTORY ?= 24
export ESP_STACK_FOLDER := $(abspath $(STACK))
export ESP_STACK_HISTORY_H := $(HISTORY)
INSTALL := deploy/native/install.sh
BIN := .venv/bin
CONSOLE := services/diagnostics
PACKAGES := $(wildcard libs/* services/*) deploy/platform deploy/native

.PHONY: help up down status logs unit test coverage check lint types fmt asyncapi locks images test-images test-compose bench evaluate clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {sub("%", "PACKAGE", $$1); printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up:  ## Start the platform and a simulated field, in containers where Docker can, else natively
	@deploy/stack.sh up $(addprefix --scale=,$(SCALE))

down:  ## Stop the platform; data stays
	@deploy/stack.sh down

status:  ## Show processes, storage engine, what was stored in the last minute, what waits
	@deploy/stack.sh status

logs:  ## Show the end of the logs (NAME=process for one, FOLLOW=1 to go on)
	@deploy/stack.sh logs $(NAME) $(if $(FOLLOW),--follow)

unit:  ## Run the quick unit tests: no servers, about a minute
	@$(INSTALL) dev
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --quiet -m "not slow" tests/unit $(PYTEST)

# ESP_TEST_ENGINES=postgres leaves out TimescaleDB, as on a machine without it.
# One more try for what real servers on a busy machine may miss by time; the summary counts such reruns.
test:  ## Install missing packages and run every test against real servers
	@$(INSTALL) dev
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --reruns 1 $(PYTEST)

test-%:  ## Run the unit, contract and integration tests of one package, such as ingest or common
	@$(INSTALL) dev
	@folders=$$(ls -d tests/unit/$* tests/contract/$* tests/integration/$* 2>/dev/null) || [ -n "$$folders" ] || \
	  { echo "There are no tests of \`$*\`; packages: $$(ls tests/unit | xargs)" >&2; exit 2; }; \
	  exec $(BIN)/pytest --numprocesses 2 --dist loadfile $$folders $(PYTEST)

# The rest of a package's data is of processes that tests started; each writes a file of its own.
coverage:  ## Measure covered lines, of processes started by tests too, by package (PYTEST=paths for some tests)
	@$(INSTALL) dev
	@rm -rf .coverage && mkdir -m 1777 .coverage
	@$(BIN)/coverage run -m pytest --numprocesses 2 --dist loadfile $(PYTEST)
	@$(BIN)/coverage combine --quiet
	@for package in $(PACKAGES); do \
	  if share=$$($(BIN)/coverage report --include="$$package/*" --format=total 2>/dev/null); then \
	  printf '%-22s %s %%\n' $$package "$$share"; fi; done
	@printf '%-22s %s %%\n' total "$$($(BIN)/coverage report --format=total)"

check: lint types  ## Lint and check types

lint:  ## Lint and check the format: Python, JavaScript, spelling, import directions, security, secrets
	@$(INSTALL) dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/lint-imports
	@$(BIN)/bandit --quiet --configfile pyproject.toml --recursive libs services deploy/platform/esp_platform deploy/native/esp_stack
	@$(BIN)/typos
	@cd $(CONSOLE) && node_modules/.bin/biome check --error-on-warnings
	@$(BIN)/hadolint deploy/images/Dockerfile deploy/compose/servers/Dockerfile
	@$(BIN)/gitleaks dir --no-banner --redact --verbose --log-level warn .
	@$(BIN)/gitleaks git --no-banner --redact --verbose --log-level warn .

types:  ## Check types (mypy --strict)
	@$(INSTALL) dev
	@$(BIN)/mypy

fmt:  ## Format Python, JavaScript, CSS and HTML, and apply the safe fixes of the linters
	@$(INSTALL) dev
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format
	@cd $(CONSOLE) && node_modules/.bin/biome check --write

asyncapi:  ## Write the AsyncAPI documents in docs/api anew
	@for service in ingest diagnostics auth archiver backup; do \
	  $(BIN)/esp-$$service asyncapi > docs/api/$$service.asyncapi.json || exit 1; done

locks:  ## Write the locks of the images anew, within requirements/base.txt
	@$(INSTALL) dev
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python requirements/images/lock.py

# Without an engine Debian's is started for the time of the command; see deploy/README.md.
images:  ## Build one image per service and print sizes (BASE=image, TAG=tag)
	@deploy/images/engine.sh deploy/images/build.sh $(SERVICES)

test-images:  ## Build the images and test them (BASE=image, TAG=tag)
	@$(INSTALL) python
	@deploy/images/engine.sh sh -c 'deploy/images/build.sh $(SERVICES) && exec $(BIN)/pytest tests/images'

test-compose:  ## Start the platform in containers and run the end-to-end tests against it
	@$(INSTALL) python
	@STACK_KIND=compose deploy/images/engine.sh $(BIN)/pytest tests/e2e

bench:  ## Measure against ceilings taken in the same run; prints ratios (BENCH=--quick or --full)
	@$(INSTALL) dev
	@$(BIN)/python tests/performance/run.py $(BENCH)

evaluate:  ## Judge diagnosis and anomaly detection on simulated faults and real data (EVALUATE=--quick)
	@$(INSTALL) dev
	@$(BIN)/python tests/evaluation/run.py $(EVALUATE)

clean:  ## Stop the platform and remove its data, credentials and logs
	@deploy/stack.sh clean
