"""Loading of models and tokenizers; logits at chosen positions only.

A model is a Hugging Face directory, a hub id, a PEFT directory, or a student shipped with the
package (`base` …).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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
from eef.models.location import locate
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
    if adapted:
        _resize_embeddings(model, source)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise ModelError(
            f"model {name!r} has embeddings for {model.get_input_embeddings().num_embeddings} "
            f"tokens; its tokenizer has {len(tokenizer)}",
            hint="its adapters hold no embeddings of the added tokens: save them with "
            '`modules_to_save=["embed_tokens", "lm_head"]`'
            if adapted
            else "use the tokenizer and the weights of the same model",
        )
    where = _device(device)
    with memory_errors(
        f"the model {name!r} does not fit on `{where}` in {dtype}",
        "free the device, choose another (`model.device`), or set `model.dtype` to `bfloat16`",
    ):
        model.to(where)
    if adapted:
        model = _load_adapters(model, source, lora)
    elif lora is not None:
        with _no_peft_warning(), torch.random.fork_rng():
            torch.manual_seed(seed)
            model = get_peft_model(model, _lora_config(lora))
    return model.eval(), tokenizer


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
    """The `context_length` of a model, from its configuration alone."""
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
def writing_weights(path: Path) -> Iterator[None]:
    """Turn errors of writing a safetensors file into a StoreError.

    safetensors reports a full disk by an error of its own.
    """
    with disk_errors(path):
        try:
            yield
        except SafetensorError as error:
            raise StoreError(
                f"cannot write `{path}`: {error}", hint=f"is the disk full? {WHEN_FULL}"
            ) from error


def describe_compute() -> str:
    """The device that `auto` selects: the name of a GPU, or the threads of the CPU."""
    device = _device("auto")
    if device.type == "cuda":
        return f"GPU {torch.cuda.get_device_name(device)}"
    return f"CPU, threads: {torch.get_num_threads()}"


def gpu_count() -> int:
    """The GPUs that `auto` can select."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


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


def _load(loader: Any, source: str, name: str, **options: Any) -> Any:
    what = "tokenizer" if loader is AutoTokenizer else "model"
    try:
        with no_progress_bars():
            return loader.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        hint = (
            "check the files of that directory"
            if Path(source).is_dir()
            else "check the name and the connection to the hub"
        )
        raise ModelError(f"model {name!r}: no usable {what} ({reason})", hint=hint) from error


def adapter_base(source: str) -> str:
    """The base model that a directory of adapters names."""
    return str(PeftConfig.from_pretrained(source).base_model_name_or_path)


def _resize_embeddings(model: PreTrainedModel, source: str) -> None:
    """Resize the embeddings to those that a directory of adapters holds, if it holds any.

    Adapters of a model with added tokens hold its resized embeddings.
    """
    count = model.get_input_embeddings().num_embeddings
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if module in modules]
    ends = tuple(f"{name}{part}.weight" for name in names for part in ("", ".base_layer"))
    for path in sorted(Path(source).glob("adapter_model*.safetensors")):
        with safe_open(path, "pt") as file:
            keys = [key for key in file.keys() if key.endswith(ends)]  # noqa: SIM118 – no dict
            sizes = [file.get_slice(key).get_shape()[0] for key in keys]
        if sizes and max(sizes) != count:
            model.resize_token_embeddings(max(sizes), mean_resizing=False)
            return


def _load_adapters(
    model: PreTrainedModel, source: str, lora: LoraSettings | None
) -> PreTrainedModel:
    with _no_peft_warning():
        model = PeftModel.from_pretrained(model, source, is_trainable=True)
    rank = model.peft_config["default"].r
    if lora is not None and lora.rank != rank:
        raise ModelError(
            f"`model.lora.rank` is {lora.rank}; the adapters in `{source}` have rank {rank}",
            hint=f"set `model.lora.rank` to {rank}, or start from a model without adapters",
        )
    return model


@contextmanager
def _no_peft_warning() -> Iterator[None]:
    """Suppress a FutureWarning: PEFT reads an attribute that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is depr", FutureWarning)
        yield


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
            return torch.device(device)
        except RuntimeError as error:
            raise ModelError(
                f"unknown device {device!r}",
                hint="known devices: `cpu`, `cuda`, `cuda:1` …, `auto`",
            ) from error
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
