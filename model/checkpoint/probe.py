"""What a language model does to the output of its head, found by its own logits on a probe.

The network computes ``head(body(tokens))`` in tiles of the vocabulary. Some models change logits
after that: a constant factor (Granite, Cohere, Falcon-H1) is folded into the activation's scale,
anything else (soft-capping) cannot be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import IncompatibleError

TOLERANCE = 1e-5  # of the largest logit, in float32


def probe_inputs() -> dict[str, Tensor]:
    """Return one text of four tokens."""
    return {
        "input_ids": torch.tensor([[1, 2, 3, 4]]),
        "attention_mask": torch.ones(1, 4, dtype=torch.int64),
    }


@torch.inference_mode()
def logits(model: Any, head: nn.Module) -> tuple[Tensor, Tensor]:
    """Return a model's own logits on the probe, [4, V], and what its head gave there.

    Raises:
        IncompatibleError: the model does not call its head, or the logits are not finite.
    """
    seen: list[Tensor] = []
    hook = head.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        own = model(**probe_inputs(), use_cache=False).logits
    finally:
        hook.remove()
    name = type(model).__name__
    if not seen:
        raise IncompatibleError(f"{name} does not call its output layer, so it cannot be replaced")
    if not bool(torch.isfinite(own).all()):
        raise IncompatibleError(
            f"{name} gives logits that are not finite, although its weights are: it overflows in "
            f"{own.dtype}; load it in another dtype, or another checkpoint"
        )
    return own, seen[-1]


def head_factor(model: Any, head: nn.Module) -> float:
    """Return the constant that a model multiplies the output of its head by, most often 1.

    Raises:
        IncompatibleError: it does something else with the output.
    """
    own, plain = logits(model, head)
    if torch.equal(own, plain):
        return 1.0
    for value in _numbers(model.config.to_dict()):
        if torch.equal(own, plain * value):
            return value
        if value and torch.equal(own, plain / value):
            return 1 / value
    own, plain = (x.double() for x in _in_float32(model, head))
    factor = float((own * plain).sum() / plain.square().sum().clamp(min=1e-30))
    if not factor > 0 or float((own - factor * plain).abs().max()) > TOLERANCE * float(
        own.abs().max()
    ):
        raise IncompatibleError(
            f"{type(model).__name__} changes its logits after the output layer by more than a "
            "constant factor (such as soft-capping), which is not supported"
        )
    return factor


def _in_float32(model: Any, head: nn.Module) -> tuple[Tensor, Tensor]:
    """Return :func:`logits` with the weights in float32 for as long as it takes."""
    dtypes = [(parameter, parameter.dtype) for parameter in model.parameters()]
    for parameter, _ in dtypes:
        parameter.data = parameter.data.float()
    try:
        return logits(model, head)
    finally:
        for parameter, dtype in dtypes:
            parameter.data = parameter.data.to(dtype)


def _numbers(config: dict[str, Any]) -> Iterator[float]:
    for value in config.values():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            yield float(value)
