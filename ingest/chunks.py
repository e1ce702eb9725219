"""Documents in fixed chunks, which lie at the same places however often a job is resumed.

A text is always encoded together with the same others, so that its vector comes out the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

TEXTS = 256  # a chunk of texts to encode
VECTORS = 1024  # a chunk of ready vectors


def chunks(source: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items of ``source`` in lists of ``size``, the last one shorter."""
    rows = iter(source)
    while chunk := list(islice(rows, size)):
        yield chunk
