"""Score and select together, in pieces that fit a workspace; the host never waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..select import api as selection
from ..select.types import check_k
from . import api as scoring
from .types import MAX_BLOCKS, SLOT_TERMS, TILE_DOCUMENTS, Postings, Queries, check_mask

# Scores of 8.8 M documents take 35 MB per query, so this holds some fifty queries at once.
WORKSPACE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Found:
    """Hold the ranked documents of n queries on their device.

    Attributes:
        keys: int64 [n, k], descending, padded with 0: see ``core/ranking_key.py``.
        counts: int32 [n], keys that are not padding.
        matched: int64 [n], documents in the mask that share a term with the query.
        postings: int64 [n], postings read.
    """

    keys: Tensor
    counts: Tensor
    matched: Tensor
    postings: Tensor

    @classmethod
    def nothing(cls, n: int, k: int, device: torch.device) -> Found:
        """Return the answer of a search in no blocks."""
        zeros = torch.zeros(n, dtype=torch.int64, device=device)
        none = torch.zeros((n, k), dtype=torch.int64, device=device)
        return cls(none, zeros.to(torch.int32), zeros, zeros)

    def to(self, device: torch.device) -> Found:
        """Return the answer on a device, copied without waiting."""
        return Found(*(each.to(device, non_blocking=True) for each in vars(self).values()))

    @classmethod
    def joined(cls, parts: Sequence[Found], k: int) -> Found:
        """Return the k best documents of all parts, which are answers to the same queries.

        The order of the parts does not matter.
        """
        if len(parts) == 1:
            return parts[0]
        keys, counts = selection.merge_keys([part.keys for part in parts], k)
        matched, postings = parts[0].matched, parts[0].postings
        for part in parts[1:]:
            matched, postings = matched + part.matched, postings + part.postings
        return cls(keys, counts, matched, postings)


def workspace_bytes(blocks: int, width: int, longest: int, k: int) -> int:
    """Return the device memory of a search for one query over ``blocks`` blocks.

    ``blocks (4 width + width / 32 + 12 longest) + min(k, blocks width / 512) 4,104 + 24 k``: for
    540 blocks of 2^14, 48 terms and k = 1,000 that is 35.9 + 4.1 MB; for k = 10,000, 77 MB.
    """
    return scoring.bytes_per_query(blocks, width, longest) + selection.bytes_per_query(
        blocks * width // TILE_DOCUMENTS, k
    )


def search_blocks(
    queries: Queries,
    postings: Postings,
    k: int,
    *,
    mask: Tensor | None = None,
    backend: str | None = None,
    workspace: int = WORKSPACE_BYTES,
    mark: Callable[[str], None] = lambda stage: None,
) -> Found:
    """Find the k best documents of each query among some blocks, exactly.

    The answers of several shards merge by ``select.api.merge_keys`` and by adding ``matched`` and
    ``postings``. The same input gives the same bytes with every backend and every workspace.

    Args:
        queries: n queries on the device of the postings.
        postings: B blocks of one shard.
        k: 1 to 10,000; more than there are matches gives the matches.
        mask: uint8 [B * block_size] or [n, B * block_size], 0 for documents to exclude; None
            keeps all.
        backend: as for :func:`.api.score_blocks`.
        workspace: bytes of a piece at most. Queries are taken in groups, and blocks too if one
            query alone takes more; one query over one block is the smallest piece.
        mark: called with "score" and "select" when the work of that stage is enqueued.

    Raises:
        InputError: ``k``, ``mask`` or ``backend`` is out of bounds.
    """
    check_k(k)
    check_mask(mask, len(queries), postings)
    n, blocks = len(queries), postings.blocks
    if not n or not blocks:
        return Found.nothing(n, k, postings.device)
    group = max(1, workspace // workspace_bytes(blocks, postings.width, queries.longest, k))
    step = blocks
    while step > MAX_BLOCKS or (
        step > 1 and workspace_bytes(step, postings.width, queries.longest, k) > workspace
    ):
        step = -(-step // 2)

    def piece(first_query: int, first_block: int) -> Found:
        last_query, last_block = min(first_query + group, n), min(first_block + step, blocks)
        places = slice(first_block * postings.block_size, last_block * postings.block_size)
        part, kept = postings.between(first_block, last_block), None
        if mask is not None:
            kept = (
                mask[places]
                if mask.ndim == 1
                else mask[first_query:last_query, places].contiguous()
            )
        scores = scoring.score_blocks(
            queries.between(first_query, last_query), part, mask=kept, k=k, backend=backend
        )
        mark("score")
        keys, counts = selection.select_blocks(
            scores,
            part,
            k,
            backend=backend and ("torch" if backend == "torch" else "triton"),
        )
        mark("select")
        return Found(keys, counts, scores.matched, scores.postings)

    rows = [
        Found.joined([piece(first_query, first_block) for first_block in range(0, blocks, step)], k)
        for first_query in range(0, n, group)
    ]
    if len(rows) == 1:
        return rows[0]
    return Found(
        torch.cat([row.keys for row in rows]),
        torch.cat([row.counts for row in rows]),
        torch.cat([row.matched for row in rows]),
        torch.cat([row.postings for row in rows]),
    )


def warm_up(postings: Postings) -> None:
    """Compile every kernel that a search of these postings can launch, if any."""
    if not postings.blocks or scoring.choose_backend(postings) == "torch":
        return
    nothing = torch.zeros(0, dtype=torch.int32, device=postings.device)
    indptr = torch.zeros(2, dtype=torch.int64, device=postings.device)
    mask = torch.ones(
        postings.blocks * postings.block_size, dtype=torch.uint8, device=postings.device
    )
    for kept in (None, mask):
        search_blocks(Queries(indptr, nothing, nothing, SLOT_TERMS), postings, 1, mask=kept)
