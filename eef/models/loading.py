"""Loading of models and tokenizers; logits at chosen positions only.

A model is a Hugging Face directory, a hub id, a PEFT directory, or a student shipped with the
package (`base` …).
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from eef.errors import ModelError, StoreError
from eef.models.generation import fixed_generation_config
from eef.models.location import hub_options, locate
from eef.models.manifest import MANIFEST_FILE
from eef.models.memory import memory_errors
from eef.models.settings import DType, LoraSettings
from eef.utils.jsonl import WHEN_FULL, disk_errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    name: str,
    *,
    dtype: DType = "float32",
    device: str = "auto",
    lora: LoraSettings | None = None,
    seed: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """(model, tokenizer) of `hf/<path or hub id>`, a path or a shipped student, in evaluation mode.

    With `lora` the model gets new adapters, whose initial weights depend on `seed`; a directory
    that holds adapters continues with its own, which must have the same rank. ModelError if the
    directory or hub id does not exist, or has no usable weights, tokenizer or chat template.
    """
    source = locate(name)
    adapted = (Path(source) / "adapter_config.json").is_file()
    origin = locate(adapter_base(source)) if adapted else source
    tokenizer = load_tokenizer(name)
    generation = fixed_generation_config(origin)
    options = {} if generation is None else {"generation_config": generation}
    model = _load(AutoModelForCausalLM, origin, name, dtype=DTYPES[dtype], **options)
    if adapted and (count := _adapter_embeddings(model, source)):
        model.resize_token_embeddings(count, mean_resizing=False)
    _check_embeddings(model, tokenizer, name, adapted=adapted)
    where = _device(device)
    with memory_errors(
        f"the model {name!r} does not fit on `{where}` in {dtype}",
        "free the device, choose another (`model.device`), or set `model.dtype` to `bfloat16`",
    ):
        model.to(where)
    if adapted:
        model = _load_adapters(model, source, lora)
    elif lora is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = _add_adapters(model, lora, name)
    return model.eval(), tokenizer


def check_model(name: str, *, device: str = "auto", lora: LoraSettings | None = None) -> None:
    """Raise the ModelError of `load_model` that the model's configuration already shows.

    Loads no weights: the model is built without memory (on torch's device `meta`). Checked are the
    device, the files of a directory, the size of the embeddings, and the rank and targets of
    adapters.
    """
    _device(device)
    source = locate(name)
    adapted = (Path(source) / "adapter_config.json").is_file()
    origin = locate(adapter_base(source)) if adapted else source
    for directory in {Path(origin), Path(source)}:
        kinds = ("*.safetensors", "*.bin")
        if directory.is_dir() and not any(any(directory.glob(kind)) for kind in kinds):
            raise ModelError(
                f"model {name!r}: no usable model (`{directory}` holds no weights)",
                hint="check the files of that directory",
            )
    config = _load(AutoConfig, origin, name)
    with torch.device("meta"):
        model = _load(AutoModelForCausalLM, config, name, method="from_config")
    if adapted:
        count = _adapter_embeddings(model, source)
        _check_embeddings(model, load_tokenizer(name), name, count=count, adapted=True)
        _check_rank(source, PeftConfig.from_pretrained(source).r, lora)
    else:
        _check_embeddings(model, load_tokenizer(name), name)
        if lora is not None:
            _add_adapters(model, lora, name)


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a model. ModelError if there is none, or it lacks what `eef` needs."""
    # a completion is the text of its tokens; the clean-up would change its spaces
    tokenizer = _load(AutoTokenizer, locate(name), name, clean_up_tokenization_spaces=False)
    if not tokenizer.chat_template:
        raise ModelError(
            f"model {name!r} has no chat template",
            hint="use its instruct version, or set `chat_template` in its tokenizer_config.json",
        )
    if tokenizer.eos_token is None or not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of {name!r} is not a fast one with an end-of-sequence token",
            hint="convert it with `transformers`, or choose another model",
        )
    return tokenizer


