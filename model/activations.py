"""Estimate the memory that a batch takes on its way through a network."""

from __future__ import annotations

from typing import Any


def token_bytes(
    hidden: int, query_width: int, key_width: int, intermediate: int, itemsize: int = 2
) -> int:
    """Return the bytes of one token's activations in the widest layer: its inputs and products.

    Args:
        hidden, intermediate: widths of the hidden states and of the feed-forward part.
        query_width, key_width: widths of the attention projections.
        itemsize: bytes of a value.
    """
    return itemsize * (4 * hidden + query_width + 2 * key_width + 3 * intermediate)


def text_bytes(terms: int) -> int:
    """Return the bytes of one text's weights: four arrays of four bytes for each term.

    They are the pooled weights, their packed terms, and an own share and a sum for documents.
    """
    return 4 * 4 * terms


def config_token_bytes(config: Any, itemsize: int) -> int:
    """Return :func:`token_bytes` of a transformers configuration."""
    hidden = config.hidden_size
    heads = getattr(config, "num_attention_heads", 1)
    size = getattr(config, "head_dim", None) or hidden // heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    intermediate = getattr(config, "intermediate_size", None) or 4 * hidden
    return token_bytes(hidden, heads * size, keys * size, intermediate, itemsize)
