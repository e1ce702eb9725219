"""Weights in 8 or 4 bits: the body's linear layers by bitsandbytes, and the head on request."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UnavailableError
from .checkpoint.layout import Checkpoint

# bitsandbytes reports kernels that it could fetch from a hub, and at every product that it casts to
# float16.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# Share of a GPU's free memory that unpacked weights may take; the rest is lost in pieces.
UNPACKED_SHARE = 0.9


def choose_quantization(checkpoint: Checkpoint, device: str, reserved: int) -> str:
    """Return nf4 on a GPU whose memory the weights in bfloat16 would fill, else none.

    Args:
        checkpoint: that is to be loaded.
        device: where.
        reserved: bytes of free memory that others need.
    """
    if not device.startswith("cuda"):
        return "none"
    room = torch.cuda.mem_get_info(device)[0] - reserved
    return "none" if 2 * checkpoint.parameters() <= UNPACKED_SHARE * room else "nf4"


def quantize_linears(body: nn.Module, quantization: str, device: str) -> None:
    """Replace every ``nn.Linear`` below ``body`` in place.

    The LM head is not part of the body, see :class:`PackedHead`.

    Args:
        body: the decoder, its adapter already merged.
        quantization: ``none``, ``int8`` (LLM.int8, row-wise), ``nf4`` or ``fp4`` (blocks of 64
            weights).
        device: where the layers will run; packing happens on the move to it.

    Raises:
        UnavailableError: bitsandbytes is not there, or cannot do it on this device.
    """
    if quantization == "none":
        return
    packed_nn = _bitsandbytes(quantization).nn
    if (
        device.startswith("cuda")
        and quantization == "int8"
        and torch.cuda.get_device_capability(device) < (7, 5)
    ):
        raise UnavailableError(
            "quantization int8 needs a GPU of compute capability 7.5 or more, "
            f"{torch.cuda.get_device_name(device)} has "
            f"{'.'.join(map(str, torch.cuda.get_device_capability(device)))}; choose nf4, fp4 or "
            "none"
        )
    for parent in list(body.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is not nn.Linear:
                continue
            size = (linear.in_features, linear.out_features, linear.bias is not None)
            weight = linear.weight.data.contiguous()
            if quantization == "int8":
                packed: Any = packed_nn.Linear8bitLt(*size, has_fp16_weights=False)
                packed.weight = packed_nn.Int8Params(
                    weight, requires_grad=False, has_fp16_weights=False
                )
            else:
                packed = packed_nn.Linear4bit(
                    *size, compute_dtype=weight.dtype, quant_type=quantization
                )
                packed.weight = packed_nn.Params4bit(
                    weight, requires_grad=False, quant_type=quantization
                )
            packed.bias = linear.bias
            setattr(parent, name, packed.to(device))


class PackedHead(nn.Module):
    """Rows of the LM head in 8 or 4 bits, unpacked as a whole each time they are used.

    That saves memory between uses, not time: the rows in full are there while a batch is encoded.
    Where the rows are the input embeddings too (a tied head that keeps all terms) it saves nothing,
    since those stay.

    Args:
        rows: float [Vk, H].
        quantization: ``int8`` (one scale a row), ``nf4`` or ``fp4`` (blocks of 64 weights).
    """

    packed: Tensor
    scale: Tensor

    def __init__(self, rows: Tensor, quantization: str) -> None:
        super().__init__()
        self.dtype, self.quantization = rows.dtype, quantization
        self._state: Any = None
        if quantization == "int8":
            scale = rows.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            packed = torch.round(rows.float() / scale).to(torch.int8)
        else:
            functional = _bitsandbytes(quantization).functional
            packed, self._state = functional.quantize_4bit(
                rows.contiguous(), quant_type=quantization
            )
            scale = self._state.absmax
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self) -> Tensor:
        """Return the rows, float [Vk, H] in the dtype they came in."""
        if self._state is None:
            return (self.packed * self.scale).to(self.dtype)
        rows: Tensor = _bitsandbytes(self.quantization).functional.dequantize_4bit(
            self.packed, self._state
        )
        return rows.to(self.dtype)


def weight_bytes(network: nn.Module) -> int:
    """Return the bytes of a network's weights, scales included; shared ones count once."""
    held: dict[int, int] = {}

    def count(tensor: Any) -> None:
        if isinstance(tensor, Tensor):
            held[tensor.data_ptr()] = tensor.numel() * tensor.element_size()

    for tensor in (*network.parameters(), *network.buffers()):
        count(tensor)
        count(getattr(getattr(tensor, "quant_state", None), "absmax", None))
        count(getattr(tensor, "SCB", None))
    return sum(held.values())


def _bitsandbytes(quantization: str) -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise UnavailableError(
            f"quantization {quantization} needs bitsandbytes ({error}): pip install "
            "'csplade[server]', or choose none"
        ) from None
    return bitsandbytes


def default_dtype(device: str) -> torch.dtype:
    """Return bfloat16 where its matrix products are fast, else float32."""
    if device != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
