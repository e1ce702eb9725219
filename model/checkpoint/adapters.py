"""PEFT adapters: merged into the weights of their base, once every key was found in both."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from ...core.errors import CorruptError, IncompatibleError
from .files import check_fetched, first_line
from .layout import Checkpoint, saved_rows

# peft asks transformers by a name that it is about to drop.
warnings.filterwarnings(
    "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
)


def merge(model: Any, checkpoint: Checkpoint) -> Any:
    """Return a language model with the adapter of its checkpoint merged into the weights.

    Raises:
        CorruptError: an adapter without readable weights, or with values that are not finite.
        IncompatibleError: an adapter that lacks weights, has more of them than the base has places
            for, or is of a kind that cannot be merged.
    """
    from peft import PeftConfig, PeftModel
    from peft.utils.save_and_load import get_peft_model_state_dict, load_peft_weights

    adapter = checkpoint.adapter
    assert adapter is not None
    path = _weights_file(adapter)
    try:
        config = PeftConfig.from_pretrained(str(adapter))
        held = load_peft_weights(str(adapter), device="cpu")
    except Exception as error:
        raise CorruptError(f"{path}: the adapter is not readable: {first_line(error)}") from None
    if config.is_prompt_learning or not held:
        what = "has no weights" if not held else f"peft_type is {config.peft_type.value}"
        raise IncompatibleError(
            f"{adapter}: {what}; an adapter must hold weights to merge into the base's, such as "
            "LoRA, DoRA, IA3, LoHa or VeRA; learned prompts are not supported"
        )
    for name, tensor in held.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CorruptError(
                f"{path}: {name} has values that are not finite; train or fetch the adapter again"
            )
    if rows := saved_rows(checkpoint):
        model.resize_token_embeddings(rows, mean_resizing=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keys that do not fit are errors below
            adapted = PeftModel.from_pretrained(model, str(adapter))
            wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
            _check_keys(set(held), set(wanted), set(adapted.state_dict()))
            if not hasattr(adapted.base_model, "merge_and_unload"):
                raise ValueError(
                    f"peft_type {config.peft_type.value} cannot be merged into weights"
                )
            return adapted.merge_and_unload()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, KeyError):
            reason = f"its file lacks {error.args[0]}"
        raise IncompatibleError(
            f"{adapter}: the adapter does not fit the base {checkpoint.weights}: {reason[:200]}; "
            "give its own base (--base), or save the adapter again"
        ) from None


def _check_keys(held: set[str], wanted: set[str], model: set[str]) -> None:
    """Raise ValueError where the file lacks weights or has some that the model has no place for."""
    if lacking := sorted(wanted - held):
        raise ValueError(f"its file lacks {lacking[0]}{_more(lacking)}")
    # Embeddings may be saved beside what was trained.
    if foreign := sorted(held - wanted - model):
        raise ValueError(f"it has {foreign[0]}{_more(foreign)}, the base has no place for it")


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _weights_file(adapter: Path) -> Path:
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (adapter / name).is_file():
            check_fetched(adapter / name)
            return adapter / name
    raise CorruptError(f"{adapter}: has adapter_config.json but no adapter_model.safetensors")
