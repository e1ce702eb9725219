"""Transpose postings in bounded memory: they come by row and leave by column."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from tempfile import SpooledTemporaryFile
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..core.vectors import offsets

PARTS = 256  # files at most
PART_COLUMNS = 2**15  # of a part at least, where only the number of columns is known
PART_POSTINGS = 2**22  # of a part at least, where the postings of each column are known
SPOOL_BYTES = 2**20  # of a part in memory, before it moves to a file

_POSTING = np.dtype([("column", "<i4"), ("row", "<i4"), ("value", "<i4")])


def even_parts(columns: int) -> NDArray[np.int64]:
    """Return the bounds of parts that have as many of the columns each."""
    size = max(PART_COLUMNS, -(-columns // PARTS))
    return np.append(np.arange(0, columns, size, dtype=np.int64), columns)


def balanced_parts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bounds of parts that have about as many postings each.

    Args:
        lengths: int64 [n], postings of each column.
    """
    ends = offsets(lengths)
    size = max(PART_POSTINGS, -(-int(ends[-1]) // PARTS))
    cuts = np.searchsorted(ends, np.arange(0, ends[-1], size))
    return np.unique(np.append(cuts, len(lengths)))


class Transposition:
    """Sort postings by column, a part of the columns at a time.

    Parts wait in temporary files, 12 bytes a posting; sorting one takes 28 bytes a posting in
    memory. Use as a context manager, which deletes the files.

    Args:
        bounds: int64 [parts + 1], from 0 to the number of columns; see :func:`even_parts` and
            :func:`balanced_parts`.
    """

    def __init__(self, bounds: NDArray[np.int64]) -> None:
        self._bounds = bounds
        self._files = [
            SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115, closed with this object
            for _ in bounds[1:]
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def add(
        self, columns: NDArray[Any], rows: int | NDArray[Any], values: NDArray[np.int32]
    ) -> None:
        """Add postings.

        Args:
            columns: int [p], 0 to n - 1.
            rows: int [p], or the one row of all of them.
            values: int32 [p].
        """
        postings = np.empty(len(columns), _POSTING)
        postings["column"], postings["row"], postings["value"] = columns, rows, values
        parts = np.searchsorted(self._bounds, columns, side="right") - 1
        postings = postings[np.argsort(parts, kind="stable")]
        ends = offsets(np.bincount(parts, minlength=len(self._files)))
        for part in np.flatnonzero(np.diff(ends)).tolist():
            self._files[part].write(postings[ends[part] : ends[part + 1]].tobytes())

    def columns(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Yield rows and values of every column, each in the order in which they were added."""
        for part, file in enumerate(self._files):
            first, last = self._bounds[part : part + 2].tolist()
            file.seek(0)
            postings = np.frombuffer(file.read(), _POSTING)
            file.close()
            order = np.argsort(postings["column"], kind="stable")
            rows, values = postings["row"][order], postings["value"][order]
            lengths = np.bincount(postings["column"] - first, minlength=last - first)
            del postings, order
            for start, end in pairwise(offsets(lengths).tolist()):
                yield rows[start:end], values[start:end]
