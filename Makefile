# The one door: serve, test, unit, long, check, docs, record-exchanges, fuzz, soak, bench, faults, containers. Needs make and Python 3.11 or newer, nothing else.
# `make serve` installs what serving needs, `make docs` what the documentation needs; everything else installs the tools of
# the tests as well, into the same environment.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
HOST ?= 127.0.0.1
# As in: make serve PORT=9000. It moves every address; the others move one. Without any, 8080, 8081, 8082, 7070 and 7071.
PORT ?=
MANAGEMENT_PORT ?=
METRICS_PORT ?=
GRPC_PORT ?=
GRPC_MANAGEMENT_PORT ?=
PORTS = $(if $(PORT),--port $(PORT)) \
	$(if $(MANAGEMENT_PORT),--management-address http://127.0.0.1:$(MANAGEMENT_PORT)) \
	$(if $(METRICS_PORT),--metrics-address http://127.0.0.1:$(METRICS_PORT)) \
	$(if $(GRPC_PORT),--grpc-address $(HOST):$(GRPC_PORT)) \
	$(if $(GRPC_MANAGEMENT_PORT),--grpc-management-address 127.0.0.1:$(GRPC_MANAGEMENT_PORT))
# Passed to pytest, as in: make test ARGS="tests/engine -x"
ARGS ?=
UNIT := $(addprefix tests/,config core engine frontends ipc observability protocols server web worker_process workers)
# For how long `make fuzz` looks, and how much `make soak` asks.
FUZZ_SECONDS ?= 600
REQUESTS ?= 1000000

BIN := $(VENV)/bin
SERVING := $(VENV)/.serving
INSTALLED := $(VENV)/.installed
# An environment that has the tools of the tests can serve, too.
READY := $(or $(wildcard $(INSTALLED)),$(SERVING))
# It can write the documentation, too.
DOCUMENTING := $(or $(wildcard $(INSTALLED)),$(VENV)/.documenting)
# pip tells what it does on a terminal, with its bars; in a log only what goes wrong. (Standard output is make's here.)
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(shell [ -t 2 ] || echo --quiet)
DIGITS := examples/digits/digits.mar
DIGITS_FILES := $(addprefix examples/digits/,model.py digits.pt handler.py index_to_name.json model-config.yaml)

# Otherwise each of the thousands of processes that tests start compiles every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: serve test unit long check check-types check-rest docs record-exchanges fuzz soak bench bench-peers bench-cluster overload faults containers clean pictures install
.DELETE_ON_ERROR:

serve: $(READY) $(DIGITS)
	@echo "Once it is up, ask it from another terminal:"
	@echo "  curl http://$(HOST):$(or $(PORT),8080)/predictions/digits -T examples/digits/samples/7.png"
	@echo "  curl http://$(HOST):$(or $(PORT),8080)/explanations/digits -T examples/digits/samples/7.png"
	@echo "  curl http://$(HOST):$(or $(PORT),8080)/ping"
	$(BIN)/mooring serve $(DIGITS) --host $(HOST) $(strip $(PORTS))

test: check $(DIGITS)
	$(BIN)/pytest -n auto $(ARGS)

# In half a minute: what starts no process and waits for no connection, of everything between a socket and a model.
unit: $(INSTALLED)
	$(BIN)/pytest --unit --timeout 20 -q $(UNIT) $(ARGS)

# The same tests, but those that are repeated hundreds of times are repeated in full: workers killed, workers forked.
long: $(INSTALLED) $(DIGITS)
	$(BIN)/pytest -n auto --long $(ARGS)

# What the server answers on the wire, written anew to tests/exchanges/recorded. Read the difference before committing it.
record-exchanges: $(INSTALLED) $(DIGITS)
	PYTHONPATH=tests:tests/e2e $(BIN)/python -m exchanges.record $(ARGS)

fuzz: $(INSTALLED) $(DIGITS)
	$(BIN)/pytest --fuzz $(FUZZ_SECONDS) $(ARGS)

soak: $(INSTALLED)
	$(BIN)/python tests/soak/soak.py --requests $(REQUESTS) $(ARGS)

# The types take as long as all the rest, so they are checked beside it.
check: $(INSTALLED)
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target check-types check-rest

check-types:
	$(BIN)/mypy

check-rest:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/deptry src
	$(BIN)/codespell src docs tests examples benchmarks scripts *.md
	$(BIN)/python scripts/sizes.py

# The site with search, from docs/, in seconds: plain files in build/docs. A warning or a dead link is an error.
docs: $(DOCUMENTING)
	$(BIN)/python scripts/build_docs.py $(ARGS)

# The console's pictures in docs/pictures, anew: a test fails where the page has changed since they were taken. Look at them.
pictures: $(INSTALLED) $(DIGITS)
	$(BIN)/python scripts/screenshots.py $(ARGS)

bench: $(INSTALLED) $(DIGITS)
	$(BIN)/python benchmarks/run.py $(ARGS)

overload: $(INSTALLED)
	$(BIN)/python benchmarks/overload.py $(ARGS)

# Every fault on purpose, in at most ten minutes; writes docs/RELIABILITY.md. The short form is part of the tests.
# ARGS="--torchserve HOME" compares with the TorchServe of that virtual environment.
faults: $(INSTALLED)
	$(BIN)/python tests/faults/fault_suite.py $(ARGS)

# Builds the image, runs it and asks it: minutes, as root, with Debian's buildah and debootstrap. What it built stays in
# buildah's store, and makes the next run quick; `buildah rmi --all` removes it.
containers: $(INSTALLED) $(DIGITS)
	$(BIN)/pytest tests/deploy/test_image.py --containers -s $(ARGS)

# The peers are installed by it where they are not there: some ten gigabytes, and Java for TorchServe.
bench-peers: $(INSTALLED)
	$(BIN)/python benchmarks/peers/install.py
	$(BIN)/python benchmarks/compare.py $(ARGS)

# Needs root, for hosts in network namespaces; compares with Ray Serve, whose environment it makes, and uses Debian's haproxy.
bench-cluster: $(INSTALLED)
	$(BIN)/python benchmarks/peers/install.py ray_serve
	$(BIN)/python benchmarks/cluster.py $(ARGS)

install: $(INSTALLED)

clean:
	rm -rf $(VENV) $(DIGITS) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch by itself and first: a range in a list of requirements may fetch a CUDA build of several gigabytes.
$(SERVING): pyproject.toml constraints.txt
	@echo "Installing what serving needs into $(VENV), once: some 50 packages, 1.2 GB on the disk (more where pip takes"
	@echo "PyTorch for CUDA). It takes a minute or two, and what the download takes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "1 of 2: PyTorch ..."
	$(PIP) torch==2.13.0
	@echo "2 of 2: Mooring and what it needs ..."
	$(PIP) --constraint constraints.txt --editable .[torchserve,onnx]
	@echo "Installed $$(ls -d $(VENV)/lib/python3*/site-packages/*.dist-info | wc -l) packages, $$(du -sm $(VENV) | cut -f1) MB."
	@touch $@

# The documentation needs no model to run: neither PyTorch nor ONNX Runtime.
$(VENV)/.documenting: pyproject.toml constraints.txt
	@echo "Installing what the documentation needs into $(VENV), once: some 60 packages, 260 MB on the disk ..."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --editable .[docs]
	@echo "Installed $$(ls -d $(VENV)/lib/python3*/site-packages/*.dist-info | wc -l) packages, $$(du -sm $(VENV) | cut -f1) MB."
	@touch $@

# The tests' tools are added to what serves. Where they are there already, they are brought up to date together.
$(INSTALLED): pyproject.toml constraints.txt | $(if $(wildcard $(INSTALLED)),,$(SERVING))
	@echo "Installing the tools of the tests into $(VENV): some 100 packages, 0.7 GB, a few minutes ..."
	$(PIP) torch==2.13.0
	$(PIP) --constraint constraints.txt --editable .[dev]
	@echo "Installed $$(ls -d $(VENV)/lib/python3*/site-packages/*.dist-info | wc -l) packages, $$(du -sm $(VENV) | cut -f1) MB."
	@touch $(SERVING) $@

$(DIGITS): $(DIGITS_FILES) | $(READY)
	$(BIN)/mooring archive --force --model-name digits --version 1.0 --export-path examples/digits \
		--model-file examples/digits/model.py --serialized-file examples/digits/digits.pt \
		--handler examples/digits/handler.py --extra-files examples/digits/index_to_name.json \
		--config-file examples/digits/model-config.yaml
