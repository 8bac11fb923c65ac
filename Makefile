# Two commands matter: `make run` and `make test`. Both set everything up on a fresh machine.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUST_SOURCES := $(shell find rust -name '*.rs' -not -path '*/target/*') $(shell find rust -name Cargo.toml) \
                Cargo.toml Cargo.lock .cargo/config.toml
# The web client is built by a Node from PyPI, so no system needs to have one.
CLIENT := python/pxbridge/console/static/index.html
CLIENT_SOURCES := $(shell find client -type f -not -path 'client/node_modules/*')
NPM    := PATH=$(CURDIR)/.venv-node/bin:$$PATH npm --prefix client
PIP    := -m pip install -q --disable-pip-version-check
# What rustup installed, in a shell that was opened before.
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: run test test-rust test-python test-engine test-client test-deploy engine-venvs interop bore lint gate bench soak \
        soak-short build client wheel fuzz docs docs-tables openapi clean help
.DELETE_ON_ERROR:
.SILENT:

run: build client      ## build, and serve calls
	$(BIN)/python -m pxbridge

test: test-rust test-client test-python test-engine  ## every test

test-rust:
	sh .ci/tools $(PYTHON)
	cargo test -q --workspace

test-python: build client interop
	$(BIN)/python -m pytest

test-client: client    ## lint and unit tests of the web client; tests/web drives it in a browser
	$(NPM) run --silent lint
	$(NPM) run --silent test

test-engine: build engine-venvs  ## the tests of PersonaPlex itself (they bring torch, 6 GB)
	.venv-engine/bin/python -m pytest tests/engine

# Needs buildah, caddy, chromium, mmdebstrap, promtool and root: images are built and run without a daemon.
test-deploy: build wheel .venv-deploy/.done  ## the images, the compose file, dashboards and alerts
	TEST_DEPLOY=1 $(BIN)/python -m pytest tests/deploy

lint: $(VENV)/.dev     ## formatting, lint and types of both languages
	$(BIN)/ruff check -q
	$(BIN)/ruff format -q --check
	$(BIN)/mypy --no-error-summary
	cargo fmt --check
	cargo clippy -q --workspace --all-targets -- -D warnings

# `make gate PXBRIDGE_BENCH_BASELINE=before.json` compares with an earlier run of this machine as well.
gate: build            ## the gate on speed: messages, delays and CPU beside plain Python and libopus, by ratios
	$(BIN)/python benches/gate.py

bench: build client    ## every figure of speed, without a judgement (minutes)
	$(BIN)/python -m pytest benches/bench_*.py --benchmark-columns=min,median,max --benchmark-sort=name
	$(BIN)/python benches/load.py
	$(BIN)/python benches/websocket_cpu.py
	$(BIN)/python -m benches.web_delay

SOAK_MINUTES ?= 10
soak: build            ## 50 calls for SOAK_MINUTES while engines die, a phone floods and the store forgets
	$(BIN)/python benches/soak.py --minutes $(SOAK_MINUTES)

soak-short: build      ## the same with 8 calls for 40 s, judged by counts and ratios, as in CI
	$(BIN)/python benches/soak.py --short

build: $(VENV)/.built

client: $(CLIENT)      ## the web client, which the console serves: built where its sources changed

