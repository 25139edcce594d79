# Podlane. `make demo` and `make test` do all their own set-up on a fresh Debian or Ubuntu machine.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
IPTABLES_STAMP := $(VENV)/.python-iptables
BENCH_STAMP := $(VENV)/.bench
FUZZ_STAMP := $(VENV)/.fuzz
DOCS_STAMP := $(VENV)/.docs
CNI_PLUGIN := $(BIN)/podlane-cni
BENCH_PACKAGES := haproxy libnginx-mod-stream wrk iperf3
TEST_PACKAGES := postgresql clang libbpf-dev prometheus prometheus-alertmanager java=default-jre-headless mvn=maven
PROGRAMS := datapath/ebpf/lane.bpf.o
WEB := control_plane/web_files/index.html
WEB_PICTURES := overview live editor names rollout alerts budgets fleet
PYTEST_ARGS ?=
# Processes that run tests: most tests wait most of the time. 0 runs them one after the other, in one.
TEST_PROCESSES ?= $(shell n=$$(nproc); echo $$((n > 10 ? 12 : n + 2)))
BENCH_ARGS ?=
SECONDS ?= 60
FUZZ_ARGS ?=

.PHONY: build web web-pictures web-types demo fleet-demo evasion test test-nightly test-environment kafka keycloak test-packages test-stock-kernel test-chart test-kube test-image kube-packages kube-tools istio-iptables image proto crds kind-up kind-down test-kind unit bench bench-kind fuzz docs lint format constraints system-packages clean

build: $(STAMP) $(PROGRAMS)  ## the command .venv/bin/podlane

$(STAMP): pyproject.toml constraints.txt tools/make-venv
	@tools/make-venv $(VENV)
	@touch $@

