"""Real programs and models that some tests need; a test is skipped without them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fakes import ROOT


def vllm_python() -> str:
    """The Python of an environment with vLLM (`make test-vllm` makes one)."""
    python = os.environ.get("EEF_VLLM_PYTHON", "")
    if not python:
        pytest.skip("EEF_VLLM_PYTHON is not set; `make test-vllm` sets it")
    return python


def smollm2() -> Path:
    """The directory of SmolLM2-135M-Instruct (`make test-real` makes one)."""
    directory = Path(os.environ.get("EEF_SMOLLM2", ROOT / "models" / "smollm2"))
    if not (directory / "model.safetensors").is_file():
        pytest.skip(f"no model in {directory}; `make test-real` makes it")
    return directory


def official_shop() -> Path:
    """The directory of WebShop's official files of 1,000 products."""
    directory = Path(os.environ.get("EEF_WEBSHOP_DATA", ROOT / "data" / "webshop"))
    if not (directory / "items_shuffle_1000.json").is_file():
        pytest.skip(f"no official files in {directory}; set EEF_WEBSHOP_DATA")
    return directory
