"""select_keys, select_blocks, merge_keys: the best documents of each query, exact, in one fixed
order, on one device.

A candidate is one int64 key that sorts as hits rank: its score above 32 bits that hold 2^32 - 1
minus the arrival number ``ordinal * shards + shard``. So greater is better, equal scores go by
ordinal, then by shard; keys of any segments and shards merge by sorting; and since no two documents
share a key, "the k greatest" is one set, whatever order programs ran in. 0 stands for "no hit". The
CPU scorer packs the same keys.

``select_blocks`` reads each score at most once more. The scorer left the best score of every tile
of 512 documents, with the tile's number below it as in a key. The k best documents lie in the k
tiles with the greatest keys: were a document's tile not among them, k tiles would each hold a
document with a higher score, or with the same score and a smaller ordinal, and it would not be
among the best k. So:

1. pick the k greatest tile keys (one program per query; digit histograms, 17 k keys of 8 bytes for
8.8 M documents);
2. in those tiles keep documents whose score is no less than that of the last tile picked: some
   1,030 remain of 512,000 when k = 1,000, by a Poisson estimate; k * 512 in the worst case, which
   is what there is room for;
3. pick the k greatest of these; 4. sort them.

Bytes per query, beside the scores: tile keys 8 D / 512, read some 7 times from cache; 2,048 min(k,
tiles) to expand them. For D = 8.8 M and k = 1,000: 1 MB and 2 MB, against 35 MB for one pass over
the scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.errors import InputError
from ...core.ranking_key import LAST_ARRIVAL
from ..runtime.launch import use_triton
from ..score.api import TILE, BlockScores
from .reference import check_k

PATHS = ("torch", "triton")


def _check_path(path: str | None, tensor: Tensor) -> str:
    if path is None:
        return "triton" if use_triton(tensor) else "torch"
    if path not in PATHS:
        raise InputError(f"path is {path!r}, allowed {', '.join(PATHS)}")
    return path


def bytes_per_query(tiles: int, k: int) -> int:
    """Device memory that ``select_blocks`` takes for one query with ``tiles`` tiles."""
    return min(k, tiles) * (8 * TILE + 8) + 3 * 8 * k


def select_keys(
    keys: Tensor, k: int, counts: Tensor | None = None, *, path: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Pick the k greatest keys of each row, in no order to rely on.

    Args:
        keys: int64 [n, m], contiguous, >= 0; keys > 0 differ within a row.
        k: at least 1.
        counts: int32 [n], how many keys of each row are filled; None for all m.
        path: ``torch`` or ``triton``; None takes triton on CUDA.

    Returns:
        best int64 [n, k], padded with 0; kept int32 [n], how many are not padding; least int64 [n],
        a bound that exactly the picked keys reach among the row's keys (at least 1, not itself a
        key).
    """
    if _check_path(path, keys) == "triton":
        from . import triton as select_triton

        return select_triton.select_keys(keys, k, counts)
    if counts is not None:
        keys = torch.where(
            torch.arange(keys.shape[1], device=keys.device) < counts[:, None], keys, 0
        )
    best = _pad(keys.topk(min(k, keys.shape[1]), dim=1).values, k)
    return best, (best > 0).sum(dim=1, dtype=torch.int32), best[:, -1].clamp(min=1)


def select_blocks(
    scores: BlockScores,
    k: int,
    *,
    first_ordinal: int = 0,
    shard: int = 0,
    shards: int = 1,
    path: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best documents of each query in some blocks; no host synchronisation.

    Args:
        scores: of ``score_blocks``; documents with score 0 are no hits.
        k: 1 to 10,000; more than there are matches gives the matches.
        first_ordinal: ordinal of the first block's first document.
        shard, shards: the blocks' shard and how many there are, for the keys.
        path: as for ``select_keys``.

    Returns:
        keys int64 [n, k], descending, padded with 0; counts int32 [n], how many are not padding.

    Raises:
        InputError: ``k`` out of range, or an unknown path.
    """
    check_k(k)
    first_key = LAST_ARRIVAL - (first_ordinal * shards + shard)
    if _check_path(path, scores.scores) == "torch":
        return merge_keys([_every_key(scores, first_key, shards)], k)
    from . import triton as select_triton

    tiles, _, least = select_triton.select_keys(scores.tiles, min(k, scores.tiles.shape[1]))
    candidates, counts = select_triton.expand_tiles(scores, tiles, least, first_key, shards)
    best, kept, _ = select_triton.select_keys(candidates, k, counts)
    return best.sort(dim=1, descending=True).values, kept


def merge_keys(parts: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k greatest of all parts' keys, row by row; the order of the parts does not matter.

    Args:
        parts: int64 [n, any], padded with 0, from any segments and shards.

    Returns:
        keys int64 [n, k], descending, padded with 0; counts int32 [n], how many are not padding.
    """
    keys = parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)
    best = _pad(keys.sort(dim=1, descending=True).values[:, :k], k)
    return best, (best > 0).sum(dim=1, dtype=torch.int32)


def unpack_keys(keys: Tensor, shards: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Shards int32, ordinals int64 and scores int32 of keys; what it gives for a 0 means nothing."""
    arrivals = LAST_ARRIVAL - (keys & LAST_ARRIVAL)
    return (arrivals % shards).to(torch.int32), arrivals // shards, (keys >> 32).to(torch.int32)


def _every_key(scores: BlockScores, first_key: int, key_step: int) -> Tensor:
    """int64 [n, B * block_size]: the key of every document, 0 where its score is."""
    n, blocks, _ = scores.scores.shape
    found = scores.scores[:, :, : scores.block_size].reshape(n, -1).to(torch.int64)
    arrivals = torch.arange(blocks * scores.block_size, device=found.device) * key_step
    return torch.where(found > 0, (found << 32) | (first_key - arrivals), 0)


def _pad(keys: Tensor, k: int) -> Tensor:
    return torch.nn.functional.pad(keys, (0, k - keys.shape[1]))
