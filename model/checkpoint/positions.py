"""How many tokens a model has positions for."""

from __future__ import annotations

from typing import Any


def positions(config: dict[str, Any]) -> int:
    """Return the tokens that a configuration has positions for, 0 if it does not say."""
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length")
    most = next((config[name] for name in names if config.get(name)), 0)
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        most -= (config.get("pad_token_id") or 0) + 1  # their positions begin after the padding's
    return int(most)