def configured_context(name: str) -> int | None:
    """The `context_length` of a model; reads only its configuration."""
    source = locate(name)
    adapted = (Path(source) / "adapter_config.json").is_file()
    config = _load(AutoConfig, locate(adapter_base(source)) if adapted else source, name)
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether a loaded model has adapters beside its weights."""
    return isinstance(model, PeftModel)


def merge_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapters merged into its weights. ModelError if it has none.

    A matrix that the model uses twice (tied embeddings) and that has adapters in one of its uses is
    copied first. The merged model then has two matrices, and its configuration records that.
    """
    if not isinstance(model, PeftModel):
        raise ModelError(
            "the model has no adapters to merge", hint="it is a full model: use it as it is"
        )
    uses = Counter(
        id(weight) for module in model.modules() for weight in module._parameters.values()
    )
    for module in list(model.modules()):
        if isinstance(module, BaseTunerLayer):
            base = module.get_base_layer()
            for name, weight in base._parameters.items():
                if weight is not None and uses[id(weight)] > 1:
                    copy = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
                    base._parameters[name] = copy
    with no_peft_warnings():
        merged = model.merge_and_unload()
    outputs = merged.get_output_embeddings()
    if outputs is not None and outputs.weight is not merged.get_input_embeddings().weight:
        for config in (merged.config, merged.config.get_text_config()):
            if getattr(config, "tie_word_embeddings", False):
                config.tie_word_embeddings = False
    return merged


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide the progress bars of transformers; the command line shows its own."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def no_peft_warnings() -> Iterator[None]:
    """Suppress warnings of PEFT that no user can act on.

    It reads an attribute that transformers has renamed; it saves the embeddings that are adapted or
    resized, as it should; and it warns of tied matrices, which `merge_adapters` copies.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is depr", FutureWarning)
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers` to", UserWarning)
        warnings.filterwarnings("ignore", ".*`tie_word_embeddings=True` and ", UserWarning)
        warnings.filterwarnings("ignore", ".*are no longer tied after merging", UserWarning)
        yield


@contextmanager
def writing_weights(path: Path) -> Iterator[None]:
    """Turn errors of writing a safetensors file into a StoreError.

    safetensors reports a full disk with an error of its own.
    """
    with disk_errors(path):
        try:
            yield
        except SafetensorError as error:
            raise StoreError(
                f"cannot write `{path}`: {error}", hint=f"if the disk is full, {WHEN_FULL}"
            ) from error


def release_memory() -> None:
    """Return freed memory, mostly of models, to the GPUs and the operating system.

    glibc keeps the memory that a training freed: gigabytes that other processes of a run need.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def gpu_count() -> int:
    """The GPUs that `auto` can select."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def visible_gpus() -> list[str]:
    """These GPUs, as `CUDA_VISIBLE_DEVICES` names them for a process of their own."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = gpu_count()
    return listed.split(",")[:count] if listed else [str(number) for number in range(count)]


def context_length(model: PreTrainedModel) -> int | None:
    """Positions that a model can attend to; None if its configuration does not state them."""
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


@contextmanager
def logits_only_at(model: PreTrainedModel, positions: torch.Tensor) -> Iterator[None]:
    """Restrict forward passes to logits [n, vocabulary] at n `positions` of the flattened batch.

    The projection onto the vocabulary is the most expensive part of a small model. Only its input
    is changed, so whatever a model does to its logits afterwards (scaling, capping) is unaffected.

    Worked example: a batch of 2 rows × 4 tokens has positions 0–3 and 4–7; `tensor([2, 7])` selects
    the third token of the first row and the last token of the second.
    """

    def select(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (args[0].flatten(0, 1).index_select(0, positions),)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _load(
    loader: Any, source: Any, name: str, *, method: str = "from_pretrained", **options: Any
) -> Any:
    what = "tokenizer" if loader is AutoTokenizer else "model"
    if isinstance(source, str):
        options |= hub_options(source, name)
    try:
        with no_progress_bars():
            return getattr(loader, method)(source, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        hint = _where_models_are(Path(locate(name)))
        raise ModelError(f"model {name!r}: no usable {what} ({reason})", hint=hint) from error


def _where_models_are(source: Path) -> str:
    """A hint for a directory or hub id without a usable model."""
    if not source.is_dir():
        return "check the name, and that the hub grants access to the model"
    found = [
        manifest
        for depth in range(4)  # of a round, a method, a run, a comparison
        for manifest in source.glob(f"{'*/' * depth}checkpoint/{MANIFEST_FILE}")
    ]
    if not found:
        return "check the files of that directory"
    return f"name a checkpoint in that directory, such as `{max(found, key=_changed).parent}`"


def _changed(path: Path) -> float:
    """When a file was last written; 0 if it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def adapter_base(source: str) -> str:
    """The base model that a directory of adapters names."""
    return str(PeftConfig.from_pretrained(source).base_model_name_or_path)


def _adapter_embeddings(model: PreTrainedModel, source: str) -> int | None:
    """The number of embeddings that a directory of adapters holds, if it differs from the model's.

    Adapters of a model with added tokens hold its resized embeddings.
    """
    count = model.get_input_embeddings().weight.shape[0]
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if module in modules]
    ends = tuple(f"{name}{part}.weight" for name in names for part in ("", ".base_layer"))
    for path in sorted(Path(source).glob("adapter_model*.safetensors")):
        with safe_open(path, "pt") as file:
            keys = [key for key in file.keys() if key.endswith(ends)]  # noqa: SIM118 – no dict
            sizes = [file.get_slice(key).get_shape()[0] for key in keys]
        if sizes and max(sizes) != count:
            return int(max(sizes))
    return None


def _check_embeddings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    *,
    count: int | None = None,
    adapted: bool = False,
) -> None:
    """ModelError if the tokenizer has more tokens than the model has embeddings, or `count`."""
    count = count or model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > count:
        raise ModelError(
            f"model {name!r} has embeddings for {count} tokens; its tokenizer has {len(tokenizer)}",
            hint="its adapters hold no embeddings of the added tokens: save them with "
            '`modules_to_save=["embed_tokens", "lm_head"]`'
            if adapted
            else "use the tokenizer and the weights of the same model",
        )


def _check_rank(source: str, rank: int, lora: LoraSettings | None) -> None:
    if lora is not None and lora.rank != rank:
        raise ModelError(
            f"`model.lora.rank` is {lora.rank}; the adapters in `{source}` have rank {rank}",
            hint=f"set `model.lora.rank` to {rank}, or start from a model without adapters",
        )


def _add_adapters(model: PreTrainedModel, lora: LoraSettings, name: str) -> PreTrainedModel:
    """The model with new adapters. ModelError if a target is not a layer that can have them."""
    layers = [layer for layer, _ in model.named_modules() if layer]
    if lora.targets != ("all-linear",):
        for target in lora.targets:
            if not any(f".{layer}".endswith(f".{target}") for layer in layers):
                raise _no_target(f"{name!r} has no layer {target!r}", target, model)
    try:
        with no_peft_warnings():
            return get_peft_model(model, _lora_config(lora))
    except ValueError as error:
        reason = str(error).split(". ", 1)[0]
        raise _no_target(f"{name!r}: {reason}", lora.targets[0], model) from error


def _no_target(reason: str, target: str, model: PreTrainedModel) -> ModelError:
    """The error for a wrong target, with the names of the layers that can be adapted."""
    linear = [layer for layer, module in model.named_modules() if hasattr(module, "in_features")]
    known = list(dict.fromkeys(layer.rpartition(".")[2] for layer in linear))
    close = get_close_matches(target, known, n=1)
    return ModelError(
        f"`model.lora.targets`: {reason}",
        hint=f"did you mean {close[0]!r}?"
        if close
        else f"known: `all-linear`, {', '.join(f'`{each}`' for each in known)}",
    )


def _load_adapters(
    model: PreTrainedModel, source: str, lora: LoraSettings | None
) -> PreTrainedModel:
    with no_peft_warnings():
        model = PeftModel.from_pretrained(model, source, is_trainable=True)
    _check_rank(source, model.peft_config["default"].r, lora)
    return model


def _lora_config(lora: LoraSettings) -> LoraConfig:
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
            found = torch.device(device)
        except RuntimeError as error:
            raise ModelError(
                f"unknown device {device!r}",
                hint="known devices: `cpu`, `cuda`, `cuda:1` …, `auto`",
            ) from error
        count = torch.cuda.device_count()
        if found.type == "cuda" and (found.index or 0) >= count:
            raise ModelError(
                f"no device {device!r}: torch finds {count} GPUs",
                hint="use `auto` or `cpu`, or install torch with support for the GPU",
            )
        return found
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
