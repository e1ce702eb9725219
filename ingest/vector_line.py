"""One text with its ready vector, as a file holds it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.document import Document
from ..core.lines import Line


@dataclass(frozen=True)
class VectorLine:
    """One text with its vector.

    Attributes:
        line: where it stands.
        document: id and text, title and metadata if there.
        terms: terms of the vector, none repeated.
        weights: float32 [len(terms)], finite and > 0.
        has_ids: whether the line itself says that its terms are integer ids, by ``indices``.
    """

    line: Line
    document: Document
    terms: list[str]
    weights: NDArray[np.float32]
    has_ids: bool
