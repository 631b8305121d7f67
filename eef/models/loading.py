"""Loading a model with its tokenizer, and asking it for logits at chosen positions alone.

Both ends of the way of the data start here: `eef.policies.local` acts with what `load_model` gives, `eef.train`
changes it. A model is a Hugging Face directory, a hub id, a PEFT directory, or a student in the package (`base` …).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from eef.errors import ModelError, StoreError
from eef.models.settings import DType, LoraSettings
from eef.utils.jsonl import WHEN_FULL, disk_errors

STUDENTS = Path(__file__).parent.parent / "students" / "weights"
BASE_STUDENT = STUDENTS / "base"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    name: str, *, dtype: DType = "float32", device: str = "auto", lora: LoraSettings | None = None
) -> tuple[Any, Any]:
    """(model, tokenizer) of `hf/<path or hub id>`, of a path, or of `base`, in evaluation mode.

    With `lora` the model gets fresh adapters; a directory which holds adapters goes on with its own, which must have
    the same rank. Raises ModelError: no such directory or hub id, no weights, no tokenizer, no chat template.
    """
    source = locate(name)
    adapted = (Path(source) / "adapter_config.json").is_file()
    origin = locate(_adapter_base(source)) if adapted else source
    tokenizer = load_tokenizer(name)
    model = _load(AutoModelForCausalLM, origin, name, dtype=DTYPES[dtype])
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise ModelError(
            f"model {name!r} has embeddings for {model.get_input_embeddings().num_embeddings} tokens, its tokenizer "
            f"has {len(tokenizer)}",
            hint="tokenizer and weights are not of the same model",
        )
    model.to(_device(device))
    if adapted:
        model = _load_adapters(model, source, lora)
    elif lora is not None:
        model = get_peft_model(model, _lora_config(lora))
    return model.eval(), tokenizer


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model alone. ModelError: none there, no chat template, not a fast one."""
    tokenizer = _load(AutoTokenizer, locate(name), name)
    if not tokenizer.chat_template:
        raise ModelError(
            f"model {name!r} has no chat template",
            hint="take its instruct version, or set `chat_template` in its tokenizer_config.json",
        )
    if tokenizer.eos_token is None or not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of {name!r} must be a fast one and have an end-of-sequence token"
        )
    return tokenizer


def locate(name: str) -> str:
    """The directory or hub id that a model's name stands for. ModelError for a path which is no directory.

    >>> locate("hf/org/some-model")
    'org/some-model'
    """
    if is_shipped(name):
        if not (STUDENTS / name).is_dir():
            raise ModelError(
                f"there is no student {name!r} in this package",
                hint="name a model of your own (`model.name`), or make one by `eef model build`",
            )
        return str(STUDENTS / name)
    path = Path(name.removeprefix("hf/")).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if path.is_absolute() or name.startswith((".", "~")) or len(path.parts) != 2:
        raise ModelError(
            f"no such model directory: `{path}`", hint="a hub id has the form `organisation/model`"
        )
    return str(path)


def is_shipped(name: str) -> bool:
    """Whether a model's name stands for a student that comes with the package: `base`, `base-scienceworld`."""
    return name.partition("-")[0] == "base" and name == Path(name).name


def configured_context(name: str) -> int | None:
    """`context_length` of a model that is not loaded."""
    source = locate(name)
    adapted = (Path(source) / "adapter_config.json").is_file()
    config = _load(AutoConfig, locate(_adapter_base(source)) if adapted else source, name)
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def merge_adapters(model: Any) -> Any:
    """The model with its adapters worked into its weights. ModelError where it has none."""
    if not isinstance(model, PeftModel):
        raise ModelError(
            "it has no adapters to merge", hint="it is a full model already: use it as it is"
        )
    return model.merge_and_unload()


@contextmanager
def quietly() -> Iterator[None]:
    """Without the progress bars of transformers: what is shown, the command line decides."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def writing_weights(path: Path) -> Iterator[None]:
    """Turn the errors of writing a safetensors file, which has its own for a full disk, into a StoreError."""
    with disk_errors(path):
        try:
            yield
        except SafetensorError as error:
            raise StoreError(
                f"cannot write `{path}`: {error}", hint=f"is the disk full? {WHEN_FULL}"
            ) from error


def describe_compute() -> str:
    """The device that `auto` takes and how much of it: threads of a CPU, name of a GPU."""
    device = _device("auto")
    if device.type == "cuda":
        return f"GPU {torch.cuda.get_device_name(device)}"
    return f"CPU, threads: {torch.get_num_threads()}"


def context_length(model: Any) -> int | None:
    """Positions that a model can attend to; None where its configuration does not say."""
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


@contextmanager
def logits_only_at(model: Any, positions: torch.Tensor) -> Iterator[None]:
    """Within it a forward pass gives logits [n, vocabulary] for the n `positions` of its flattened batch alone.

    The projection onto the vocabulary is the dearest part of a small model. What a model does to its logits after it
    (scaling, capping) stays as it is, since only the input of the projection is changed.

    Worked example: a batch of 2 rows × 4 tokens has positions 0–3 and 4–7; `tensor([2, 7])` asks for the third token
    of the first row and the last of the second.
    """

    def select(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (args[0].flatten(0, 1).index_select(0, positions),)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _load(loader: Any, source: str, name: str, **options: Any) -> Any:
    what = "tokenizer" if loader is AutoTokenizer else "model"
    try:
        with quietly():
            return loader.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        where = (
            "in that directory"
            if Path(source).is_dir()
            else "on the hub, or the hub cannot be reached"
        )
        raise ModelError(
            f"model {name!r}: no usable {what} ({reason})", hint=f"there is none {where}"
        ) from error


def _adapter_base(source: str) -> str:
    return str(PeftConfig.from_pretrained(source).base_model_name_or_path)


def _load_adapters(model: Any, source: str, lora: LoraSettings | None) -> Any:
    model = PeftModel.from_pretrained(model, source, is_trainable=True)
    rank = model.peft_config["default"].r
    if lora is not None and lora.rank != rank:
        raise ModelError(
            f"`{source}` holds adapters of rank {rank}, the settings ask for {lora.rank}",
            hint="set `model.lora.rank` to that of the checkpoint, or start from a model without adapters",
        )
    return model


def _lora_config(lora: LoraSettings) -> Any:
    targets = "all-linear" if lora.targets == ("all-linear",) else list(lora.targets)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def _device(device: str) -> torch.device:
    if device != "auto":
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise ModelError(
                f"no such device: {device!r}", hint="`cpu`, `cuda`, `cuda:1` or `auto`"
            ) from error
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
