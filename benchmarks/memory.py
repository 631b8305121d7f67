"""Memory of full fine-tuning by several ranks, computed without the weights.

`python -m benchmarks.memory [--ranks 8] [--tokens 8192]` builds models of known sizes on torch's
device `meta`, shards them as `eef` does over a fake process group, and prints GiB per rank:

- at rest, measured on the shards of rank 0: weights, gradients and two moments, all float32
- gathered: the outermost unit (embeddings and output layer) and two decoder layers in bfloat16, and
  the gradients of the outermost unit in bfloat16 and float32, before they are reduced
- activations with `train.gradient_checkpointing`: the inputs of all layers, one recomputed layer
  (16 vectors of the hidden size and 4 of the intermediate size per token), and the logits of the
  trained tokens three times in float32

`--tokens` is `train.max_tokens_per_microbatch`; a tenth of them is trained. What the allocator
cannot use, some 10 %, is left out.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from eef.training.ranks import shard

GIB = 2**30
TRAINED = 0.1
MODELS: dict[str, Any] = {
    "1B (Llama 3.2)": LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=True,
    ),
    "7B (Qwen 2.5)": Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4,
    ),
    "8B (Llama 3.1)": LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8,
    ),
    "70B (Llama 3.1)": LlamaConfig(
        vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80,
        num_attention_heads=64, num_key_value_heads=8,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=8192)
    chosen = parser.parse_args()
    distributed.init_process_group("fake", rank=0, world_size=chosen.ranks, store=FakeStore())
    print("| model | parameters | at rest | gathered | activations | together |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, config in MODELS.items():
        count, *parts = measure(config, chosen.ranks, chosen.tokens)
        cells = [f"{each / GIB:.1f}" for each in (*parts, sum(parts))]
        print(f"| {name} | {count:,} |", " | ".join(cells), "|")


def measure(config: Any, ranks: int, tokens: int) -> tuple[int, float, float, float]:
    """(parameters, bytes at rest, gathered, of activations) of rank 0."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    parameters = sum(value.numel() for value in model.parameters())
    layer = sum(value.numel() for value in model.model.layers[0].parameters())
    outermost = parameters - layer * config.num_hidden_layers
    shard(model, init_device_mesh("cpu", (ranks,)), "bfloat16")
    at_rest = 4 * sum(value.to_local().nbytes for value in model.parameters())
    gathered = 2 * (outermost + 2 * layer) + (2 + 4) * outermost
    inputs = config.num_hidden_layers * tokens * config.hidden_size * 2
    recomputed = tokens * (16 * config.hidden_size + 4 * config.intermediate_size) * 2
    logits = TRAINED * tokens * config.vocab_size * 3 * 4
    return parameters, at_rest, gathered, inputs + recomputed + logits


if __name__ == "__main__":
    main()
