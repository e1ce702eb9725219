"""Weights of the body's linear layers in 8 or 4 bits, by bitsandbytes, on CUDA and on the CPU."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from ..errors import InputError

# bitsandbytes reports kernels that it could fetch from a hub, and at every product that it casts to float16.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

QUANTIZATIONS = ("none", "int8", "nf4", "fp4")


def quantize_linears(body: nn.Module, quantization: str, device: str) -> None:
    """Replace every ``nn.Linear`` below ``body`` in place. The LM head is no part of the body and stays as it is.

    Args:
        body: the decoder, its adapter already merged.
        quantization: ``none``, ``int8`` (LLM.int8, row-wise), ``nf4`` or ``fp4`` (blocks of 64 weights).
        device: where the layers will run; packing happens on the move to it.

    Raises:
        InputError: an unknown name.
    """
    if quantization not in QUANTIZATIONS:
        raise InputError(f"quantization is {quantization!r}, must be one of {', '.join(QUANTIZATIONS)}")
    if quantization == "none":
        return
    from bitsandbytes import nn as packed_nn

    for parent in list(body.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is not nn.Linear:
                continue
            size = (linear.in_features, linear.out_features, linear.bias is not None)
            weight = linear.weight.data.contiguous()
            if quantization == "int8":
                packed: Any = packed_nn.Linear8bitLt(*size, has_fp16_weights=False)
                packed.weight = packed_nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
            else:
                packed = packed_nn.Linear4bit(*size, compute_dtype=weight.dtype, quant_type=quantization)
                packed.weight = packed_nn.Params4bit(weight, requires_grad=False, quant_type=quantization)
            packed.bias = linear.bias
            setattr(parent, name, packed.to(device))


def default_dtype(device: str) -> torch.dtype:
    """bfloat16 where matrix products in it are quick, else float32."""
    if device != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
