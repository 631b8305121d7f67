"""Tokenizers and tiny models with the chat templates of model families.

The templates are those in the package `trl`, read when the tests run; the others are rebuilt from
the documented rules of their families.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.fakes.tiny import tiny_model

MISTRAL = (  # refuses a system message
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/…') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_3 = (  # puts the system message before the last user message
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set talk = messages[1:] %}{% else %}{% set talk = messages %}{% endif %}"
    "{{ bos_token }}{% for m in talk %}{% if m['role'] == 'user' %}"
    "{% if loop.last and system is defined %}{{ '[INST] ' + system + '\n\n' + m['content'] }}"
    "{% else %}{{ '[INST] ' + m['content'] }}{% endif %}{{ '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
SILENT = (  # drops the system message
    "{% for m in messages if m['role'] != 'system' %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI_4 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] }}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
SMOLLM2 = (  # has a system message of its own
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OWN = {
    "mistral": MISTRAL,
    "mistral-3": MISTRAL_3,
    "silent": SILENT,
    "phi-4": PHI_4,
    "smollm2": SMOLLM2,
}

LLAMA, CHATML, GEMMA = ("<|begin_of_text|>", "<|eot_id|>"), (None, "<|im_end|>"), ("<bos>", "<eos>")
NO_THOUGHTS = {"enable_thinking": False}
FAMILIES: dict[str, tuple[str, tuple[str | None, str], dict[str, Any], bool]] = {
    # name: template, (first token, end of sequence), variables, whether the system is folded
    "qwen2.5": ("qwen2_5", CHATML, {}, False),
    "qwen3": ("qwen3", CHATML, {}, False),
    "qwen3-no-thoughts": ("qwen3", CHATML, NO_THOUGHTS, False),
    "qwen3-2507": ("qwen3_instruct_2507", CHATML, {}, False),
    "qwen3.5": ("qwen3_5_think", CHATML, {}, False),
    "qwen3.5-no-thoughts": ("qwen3_5_think", CHATML, NO_THOUGHTS, False),
    "llama3": ("llama3", LLAMA, {}, False),
    "llama3.1": ("llama3_1", LLAMA, {}, False),
    "llama3.2": ("llama3_2", LLAMA, {}, False),
    "gemma": ("gemma", GEMMA, {}, True),
    "gemma3": ("gemma3", GEMMA, {}, False),
    "phi3.5": ("phi3_5", ("<s>", "<|endoftext|>"), {}, False),
    "mistral": ("mistral", ("<s>", "</s>"), {}, True),
    "mistral-3": ("mistral-3", ("<s>", "</s>"), {}, True),
    "silent": ("silent", CHATML, {}, True),
    "phi4": ("phi-4", CHATML, {}, False),
    "smollm2": ("smollm2", CHATML, {}, False),
}


def template_of(name: str) -> str:
    if name in OWN:
        return OWN[name]
    found = find_spec("trl")
    if found is None or found.origin is None:
        pytest.skip("`trl` is not installed")
    path = Path(found.origin).parent / "chat_templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"this version of `trl` has no template `{name}`")
    return path.read_text(encoding="utf-8")


def tokenizer_of(family: str) -> Any:
    """A byte-level tokenizer with the special tokens and the chat template of a family."""
    name, (bos, eos), _, _ = FAMILIES[family]
    return byte_tokenizer(template_of(name), bos, eos)


def byte_tokenizer(template: str, bos: str | None, eos: str) -> Any:
    names = re.findall(r"<\|[a-z_]+\|>|<(?:start|end)_of_turn>", template)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: index for index, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = sorted({*names, eos, *([bos] if bos else [])})
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in special])
    if "think" in template:
        tokenizer.add_tokens([AddedToken(each) for each in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos,
        pad_token=eos,
        chat_template=template,
        clean_up_tokenization_spaces=True,
        **({"bos_token": bos} if bos else {}),
    )


def save_family(family: str, directory: Path) -> Path:
    tokenizer = tokenizer_of(family)
    tiny_model(vocabulary=len(tokenizer), context=4096).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
