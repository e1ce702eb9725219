"""Names of devices: cpu, cuda, cuda:N."""

from __future__ import annotations

import torch

from .errors import InputError


def find_device(name: str) -> torch.device:
    """The torch device of that name, a GPU with its number.

    Raises:
        InputError: no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device is {name!r}, allowed cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    number = torch.cuda.current_device() if device.index is None and count else device.index or 0
    if number >= count:
        raise InputError(f"device is {name!r}, but torch sees {count} CUDA devices; use cpu")
    return torch.device("cuda", number)
