"""Score a batch of queries against many blocks on one device, exact in int32.

``scores[q, b, d] = sum over shared terms of query impact * document impact``, for documents that
the mask keeps, else 0: the numbers of :func:`csplade.kernels.score.reference.score`. Three backends
give the same bytes:

- ``torch``: plain torch, term by term, on any device (``reference.py``);
- ``triton``: global atomics; runs in the interpreter too (``triton.py``);
- ``gluon``: the sums of a block in shared memory; the fast one (``gluon.py``).

Both kernels first run ``plan``: for every query, block and term it reads where the postings lie and
cuts them into chunks, so that a term with five postings costs one step of a warp and not a program.
The plan also counts the postings read. Terms with a dense column are added to the sums when these
are read.

Bytes moved per query by the kernels, with P postings of its sparse terms, C columns of its dense
terms, D documents, m terms, B blocks: 3 P + C D + 4 D (scores written once) + 8 D / 512 (tile keys)
+ D (mask, where there is one) + 30 m B (tables read, plan written and read). For P = 40 M, C = 0, D
= 8.8 M, m = 43, B = 540: 121 + 35 + 0.1 + 8.8 + 0.7 MB.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from ...core.errors import InputError
from ..runtime.launch import Support, use_triton
from . import gluon, reference, triton
from .types import TILE_DOCUMENTS, BlockScores, Postings, Queries, check_mask


class KernelBackend(Protocol):
    """Implement ``score_blocks`` in one way; the modules of this package are backends."""

    def supports(self, postings: Postings) -> Support:
        """Say whether this backend takes these postings, or why not."""

    def score_blocks(
        self, queries: Queries, postings: Postings, mask: Tensor | None, k: int
    ) -> BlockScores:
        """Score checked queries, see :func:`score_blocks`."""


# By speed, the fastest first.
BACKENDS: MappingProxyType[str, KernelBackend] = MappingProxyType(
    {"gluon": gluon, "triton": triton, "torch": reference}
)


def bytes_per_query(blocks: int, width: int, longest: int) -> int:
    """Return the device memory of ``score_blocks`` for one query: scores, tile keys and plan."""
    return blocks * (4 * width + 8 * (width // TILE_DOCUMENTS) + 12 * longest)


def choose_backend(postings: Postings) -> str:
    """Return the name of the fastest backend for these postings."""
    if not use_triton(postings.rows):
        return "torch"
    return next(name for name, backend in BACKENDS.items() if backend.supports(postings))


def check_backend(name: str, postings: Postings) -> None:
    """Check that a backend exists and takes these postings.

    Raises:
        InputError: it does not; the message says why.
    """
    if name not in BACKENDS:
        raise InputError(f"backend: {name!r} is unknown; allowed {', '.join(BACKENDS)}")
    if not (support := BACKENDS[name].supports(postings)):
        raise InputError(
            f"backend: {name!r} cannot score these postings: {support.reason}; use None to let "
            "the fastest be chosen"
        )


def score_blocks(
    queries: Queries,
    postings: Postings,
    *,
    mask: Tensor | None = None,
    k: int = 0,
    backend: str | None = None,
) -> BlockScores:
    """Score every query against every block; only the ``torch`` backend waits for the device.

    Args:
        queries: n queries on the device of the postings.
        postings: B blocks, at most 65,535 for the kernels.
        mask: uint8 [B * block_size] for all queries, or [n, B * block_size] for each its own; 0
            excludes the document from scores and ``matched``. A byte per document: one pass reads
            8.8 MB for 8.8 M documents, a quarter of the scores written in that pass.
        k: how many of the best documents are asked for: scores of tiles that cannot hold one may be
            left out; 0 leaves none out.
        backend: ``torch``, ``triton`` or ``gluon``; None takes the fastest that supports these
            postings.

    Raises:
        InputError: ``mask`` does not fit, or the backend is unknown or does not take the postings.
    """
    name = choose_backend(postings) if backend is None else backend
    check_backend(name, postings)
    check_mask(mask, len(queries), postings)
    if not len(queries) or not postings.blocks:
        name = "torch"
    return BACKENDS[name].score_blocks(queries, postings, mask, k)