wheel: $(VENV)/.dev client  ## a wheel for this platform, in dist/
	rm -rf dist
	$(BIN)/maturin build --release --locked -q --out dist > $(VENV)/wheel.log 2>&1 || { cat $(VENV)/wheel.log >&2; exit 1; }
	ls -sh dist/*.whl

FUZZ_SECONDS ?= 60
# With clang, libopus too reports where it reads and which of its paths were taken.
COMMA := ,
FUZZ_C := $(if $(shell command -v clang),CC=clang CFLAGS="-O2 -g -fsanitize=address$(COMMA)fuzzer-no-link")
fuzz: $(VENV)/.fuzz    ## other networks, and each fuzz target, for FUZZ_SECONDS (needs nightly Rust and cargo-fuzz)
	echo "calls over other networks for $(FUZZ_SECONDS) s"
	until=$$(($$(date +%s) + $(FUZZ_SECONDS))); while [ $$(date +%s) -lt $$until ]; do \
	    cargo test -q -p pxbridge-core --test time whatever_the_network_does || exit 1; \
	done
	for target in $$(cargo +nightly fuzz list --fuzz-dir rust/fuzz); do \
	    echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
	    mkdir -p rust/fuzz/corpus/$$target; \
	    $(FUZZ_C) cargo +nightly fuzz run --fuzz-dir rust/fuzz -O -a $$target rust/fuzz/corpus/$$target rust/fuzz/seeds/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -verbosity=0 -print_final_stats=1 || exit 1; \
	done
	echo "fuzzing the event parser for $(FUZZ_SECONDS) s"
	mkdir -p rust/fuzz/corpus/events
	$(BIN)/python tests/fuzz/fuzz_events.py -max_total_time=$(FUZZ_SECONDS) -verbosity=0 -print_final_stats=1 \
	    rust/fuzz/corpus/events tests/fuzz/seeds/events
	echo "fuzzing the reader of PROXY headers for $(FUZZ_SECONDS) s"
	mkdir -p rust/fuzz/corpus/proxy
	$(BIN)/python tests/fuzz/fuzz_proxy_protocol.py -max_total_time=$(FUZZ_SECONDS) -verbosity=0 -print_final_stats=1 \
	    -max_len=4200 rust/fuzz/corpus/proxy tests/fuzz/seeds/proxy

$(VENV)/.fuzz: $(VENV)/.built
	$(BIN)/python $(PIP) --group fuzz
	touch $@

docs-tables: build     ## the documentation's tables of settings and of persona keys, from the code
	$(BIN)/python .ci/docs_tables.py

docs: $(VENV)/.docs    ## the documentation as web pages, in site/; fails on a broken link
	$(BIN)/mkdocs build -q --clean

$(VENV)/.docs: $(VENV)/.built
	$(BIN)/python $(PIP) --group docs
	touch $@

openapi: build         ## client/openapi.json, from the console's own models
	$(BIN)/python .ci/openapi.py

clean:                 ## what was built here, and nothing else
	rm -rf client/node_modules python/pxbridge/console/static
	rm -rf $(VENV) .venv-* dist site target rust/fuzz/target .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find python tests benches -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/pxbridge/*.so

help:
	sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

$(BIN)/python:
	sh .ci/tools $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) 'pip>=25.1'

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	echo "Installing the development tools into $(VENV)"
	$(BIN)/python $(PIP) --group dev
	touch $@

# maturin develop installs the package in place, so Python sources need no rebuild. It calls pip without `-q`
# and talks on its own: what it says is shown when it fails.
$(VENV)/.built: $(RUST_SOURCES) $(VENV)/.dev
	sh .ci/tools $(PYTHON)
	echo "Building pxbridge (minutes the first time, then seconds)"
	VIRTUAL_ENV=$(CURDIR)/$(VENV) PIP_QUIET=1 $(BIN)/maturin develop --release -q > $(VENV)/build.log 2>&1 \
	    || { cat $(VENV)/build.log >&2; exit 1; }
	touch $@

$(CLIENT): $(CLIENT_SOURCES) client/node_modules/.done
	echo "Building the web client"
	$(NPM) run --silent build > .venv-node/build.log 2>&1 || { cat .venv-node/build.log >&2; exit 1; }
	touch $@

client/node_modules/.done: client/package-lock.json .venv-node/.done
	echo "Installing what the web client is built of"
	$(NPM) ci --silent --no-audit --no-fund
	touch $@

.venv-node/.done: client/node.txt
	echo "Installing Node into $(@D)"
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) -r $<
	touch $@

# The other ends of our wires, each in an environment of its own: their needs contradict ours.
interop: .venv-sphn-0.1/.done .venv-pipecat/.done .venv-opus-recorder/.done .venv-schemathesis/.done

# What NVIDIA's web client records and plays with, which is on npm.
OPUS_RECORDER := opus-recorder@8.0.5
.venv-opus-recorder/.done: tests/interop/opus-recorder.txt
	echo "Making the test environment $(@D)"
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) -r $<
	PATH=$(CURDIR)/$(@D)/bin:$$PATH $(@D)/bin/npm install --silent --no-audit --no-fund --prefix $(@D) $(OPUS_RECORDER)
	touch $@

.venv-deploy/.done: tests/deploy/tools.txt
	echo "Making the test environment $(@D)"
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) -r $<
	touch $@

.venv-%/.done: tests/interop/%.txt
	echo "Making the test environment $(@D)"
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) -r $<
	touch $@

# A tunnel program that works on loopback, for the tests of tunnels. Here it takes a minute and a half to build.
BORE := target/tools/bin/bore
bore: $(BORE)
$(BORE):
	sh .ci/tools $(PYTHON)
	echo "Building bore, a tunnel program for tests"
	cargo install -q --locked --root target/tools --target-dir target/tools/build bore-cli@0.6.0
	rm -rf target/tools/build

# torch is large: uv unpacks it once into its cache, and each environment that holds it gets links to that copy.
engine-venvs: .venv-engine/.done .venv-moshi/.done

UV_INSTALL = $(BIN)/uv pip install -q --python $(@D)

.venv-engine/.done: pyproject.toml | $(VENV)/.dev
	echo "Making the test environment $(@D)"
	$(BIN)/uv venv -q --clear --python $(BIN)/python $(@D)
	$(UV_INSTALL) -r pyproject.toml --extra engine --group engine-test
	echo "$(CURDIR)/python" > $$(echo $(@D)/lib/python*/site-packages)/pxbridge.pth
	touch $@

# Kyutai's own Mimi, to compare ours with. What it asks for contradicts the engine's own needs, and works with them.
.venv-moshi/.done: tests/engine/moshi.txt | $(VENV)/.dev
	echo "Making the test environment $(@D)"
	$(BIN)/uv venv -q --clear --python $(BIN)/python $(@D)
	$(UV_INSTALL) -r $<
	$(UV_INSTALL) --no-deps moshi==0.2.13
	echo "$(CURDIR)/python" > $$(echo $(@D)/lib/python*/site-packages)/pxbridge.pth
	touch $@
