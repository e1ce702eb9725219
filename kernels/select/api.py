"""Select the best documents of each query: exact, in one fixed order, on one device.

A candidate is one int64 key that sorts as hits rank: its score above 32 bits that hold 2^32 - 1
minus the arrival number ``ordinal * shards + shard``. So greater is better, equal scores are
ordered by ordinal, then by shard; keys of any segments and shards merge by sorting; and no two
documents share a key, so "the k greatest" is one set, whatever order programs ran in. 0 stands for
"no hit". The CPU scorer packs the same keys.

``select_blocks`` reads each score at most once more. The scorer left the best score of every tile
of 512 documents, with the number of the tile below it as in a key. The k best documents lie in the
k tiles with the greatest keys: were the tile of one of them not among these, k tiles would each
hold a document with a higher score, or with the same score and a smaller ordinal. So:

1. collect the tile keys in the bins of the scorer's histogram that k tiles reach: some k + 100 of
   17 k for 8.8 M documents, all programs at work;
2. pick the k greatest of them (one program per query; digit histograms);
3. in these tiles keep documents whose score is no less than that of the last tile picked: some
   1,030 remain of 512,000 when k = 1,000, by a Poisson estimate; k * 512 in the worst case, for
   which there is room;
4. pick the k greatest of these;
5. sort them.

Bytes per query, beside the scores: tile keys 8 D / 512 and a histogram of 8 KB per program of the
first step; 2,048 min(k, tiles) to expand tiles. For D = 8.8 M and k = 1,000: 0.3 MB and 2 MB,
against 35 MB for one pass over the scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.errors import InputError
from ...core.ranking_key import LAST_ARRIVAL
from ..runtime.launch import triton_support, use_triton
from ..score.types import TILE_DOCUMENTS, BlockScores, Postings
from . import triton as select_triton
from .types import check_k

BACKENDS = ("triton", "torch")


def _choose_backend(name: str | None, tensor: Tensor) -> str:
    if name is None:
        return "triton" if use_triton(tensor) else "torch"
    if name not in BACKENDS:
        raise InputError(f"backend: {name!r} is unknown; allowed {', '.join(BACKENDS)}")
    if name == "triton" and not (support := triton_support(tensor.device)):
        raise InputError(f"backend: 'triton' cannot select here: {support.reason}; use 'torch'")
    return name


def bytes_per_query(tiles: int, k: int) -> int:
    """Return the device memory of ``select_blocks`` for one query with ``tiles`` tiles."""
    return 8 * tiles + min(k, tiles) * (8 * TILE_DOCUMENTS + 8) + 3 * 8 * k


def select_keys(
    keys: Tensor, k: int, counts: Tensor, *, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Pick the k greatest keys of each row, in unspecified order.

    Args:
        keys: int64 [n, m], contiguous, >= 0; keys > 0 differ within a row.
        k: at least 1.
        counts: int32 [n], how many keys of each row are filled.
        backend: ``torch`` or ``triton``; None takes triton on a GPU that runs it.

    Returns:
        best int64 [n, k], padded with 0; kept int32 [n], how many are not padding; least int64 [n],
        at least 1, a bound that exactly the picked keys of the row reach (not itself a key).

    Raises:
        InputError: the backend is unknown or does not run here.
    """
    if _choose_backend(backend, keys) == "triton":
        return select_triton.select_keys(keys, k, counts)
    filled = torch.arange(keys.shape[1], device=keys.device) < counts[:, None]
    keys = torch.where(filled, keys, 0)
    best = _pad(keys.topk(min(k, keys.shape[1]), dim=1).values, k)
    return best, (best > 0).sum(dim=1, dtype=torch.int32), best[:, -1].clamp(min=1)


def select_blocks(
    scores: BlockScores, postings: Postings, k: int, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return the k best documents of each query in some blocks; the host does not wait.

    Args:
        scores: of ``score_blocks``; documents with score 0 are not hits.
        postings: that were scored.
        k: 1 to 10,000; more than there are matches gives the matches.
        backend: as for ``select_keys``.

    Returns:
        keys int64 [n, k], descending, padded with 0; counts int32 [n], how many are not padding.

    Raises:
        InputError: ``k`` is out of range, or the backend is unknown or does not run here.
    """
    check_k(k)
    if _choose_backend(backend, scores.scores) == "torch":
        return merge_keys([_every_key(scores, postings)], k)
    collected, filled = select_triton.collect_tiles(scores, k)
    slots = min(k, collected.shape[1])
    tiles, _, least = select_triton.select_keys(collected, slots, filled)
    candidates, counts = select_triton.expand_tiles(scores, postings, tiles, least)
    best, kept, _ = select_triton.select_keys(candidates, k, counts)
    return best.sort(dim=1, descending=True).values, kept


def merge_keys(parts: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Return the k greatest keys of all parts, row by row; the order of parts does not matter.

    Args:
        parts: int64 [n, any], padded with 0, from any segments and shards.

    Returns:
        keys int64 [n, k], descending, padded with 0; counts int32 [n], how many are not padding.
    """
    keys = parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)
    best = _pad(keys.sort(dim=1, descending=True).values[:, :k], k)
    return best, (best > 0).sum(dim=1, dtype=torch.int32)


def unpack_keys(keys: Tensor, shards: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return shards int32, ordinals int64 and scores int32 of keys; for a 0 they mean nothing."""
    arrivals = LAST_ARRIVAL - (keys & LAST_ARRIVAL)
    return (arrivals % shards).to(torch.int32), arrivals // shards, (keys >> 32).to(torch.int32)


def _every_key(scores: BlockScores, postings: Postings) -> Tensor:
    """Return int64 [n, B * width]: the key of every document, 0 where its score is 0."""
    found = scores.scores.to(torch.int64)
    arrivals = postings.arrivals[postings.frames.long()].to(torch.int64) & LAST_ARRIVAL
    return torch.where(found > 0, (found << 32) | (LAST_ARRIVAL - arrivals), 0).flatten(1)


def _pad(keys: Tensor, k: int) -> Tensor:
    return torch.nn.functional.pad(keys, (0, k - keys.shape[1]))