# For datapath: ebpf, by clang; without it the build says so and goes on.
$(PROGRAMS): $(wildcard datapath/ebpf/programs/*)
	@sh datapath/ebpf/programs/compile $(abspath $@)

web: $(WEB)  ## the pages of the control plane, from web/, by Node.js

# The source of all of them: without it, or with an older Node.js, it says so and goes on.
$(WEB): $(wildcard web/*.json web/*.html web/*.ts web/public/*) $(shell find web/src -type f)
	@tools/system-packages --optional node=nodejs npm=npm
	@tools/web

web-pictures: build web  ## docs/images/web-*.png again, by the test that looks at every page
	@$(BIN)/python -m pytest -k 'light and wide' tests/web/test_web_looks.py $(PYTEST_ARGS)
	@for name in $(WEB_PICTURES); do cp out/web/$$name-light-wide.png docs/images/web-$$name.png; done

web-types: build  ## web/src/api/schema.ts again, after a change of the REST API
	@tools/web-types

# python-iptables has a C part and no wheels: the one package that needs a compiler, and only the tests use it.
$(IPTABLES_STAMP): $(STAMP)
	@tools/system-packages gcc libc6-dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[python-iptables]'
	@touch $@

# Static, since it runs on nodes; the Dockerfile has the same line.
$(CNI_PLUGIN): node_agent/cni/podlane-cni.c | $(STAMP)
	@tools/system-packages gcc libc6-dev
	@gcc -static -Os -s -Wall -Wextra -Werror -o $@ $<

proto:  ## fleet_api/agent_pb2.py again, after a change of agent.proto
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. fleet_api/agent.proto

crds: $(STAMP)  ## the chart's definitions of TrafficPolicy again, after a change of the models of policies
	@$(BIN)/podlane crds >charts/podlane/crds/podlane.io.yaml

# Envoy, and mitmproxy, which pins versions of what Podlane uses too: hence in an environment of its own.
$(BENCH_STAMP): $(STAMP) benchmarks/mitmproxy-requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m venv $(VENV)/mitmproxy
	@$(VENV)/mitmproxy/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/mitmproxy-requirements.txt || \
	  echo "mitmproxy cannot be installed here; the benchmark goes without it." >&2
	@touch $@

# Prebuilt for x86-64 alone; elsewhere it needs clang to build, and the tests of fuzzing are skipped without it.
$(FUZZ_STAMP): $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary=atheris -c constraints.txt -e '.[fuzz]' || \
	  echo "atheris cannot be installed here; nothing is fuzzed." >&2
	@touch $@

$(DOCS_STAMP): $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

system-packages:  ## Debian packages that the demo and the tests use
	@tools/system-packages

demo: build system-packages  ## servers and clients in namespaces, live tables, plots in out/
	@tools/as-root $(BIN)/podlane demo --output out/demo.svg

fleet-demo: build web system-packages  ## a control plane and five agents, a canary that stays and one taken back; ARGS=--once
	@tools/as-root $(BIN)/podlane fleet-demo $(ARGS)

test: test-packages kafka test-environment lint  ## everything, real-kernel tests included
	@tools/as-root env $$(tools/kube-tools --find --env 2>/dev/null) $$(tools/kube-tools --find --env istio-iptables 2>/dev/null) \
	  $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) $(PYTEST_ARGS)

test-nightly:  ## what takes too long for every change: a soak, kills, fuzzing, benchmarks, kind (CONTRIBUTING.md)
	@.ci/nightly

kafka: test-packages  ## Apache Kafka for the tests of publishing, from Maven Central: fetched once, kept in ~/.cache
	@tools/kafka >/dev/null || [ $$? = 77 ]

# The identity provider of tests/control_plane, kept in ~/.cache. Where it cannot be had its tests are skipped, and say so.
keycloak: test-packages
	@tools/keycloak >/dev/null || [ $$? = 77 ]

test-environment: build web $(CNI_PLUGIN) $(IPTABLES_STAMP) $(BENCH_STAMP) $(FUZZ_STAMP) keycloak

test-packages: system-packages
	@tools/system-packages $(BENCH_PACKAGES) $(TEST_PACKAGES)
	@tools/system-packages --optional chromium git=git go=golang-go javac=default-jdk-headless node=nodejs npm=npm

test-stock-kernel: build $(IPTABLES_STAMP) system-packages  ## the kernel tests that Debian's own kernel must pass, under emulation
	@tools/as-root $(BIN)/python -m pytest -s -m 'nightly or not nightly' tests/stock $(PYTEST_ARGS)

test-chart: build  ## the Helm chart against Kubernetes' own schemas; builds helm by Go where there is none
	@tools/system-packages go=golang-go
	@tools/kube-tools helm >/dev/null
	@$(BIN)/python -m pytest tests/chart $(PYTEST_ARGS)

kube-packages:
	@tools/system-packages go=golang-go etcd-server runc containerd=containerd golang-github-containers-common containernetworking-plugins

kube-tools: kube-packages  ## what tests/kube and tests/chart need: a real API server and helm, built once (nine minutes) and kept in ~/.cache
	@tools/kube-tools >/dev/null

istio-iptables:  ## Istio's programs that write its rules, for the tests of the mesh: built once (some minutes) and kept in ~/.cache
	@tools/system-packages go=golang-go
	@tools/kube-tools istio-iptables >/dev/null

test-kube: build $(CNI_PLUGIN) system-packages kube-tools  ## injection by a real API server
	@tools/as-root env $$(tools/kube-tools --env) $(BIN)/python -m pytest tests/kube $(PYTEST_ARGS)

test-image: build web  ## the container image, built and run by a container engine of its own
	@tools/as-root $(BIN)/python -m pytest tests/image $(PYTEST_ARGS)

kind-up: build  ## a kind cluster with Podlane's image in it; without any registry it builds the node image once (docs/how-to/kind.md)
	@tools/system-packages go=golang-go
	@tools/as-root tools/kind-cluster up

kind-down:  ## the cluster's end, and its engine's
	@tools/as-root tools/kind-cluster down

test-kind: kind-up  ## the whole product in that cluster
	@tools/as-root tools/kind-cluster exec $(BIN)/python -m pytest tests/kind $(PYTEST_ARGS)

image: web  ## the container images "podlane" and "podlane-control-plane", by a container engine of its own
	@tools/as-root tools/container-engine sh -ec 'docker build --network host --tag podlane . && \
	  docker build --network host --file Dockerfile.control-plane --tag podlane-control-plane .'

unit: build  ## the fast pure tests
	@$(BIN)/python -m pytest --numprocesses auto tests/unit $(PYTEST_ARGS)

bench: build $(BENCH_STAMP) system-packages  ## Podlane beside its peers; BENCH_ARGS=--quick takes 2 minutes, --help lists what there is
	@tools/system-packages $(BENCH_PACKAGES)
	@tools/as-root $(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-kind: kind-up  ## Podlane in real Pods, beside Pods without it and the CNI bandwidth plugin (docs/explanation/benchmarks.md)
	@tools/as-root tools/kind-cluster exec $(BIN)/python -m benchmarks kind $(BENCH_ARGS)

evasion: test-environment test-packages  ## hostile programs of tests/evasion against real namespaces, with the rates they get
	@tools/as-root $(BIN)/python -m pytest -s -m 'nightly or not nightly' tests/kernel/test_evasion_*.py $(PYTEST_ARGS)

fuzz: build $(FUZZ_STAMP)  ## coverage-guided fuzzing; SECONDS for each harness (60), FUZZ_ARGS names harnesses and rounds
	@$(BIN)/python -W ignore -m tests.fuzz.fuzz --seconds $(SECONDS) $(FUZZ_ARGS)

docs: build $(DOCS_STAMP)  ## the site of docs/ in out/site; broken links and anchors are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@if grep -rlE --include='*.html' '<(script|link|img|iframe)[^>]* (src|href)="(https?:)?//' out/site; then \
	  echo "These pages would fetch something from elsewhere." >&2; exit 1; fi
	@echo "out/site/index.html"

lint: build
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: build
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

constraints: build  ## pin what is installed now
	@{ echo "# The versions this project is tested with. Regenerate: make constraints"; \
	   $(BIN)/pip freeze --all --exclude pip --exclude-editable; } > constraints.txt

clean:
	@rm -rf $(VENV) out build *.egg-info $(PROGRAMS) control_plane/web_files web/node_modules
