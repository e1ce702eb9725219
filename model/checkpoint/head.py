"""``head.safetensors``: the terms that a model keeps, their biases, the folding of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ...core.errors import CorruptError
from .files import first_line

HEAD_FILE = "head.safetensors"


@dataclass(frozen=True)
class Head:
    """What a model directory says about its head.

    Attributes:
        terms: int32 [Vk], the terms that it keeps, ascending.
        bias: float32 [Vk], added to their raw logits.
        folded: int32 [V], the term that each token stands for (see :mod:`..training.folding`); not
            always a kept one.
    """

    terms: NDArray[np.int32]
    bias: NDArray[np.float32]
    folded: NDArray[np.int32]

    @property
    def rows(self) -> NDArray[np.int64]:
        """int64 [V]: row among the kept terms of each token's term, -1 where it is not kept."""
        rows = np.full(len(self.folded), -1)
        rows[self.terms] = np.arange(len(self.terms))
        return rows[self.folded]


def load_head(directory: Path, vocabulary_size: int) -> Head:
    """Read ``head.safetensors``; without one all terms are kept, no bias is added, none is folded.

    Raises:
        CorruptError: a file that is not readable.
    """
    path = directory / HEAD_FILE
    all_terms = np.arange(vocabulary_size, dtype=np.int32)
    if not path.is_file():
        return Head(all_terms, np.zeros(vocabulary_size, dtype=np.float32), all_terms)
    try:
        tensors = load_file(path)
        return Head(
            tensors["terms"],
            tensors["bias"].astype(np.float32),
            tensors.get("folded", all_terms),
        )
    except Exception as error:
        raise CorruptError(f"{path}: not readable: {first_line(error)}") from None


def save_head(directory: Path, head: Head) -> None:
    """Write ``head.safetensors``: the bias as float16, the folding only if there is one."""
    tensors: dict[str, NDArray[Any]] = {
        "terms": head.terms.astype(np.int32),
        "bias": head.bias.astype(np.float16),
    }
    if not np.array_equal(head.folded, np.arange(len(head.folded))):
        tensors["folded"] = head.folded.astype(np.int32)
    save_file(tensors, directory / HEAD_FILE)
