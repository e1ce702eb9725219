"""Score and select together, in pieces that fit a workspace; the host never waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import InputError
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
    first_ordinal: int = 0,
    shard: int = 0,
    shards: int = 1,
    backend: str | None = None,
    workspace: int = WORKSPACE_BYTES,
    mark: Callable[[str], None] = lambda stage: None,
) -> Found:
    """Find the k best documents of each query among some blocks, exactly.

    The answers of several segments and shards merge by ``select.api.merge_keys`` and by adding
    ``matched`` and ``postings``. The same input gives the same bytes with every backend and every
    workspace.

    Args:
        queries: n queries on the device of the postings.
        postings: B blocks of one shard, of consecutive ordinals.
        k: 1 to 10,000; more than there are matches gives the matches.
        mask: uint8 [B * block_size] or [n, B * block_size], 0 for documents to exclude; None
            keeps all.
        first_ordinal: ordinal of the first block's first document.
        shard, shards: the postings' shard and how many there are, for the keys.
        backend: as for :func:`.api.score_blocks`.
        workspace: bytes of a piece at most. Queries are taken in groups, and blocks too if one
            query alone takes more; one query over one block is the smallest piece.
        mark: called with "score" and "select" when the work of that stage is enqueued.

    Raises:
        InputError: ``k``, ``mask``, ``backend`` or the ordinals are out of bounds.
    """
    check_k(k)
    check_mask(mask, len(queries), postings)
    last = (first_ordinal + postings.blocks * postings.block_size) * shards
    if not 0 <= shard < shards or first_ordinal < 0 or last > 2**32:
        raise InputError(
            f"ordinals: from {first_ordinal} in shard {shard} of {shards} they reach {last}; keys "
            f"hold up to {2**32}"
        )
    n, blocks = len(queries), postings.blocks
    if not n or not blocks:
        zeros = torch.zeros(n, dtype=torch.int64, device=postings.device)
        none = torch.zeros((n, k), dtype=torch.int64, device=postings.device)
        return Found(none, zeros.to(torch.int32), zeros, zeros)
    group = max(1, workspace // workspace_bytes(blocks, postings.width, queries.longest, k))
    step = blocks
    while step > MAX_BLOCKS or (
        step > 1 and workspace_bytes(step, postings.width, queries.longest, k) > workspace
    ):
        step = -(-step // 2)

    def piece(first_query: int, first_block: int) -> Found:
        last_query, last_block = min(first_query + group, n), min(first_block + step, blocks)
        places = slice(first_block * postings.block_size, last_block * postings.block_size)
        kept = None
        if mask is not None:
            kept = (
                mask[places]
                if mask.ndim == 1
                else mask[first_query:last_query, places].contiguous()
            )
        scores = scoring.score_blocks(
            queries.between(first_query, last_query),
            postings.between(first_block, last_block),
            mask=kept,
            backend=backend,
        )
        mark("score")
        keys, counts = selection.select_blocks(
            scores,
            k,
            first_ordinal=first_ordinal + places.start,
            shard=shard,
            shards=shards,
            backend=backend and ("torch" if backend == "torch" else "triton"),
        )
        mark("select")
        return Found(keys, counts, scores.matched, scores.postings)

    rows = [
        _join([piece(first_query, first_block) for first_block in range(0, blocks, step)], k)
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
    """Compile every kernel that a search of these postings can launch."""
    if not postings.blocks:
        return
    nothing = torch.zeros(0, dtype=torch.int32, device=postings.device)
    indptr = torch.zeros(2, dtype=torch.int64, device=postings.device)
    mask = torch.ones(
        postings.blocks * postings.block_size, dtype=torch.uint8, device=postings.device
    )
    for kept in (None, mask):
        search_blocks(Queries(indptr, nothing, nothing, SLOT_TERMS), postings, 1, mask=kept)


def _join(parts: list[Found], k: int) -> Found:
    """Merge what several runs of blocks found for the same queries."""
    if len(parts) == 1:
        return parts[0]
    keys, counts = selection.merge_keys([part.keys for part in parts], k)
    matched, postings = parts[0].matched, parts[0].postings
    for part in parts[1:]:
        matched, postings = matched + part.matched, postings + part.postings
    return Found(keys, counts, matched, postings)
