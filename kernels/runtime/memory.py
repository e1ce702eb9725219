"""Divide the memory that a GPU has beside weights and index, before requests come.

torch is imported only where a GPU is asked, so that programs without one do not load it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

GIB = 2**30


@dataclass(frozen=True)
class WorkingMemory:
    """Memory of one GPU for what comes and goes with requests, in three equal shares.

    Attributes:
        total: bytes.
    """

    total: int = 6 * GIB

    @property
    def search(self) -> int:
        """Return the bytes for sums and candidates of a search; larger batches go in pieces."""
        return self.total // 3

    @property
    def recorded(self) -> int:
        """Return the bytes for recorded work, which keeps memory of its own."""
        return self.total // 3

    @property
    def activations(self) -> int:
        """Return the bytes for activations of the encoder; larger batches go in pieces."""
        return self.total // 3

    def reserve(self, device: str) -> None:
        """Take what requests will need from a GPU now; torch keeps it for them.

        Args:
            device: "cuda:0" ...

        Raises:
            torch.OutOfMemoryError: it is not there.
        """
        import torch

        shares = (self.search, self.activations)
        held = [torch.empty(size, dtype=torch.uint8, device=device) for size in shares]
        del held


WORKING_MEMORY = WorkingMemory()


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU in bytes; None for the CPU."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
