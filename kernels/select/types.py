"""Bound what selection takes."""

from __future__ import annotations

from ...core.errors import InputError

# Documents that one search returns at most.
MAX_K = 10_000


def check_k(k: int) -> None:
    """Check that ``k`` is 1 to 10,000.

    Raises:
        InputError: it is not.
    """
    if not 1 <= k <= MAX_K:
        raise InputError(f"k: {k} is out of range; allowed 1 to {MAX_K}")
