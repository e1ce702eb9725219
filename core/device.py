"""The one parser of device settings: auto, cpu, cuda, cuda:N, and lists of GPUs."""

from __future__ import annotations

import ctypes
import re

from .errors import InputError


def find_device(name: str, setting: str = "device") -> str:
    """Return the canonical name of a device of this machine: "cpu" or "cuda:N".

    torch is imported only where a GPU may be meant, so that CPU-only programs start quickly.

    Args:
        name: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        setting: what the user calls this setting, for errors.

    Raises:
        InputError: another name, or a GPU that this machine does not have.
    """
    if name == "cpu" or (name == "auto" and not _has_driver()):
        return "cpu"
    match = re.fullmatch(r"auto|cuda(?::([0-9]+))?", name)
    if match is None:
        raise InputError(
            f"{setting}: {name!r} is unknown; allowed auto, cpu, cuda, cuda:N, for an index also "
            "cuda:all and cuda:N,cuda:M"
        )
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto" and not count:
        return "cpu"
    number = int(match[1]) if match[1] else None
    if number is None and count:
        number = torch.cuda.current_device()
    if number is None or number >= count:
        raise InputError(
            f"{setting}: {name!r} is not available, torch sees {count} CUDA devices; "
            "allowed auto, cpu or a device that exists; use cpu"
        )
    return f"cuda:{number}"


def find_devices(names: str, setting: str = "device") -> tuple[str, ...]:
    """Return the canonical names of one or several devices of this machine.

    Args:
        names: as for :func:`find_device`, or several GPUs: "cuda:0,cuda:2", or "cuda:all".
        setting: what the user calls this setting, for errors.

    Raises:
        InputError: another name, a GPU that this machine does not have or that is named twice, or
            "cpu" or "auto" in a list.
    """
    if names == "cuda:all":
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        names = ",".join(f"cuda:{number}" for number in range(count)) or "cuda"
    if "," not in names:
        return (find_device(names, setting),)
    listed = [name.strip() for name in names.split(",")]
    if any(not name.startswith("cuda") for name in listed):
        raise InputError(f"{setting}: {names!r} is unknown; a list names only GPUs, cuda:N")
    found = tuple(find_device(name, setting) for name in listed)
    if len(set(found)) < len(found):
        raise InputError(f"{setting}: {names!r} names a GPU twice; name each once")
    return found


def _has_driver() -> bool:
    """Return whether a CUDA driver is installed; without one torch need not be asked."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
