"""Attention of grouped queries that reads each key and value once.

With an attention mask, transformers repeats keys and values for every query head that shares them,
which copies the whole cache in each forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUPED = "eef_grouped"


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Make a model with grouped queries, and `sdpa` attention, attend by `grouped_attention`."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    shared = getattr(config, "num_key_value_heads", None)
    if heads and shared and shared < heads and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(GROUPED)


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of query [b, heads, q, d] to key and value [b, shared heads, k, d].

    `attention_mask` is [b, 1, q, k], or None: then it is causal. The result is [b, q, heads, d].
    """
    batch, heads, length, _ = query.shape
    shared = key.shape[1]
    mask = attention_mask
    folded = mask is not None and mask.shape[1] == 1 and _folds(query)
    if folded:
        # let the heads that share keys be further queries of one head
        assert mask is not None
        groups = heads // shared
        query = query.reshape(batch, shared, groups * length, -1)
        mask = mask.repeat(1, 1, groups, 1) if length > 1 else mask
    attended = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        scale=scaling,
        is_causal=mask is None and length > 1 and is_causal is not False,
        enable_gqa=not folded,
    )
    if folded:
        attended = attended.reshape(batch, heads, length, -1)
    return attended.transpose(1, 2).contiguous(), None


def _folds(query: torch.Tensor) -> bool:
    """Whether no fast kernel takes grouped queries together with a mask."""
    return query.device.type == "cuda"


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)
