# The verbs of this repository. `make run` is all one needs to look around.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PORT ?= 8000
TESTS ?=
JOBS ?= 2

# An installation is known by the content of its requirements, so the second time costs nothing.
RUN_KEY := $(shell cat requirements.txt | cksum | cut -d' ' -f1)
DEV_KEY := $(shell cat requirements.txt requirements-dev.txt | cksum | cut -d' ' -f1)
RUN_STAMP := $(VENV)/.run-$(RUN_KEY)
DEV_STAMP := $(VENV)/.dev-$(DEV_KEY)

# Translations are compiled where they are older than their source; no gettext is needed for that.
MO := $(patsubst %.po,%.mo,$(wildcard locale/*/LC_MESSAGES/*.po))

# Where `make test-services` finds the services.
POSTGRES ?= postgres://postgres@127.0.0.1:5432/postgres
REDIS ?= redis://127.0.0.1:6379/8
REDIS_CACHE ?= redis://127.0.0.1:6379/9
RABBITMQ ?= amqp://guest:guest@127.0.0.1:5672//

# Clients of the hub protocol that are not the newest, each in an environment of its own.
CLIENTS := 1.19.0 0.36.2

.PHONY: help install run test test-services test-clients clients browser gettext lint format bench demo messages compiled clean

help:
	@echo "make run            the site on http://localhost:$(PORT)  (PORT=…)"
	@echo "make test           the tests  (TESTS=tests/house, JOBS=2)"
	@echo "make test-services  the tests that need PostgreSQL, Redis and RabbitMQ"
	@echo "make test-clients   the hub protocol with older clients, and with gigabytes"
	@echo "make lint           style, types, imports, migrations"
	@echo "make format         lets ruff repair what it can"
	@echo "make bench          the benchmarks"
	@echo "make demo           trains the demo vectors again"
	@echo "make messages       collects and compiles the translations"
	@echo "make install        everything for development, into $(VENV)"
	@echo "make clean          removes what was made, but neither data/ nor $(VENV)"

install: $(DEV_STAMP)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): | $(BIN)/python
	$(PIP) -r requirements.txt
	@rm -f $(VENV)/.run-*
	@touch $@

$(DEV_STAMP): | $(BIN)/python
	$(PIP) -r requirements-dev.txt
	@rm -f $(VENV)/.run-* $(VENV)/.dev-*
	@touch $@ $(RUN_STAMP)

# The development set holds the run-time set: either stamp will do.
PROGRAMS := $(if $(wildcard $(DEV_STAMP)),$(DEV_STAMP),$(RUN_STAMP))

run: $(PROGRAMS) $(MO)
	@PORT=$(PORT) exec $(BIN)/python manage.py serve

%.mo: %.po | $(PROGRAMS)
	@$(BIN)/python -c "import polib, sys; polib.pofile(sys.argv[1]).save_as_mofile(sys.argv[2])" $< $@

test: install browser gettext $(MO)
	$(BIN)/python -m pytest -n $(JOBS) $(TESTS)

# Finds Chromium and a font with Chinese glyphs, or installs them where that is allowed.
browser:
	@have() { { command -v chromium || command -v chromium-browser || command -v google-chrome; } \
	    && fc-list :lang=zh | grep -q .; }; \
	if have >/dev/null 2>&1; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends \
	        chromium fontconfig fonts-noto-cjk; \
	else \
	    echo "The browser tests need Chromium and a Chinese font:"; \
	    echo "    sudo apt-get install chromium fonts-noto-cjk"; \
	    exit 1; \
	fi

# Finds the programs that collect texts, or installs them where that is allowed.
gettext:
	@if command -v xgettext >/dev/null && command -v msguniq >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends gettext; \
	else \
	    echo "Collecting the texts needs gettext:  sudo apt-get install gettext"; \
	    exit 1; \
	fi

test-services: install $(MO)
	@$(BIN)/python -m tests.services $(POSTGRES) $(REDIS) $(RABBITMQ)
	ARMORY_DATABASE=$(POSTGRES) ARMORY_BROKER=$(REDIS) \
	    $(BIN)/python -m pytest -n $(JOBS) -m "database and not services and not browser and not clients" $(TESTS)
	ARMORY_DATABASE=$(POSTGRES) ARMORY_BROKER=$(REDIS) ARMORY_CACHE=$(REDIS_CACHE) \
	    $(BIN)/python -m pytest -m services $(TESTS)
	ARMORY_DATABASE=$(POSTGRES) ARMORY_BROKER=$(RABBITMQ) \
	    $(BIN)/python -m pytest -m services $(TESTS)

clients: $(CLIENTS:%=.cache/clients/%/.ready)

.cache/clients/%/.ready:
	@rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check huggingface_hub==$*
	@touch $@

test-clients: install clients $(MO)
	$(BIN)/python -m pytest -n $(JOBS) -m clients $(TESTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py check --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m benchmarks --write-results

demo: install
	$(BIN)/python -m demo.train

# Source strings are English; the two Chinese files are written by hand in locale/. Collecting
# needs gettext's own programs, compiling does not.
messages: install gettext
	@mkdir -p locale
	$(BIN)/python manage.py makemessages --ignore "$(VENV)"
	@$(MAKE) --no-print-directory compiled

compiled: $(MO)

clean:
	rm -rf .ruff_cache .mypy_cache .pytest_cache .import_linter_cache .hypothesis staticfiles
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
