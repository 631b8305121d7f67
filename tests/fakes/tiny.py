"""A tiny random Llama with a byte-level tokenizer, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def tiny_tokenizer(template: str = CHATML, merges: Sequence[str] = ()) -> Any:
    """One token per byte, and the special tokens `<|end|>` (end of turn) and `<|start|>`.

    Each pair of characters in `merges` becomes a token, whose ids start at 256.
    """
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *merges]
    tokenizer = Tokenizer(
        models.BPE(
            {byte: index for index, byte in enumerate(alphabet)},
            [(pair[0], pair[1]) for pair in merges],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken("<|end|>", special=True), AddedToken("<|start|>", special=True)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=["<|start|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast


def tiny_model(
    *, seed: int = 0, vocabulary: int = 258, context: int = 1024, width: int = 32
) -> Any:
    """Two layers, four heads, two key/value heads; large weights make greedy choices clear."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=256,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def save_tiny(directory: Path, **options: Any) -> Path:
    """A directory that `load_model` loads."""
    tiny_model(**options).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory
