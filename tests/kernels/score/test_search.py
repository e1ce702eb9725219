import dataclasses

import numpy as np
import pytest
import torch

from csplade.core.errors import InputError
from csplade.core.ranking_key import best_keys
from csplade.core.vectors import ImpactBatch
from csplade.kernels.score import triton as score_triton
from csplade.kernels.score.api import score_blocks
from csplade.kernels.score.cpu import Workspace, score_segments
from csplade.kernels.score.layout import Layout, entries
from csplade.kernels.score.reference import score
from csplade.kernels.score.search import Found, search_blocks
from csplade.kernels.score.types import TILE_DOCUMENTS, UNIT_POSTINGS, Queries
from csplade.kernels.select.api import merge_keys, unpack_keys

from ..collection import Collection

NOTHING = np.zeros(0, np.uint8)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fill what ``torch.empty`` returns with the largest numbers, so that nothing passes by reading
    old zeros.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def on_cpu(collection, k, *, mask=None, parts=((0, None),), first_ordinal=0, shard=0, shards=1):
    """What the numba scorer of the index finds: padded keys, counts, matched, postings. ``mask``:
    a byte per document.
    """
    queries = collection.queries
    answer = Found(*(np.zeros(len(queries), np.int64) for _ in range(4)))
    keys = np.zeros((len(queries), k), np.int64)
    for q, (terms, impacts) in enumerate(queries):
        segments = []
        for first, last in parts:
            segment = collection.segment(first, last)
            kept = NOTHING if mask is None else (mask if mask.ndim == 1 else mask[q])[first:last]
            segments.append(
                (segment, first_ordinal + first, 0, len(segment), np.ascontiguousarray(kept))
            )
        options = collection.block_size, shard, shards, terms, impacts, k
        found, answer.matched[q], _ = score_segments(segments, *options, Workspace())
        # It passes over blocks without a document inside the mask, and kernels do not.
        whole = [(*one[:-1], NOTHING) for one in segments]
        _, _, answer.postings[q] = score_segments(whole, *options, Workspace())
        found = best_keys(found, k)
        keys[q, : len(found)] = found
        answer.counts[q] = len(found)
    return dataclasses.replace(answer, keys=keys)


def assert_same(found, truth):
    for field in dataclasses.fields(Found):
        mine = getattr(found, field.name)
        theirs = torch.as_tensor(getattr(truth, field.name)).to(mine.dtype)
        assert torch.equal(mine.cpu(), theirs), field.name
    assert found.keys.dtype == found.matched.dtype == found.postings.dtype == torch.int64
    assert found.counts.dtype == torch.int32


def padded(mask, collection, device):
    """Bytes per document -> bytes per place of every block."""
    places = -(-len(collection.documents) // collection.block_size) * collection.block_size
    wide = np.ones((*mask.shape[:-1], places), np.uint8)
    wide[..., : mask.shape[-1]] = mask
    return torch.from_numpy(wide).to(device)


CASES = {
    "one document": {"documents": 1, "document_terms": 40},
    "short last block": {"documents": 701, "block_size": 350},
    "odd blocks, several tiles": {"documents": 1_100, "block_size": 1_025, "query_terms": 12},
    "runs of several chunks": {
        "documents": 1_100,
        "vocabulary": 3,
        "document_terms": 3,
        "query_terms": 3,
    },
    "every score equal": {
        "documents": 700,
        "levels": 1,
        "query_levels": 1,
        "vocabulary": 1,
        "query_terms": 1,
    },
    "no document has a term": {"documents": 600, "document_terms": 0},
    "empty queries": {"documents": 50, "query_terms": 0},
    "more terms than one step takes": {
        "documents": 30,
        "vocabulary": 150,
        "document_terms": 60,
        "query_terms": 150,
    },
    "blocks of one": {"documents": 3, "block_size": 1},
}


@pytest.mark.parametrize("filtered", ["all documents", "a shared mask", "a mask per query"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dense", [0, 3])
def test_every_backend_equals_the_cpu_scorer(kernel_device, case, filtered, dense):
    collection = Collection(**{"block_size": 2048, "seed": len(case)} | CASES[case])
    rng = np.random.default_rng(1)
    mask = {
        "all documents": None,
        "a shared mask": (rng.random(len(collection.documents)) < 0.6).astype(np.uint8),
        "a mask per query": (rng.random((3, len(collection.documents))) < 0.6).astype(np.uint8),
    }[filtered]
    wide = None if mask is None else padded(mask, collection, kernel_device)
    numbers = {"first_ordinal": 77, "shard": 2, "shards": 3}
    queries, postings = (
        Queries.from_impacts(collection.queries, kernel_device),
        collection.postings(kernel_device, dense=dense, **numbers),
    )
    for k in (9, 2_000):
        truth = on_cpu(collection, k, mask=mask, **numbers)
        for backend in ("torch", "triton"):
            found = search_blocks(queries, postings, k, mask=wide, backend=backend)
            assert_same(found, truth)


def test_scores_are_the_reference_s_and_every_place_is_written(kernel_device):
    collection = Collection(documents=1_300, block_size=600, query_terms=30)
    segment = collection.segment()
    found = score_blocks(
        Queries.from_impacts(collection.queries, kernel_device),
        collection.postings(kernel_device),
        backend="triton",
    )
    matched, read = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for b in range(len(segment)):
        truth = score(collection.queries, segment.block(b))
        held = truth.scores.shape[1]
        np.testing.assert_array_equal(found.scores[:, b, :held].cpu(), truth.scores)
        assert not found.scores[:, b, held:].any()
        matched, read = matched + truth.matched, read + truth.postings
    assert found.scores.dtype == torch.int32
    assert found.scores.shape == (3, 3, 1024)
    np.testing.assert_array_equal(found.matched.cpu(), matched)
    np.testing.assert_array_equal(found.postings.cpu(), read)
    twin = score_blocks(
        Queries.from_impacts(collection.queries, "cpu"), collection.postings("cpu"), backend="torch"
    )
    assert torch.equal(found.tiles.cpu(), twin.tiles)
    assert torch.equal(found.histogram.cpu(), twin.histogram)
    assert found.histogram.sum() == (found.tiles > 0).sum()
    assert found.tiles.shape == (3, 3 * 1024 // TILE_DOCUMENTS)


@pytest.mark.parametrize("kept", [0, 1])
def test_masks_of_all_and_of_nothing(kernel_device, kept):
    collection = Collection(block_size=512)
    mask = torch.full((512,), kept, dtype=torch.uint8, device=kernel_device)
    queries, postings = (
        Queries.from_impacts(collection.queries, kernel_device),
        collection.postings(kernel_device),
    )
    found = search_blocks(queries, postings, 5, mask=mask, backend="triton")
    assert_same(found, on_cpu(collection, 5, mask=np.full(300, kept, np.uint8)))
    assert found.postings.sum() > 0
    assert bool(found.matched.any()) == bool(kept)


def test_the_widest_query_with_the_largest_impacts(kernel_device, monkeypatch):
    if kernel_device == "cpu":  # the interpreter is quicker with larger steps
        monkeypatch.setattr(score_triton, "ROWS", 512)
        monkeypatch.setattr(score_triton, "TERMS", 512)
    collection = Collection(documents=0, queries=0, vocabulary=2048)
    full = np.arange(4) * 2048
    collection.documents = ImpactBatch(
        full, np.tile(collection.names, 3), np.full(3 * 2048, 255, np.int32), 1.0
    )
    collection.queries = ImpactBatch(full[:2], collection.names, np.full(2048, 4095, np.int32), 1.0)
    collection.block_size = 3
    found = search_blocks(
        Queries.from_impacts(collection.queries, kernel_device),
        collection.postings(kernel_device),
        10,
        backend="triton",
    )
    assert_same(found, on_cpu(collection, 10))
    _, ordinals, scores = unpack_keys(found.keys[0, :3])
    assert scores.tolist() == [2048 * 4095 * 255] * 3
    assert ordinals.tolist() == [0, 1, 2]
    assert found.postings.tolist() == [3 * 2048]


def test_segments_and_shards_merge_to_one_order(kernel_device):
    collection = Collection(
        documents=150, levels=2, query_levels=2, vocabulary=12, document_terms=4, block_size=64
    )
    queries = Queries.from_impacts(collection.queries, kernel_device)
    cuts = [(0, 64), (64, 150)]
    found = [
        search_blocks(
            queries,
            collection.postings(kernel_device, cut, shard=shard, shards=2),
            30,
            backend="triton",
        )
        for shard in (1, 0)
        for cut in cuts
    ]
    keys, counts = merge_keys([one.keys for one in found], 30)
    truth = [on_cpu(collection, 30, parts=cuts, shard=shard, shards=2) for shard in (0, 1)]
    expected = -np.sort(-np.concatenate([one.keys for one in truth], axis=1), axis=1)[:, :30]
    np.testing.assert_array_equal(keys.cpu(), expected)
    np.testing.assert_array_equal(counts.cpu(), (expected > 0).sum(axis=1))
    shards, ordinals, scores = unpack_keys(keys[0, :2], 2)
    assert shards.tolist() == [0, 1]
    assert ordinals[0] == ordinals[1]
    assert scores[0] == scores[1]
    matched, read = (
        sum(getattr(one, name).cpu().numpy() for one in found) for name in ("matched", "postings")
    )
    np.testing.assert_array_equal(matched, truth[0].matched + truth[1].matched)
    np.testing.assert_array_equal(read, truth[0].postings + truth[1].postings)


@pytest.mark.parametrize("dense", [0, 4])
def test_blocks_of_any_length_lie_anywhere(kernel_device, dense):
    """Short blocks in the middle and gaps between ordinals, in frames out of order among others."""
    collection = Collection(documents=900, queries=2, block_size=300, levels=3, vocabulary=25)
    parts = ((0, 300), (300, 340), (340, 341), (500, 900))
    postings = collection.postings(kernel_device, *parts, dense=dense)
    assert postings.blocks == 5
    order = torch.tensor([3, 0, 4, 2, 1], device=kernel_device)
    frames = torch.tensor([6, 2, 7, 1, 4], device=kernel_device)
    moved = {
        name: torch.full((*old.shape[:at], 9, *old.shape[at + 1 :]), 7, dtype=old.dtype).to(old)
        for name, at in (("starts", 1), ("lengths", 1), ("columns", 1), ("arrivals", 0))
        for old in (getattr(postings, name),)
    }
    for name in ("starts", "lengths", "columns"):
        moved[name][:, frames] = getattr(postings, name)[:, order]
    moved["arrivals"][frames] = postings.arrivals[order]
    table = torch.empty(5, dtype=torch.int32, device=kernel_device)
    table[order] = frames.to(torch.int32)
    scattered = dataclasses.replace(postings, **moved, frames=table)
    assert scattered.frame_count == 9
    mask = (np.random.default_rng(3).random(900) < 0.7).astype(np.uint8)
    wide = np.zeros((5, 300), np.uint8)
    for block, (first, last) in enumerate((*parts[:3], (500, 800), (800, 900))):
        wide[block, : last - first] = mask[first:last]
    queries = Queries.from_impacts(collection.queries, kernel_device)
    places = torch.from_numpy(wide.ravel()).to(kernel_device)
    for kept, given, k in ((None, None, 900), (mask, places, 5)):
        truth = on_cpu(collection, k, mask=kept, parts=parts)
        for backend in ("torch", "triton"):
            found = search_blocks(queries, scattered, k, mask=given, backend=backend)
            assert_same(found, truth)
    assert_same(search_blocks(queries, scattered, 5, mask=places, workspace=1), truth)


@pytest.mark.parametrize("workspace", [1, 60_000])
def test_pieces_of_any_size_give_the_same_bytes(kernel_device, workspace):
    collection = Collection(documents=1_000, block_size=400)
    mask = (np.random.default_rng(3).random((3, 1_000)) < 0.5).astype(np.uint8)
    found = search_blocks(
        Queries.from_impacts(collection.queries, kernel_device),
        collection.postings(kernel_device),
        25,
        mask=padded(mask, collection, kernel_device),
        workspace=workspace,
        backend="triton",
    )
    assert_same(found, on_cpu(collection, 25, mask=mask))


def far(postings, tmp_path, device, shift):
    """The same postings, ``shift`` places further on in their arrays; on the CPU the files have
    holes instead of zeros.
    """
    moved = {}
    for name in ("locals", "impacts"):
        values = getattr(postings, name)
        if device == "cuda":
            moved[name] = torch.zeros(shift + len(values), dtype=values.dtype, device=device)
        else:
            file = np.memmap(
                tmp_path / name, values.numpy().dtype, mode="w+", shape=(shift + len(values),)
            )
            moved[name] = torch.from_numpy(file)
        moved[name][shift:] = values
    return dataclasses.replace(postings, starts=postings.starts + shift // UNIT_POSTINGS, **moved)


def test_offsets_of_postings_past_2_to_the_31(kernel_device, tmp_path):
    collection = Collection(documents=40, block_size=20)
    postings = far(collection.postings(kernel_device), tmp_path, kernel_device, 2**31 + 16)
    found = search_blocks(
        Queries.from_impacts(collection.queries, kernel_device), postings, 50, backend="triton"
    )
    assert_same(found, on_cpu(collection, 50))
    assert found.counts.sum() > 0


def test_no_queries_and_no_blocks(kernel_device):
    collection = Collection()
    postings = collection.postings(kernel_device)
    none = Queries.from_impacts(Collection(queries=0).queries, kernel_device)
    some = Queries.from_impacts(collection.queries, kernel_device)
    assert search_blocks(none, postings, 3).keys.shape == (0, 3)
    found = search_blocks(some, postings.between(0, 0), 3)
    assert found.keys.tolist() == [[0] * 3] * 3
    assert found.postings.tolist() == [0] * 3


@pytest.mark.parametrize("dense", [0, 2, 1_000])
def test_a_layout_holds_every_posting_where_its_tables_say(kernel_device, dense):
    collection = Collection(documents=1_300, block_size=600, vocabulary=30)
    layout = Layout.of_segments([collection.segment()], 600, dense=dense)
    postings = layout.load([collection.segment()], np.arange(1_300), kernel_device)
    batch, rows = collection.documents, postings.rows.cpu()
    expected = sorted(
        (int(rows[term]), document, int(impact))
        for document, (terms, impacts) in enumerate(batch)
        for term, impact in zip(terms, impacts, strict=True)
    )
    assert sorted(zip(*(each.tolist() for each in entries(postings)), strict=True)) == expected
    assert postings.dense == min(dense, 30)
    assert postings.nbytes == sum(layout.nbytes.values())
    assert len(postings.locals) % UNIT_POSTINGS == 0
    assert postings.device.type == kernel_device
    # Rows begin at whole units and do not overlap; what lies between them adds 0 inside the block.
    sparse = postings.starts[postings.dense :].long().cpu()
    units = -(-postings.lengths[postings.dense :].long().cpu() // UNIT_POSTINGS)
    taken = sorted(zip(sparse[units > 0].tolist(), units[units > 0].tolist(), strict=True))
    assert [start for start, _ in taken] == np.cumsum([0, *(n for _, n in taken)])[:-1].tolist()
    assert int(postings.impacts.count_nonzero()) + int(postings.columns.count_nonzero()) == len(
        batch.terms
    )


def test_terms_are_dense_where_that_pays():
    def dense(documents, frequencies):
        blocks = -(-documents // (1 << 14))
        terms = np.tile(np.arange(len(frequencies), dtype=np.int32), blocks)
        lengths = np.tile(np.array(frequencies), blocks)
        indptr = np.arange(blocks + 1) * len(frequencies)
        return Layout.of_rows(terms, lengths, indptr, documents, 1 << 14).dense

    assert dense(129 << 14, [5_000, 2_048, 2_047, 9_000]) == 3
    assert dense(2_100_000, [5_000] * 300) == 256
    assert dense(1_900_000, [5_000, 9_000]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k: 0 is out of range; allowed 1 to 10000"),
        ({"backend": "fast"}, "backend: 'fast' is unknown; allowed gluon, triton, torch"),
        (
            {"backend": "gluon"},
            "'gluon' cannot score these postings: Gluon kernels run only compil",
        ),
        ({"mask": torch.ones(7, dtype=torch.uint8)}, r"must be uint8 \[64\] or \[3, 64\]"),
        ({"mask": torch.ones(64)}, "must be uint8"),
    ],
)
def test_broken_arguments_are_rejected(arguments, message):
    collection = Collection(documents=60, block_size=64)
    queries, postings = Queries.from_impacts(collection.queries, "cpu"), collection.postings("cpu")
    with pytest.raises(InputError, match=message):
        search_blocks(queries, postings, **{"k": 3} | arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backend", ["triton", "gluon"])
def test_a_million_documents_and_a_hundred_runs(backend):
    collection = Collection(documents=1_000_000, queries=8, vocabulary=3_000, query_terms=60)
    mask = (np.random.default_rng(5).random(1_000_000) < 0.9).astype(np.uint8)
    wide = padded(mask, collection, "cuda")
    queries, postings = (
        Queries.from_impacts(collection.queries, "cuda"),
        collection.postings("cuda"),
    )
    truth = on_cpu(collection, 1_000, mask=mask)
    for _ in range(100):
        assert_same(search_blocks(queries, postings, 1_000, mask=wide, backend=backend), truth)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backend", ["triton", "gluon"])
def test_offsets_of_scores_past_2_to_the_31(backend):
    collection = Collection(documents=3, queries=1, document_terms=40, query_terms=40)
    one = collection.postings("cuda")
    blocks, copies = 700, 200
    many = dataclasses.replace(one, frames=one.frames.repeat(blocks))
    starts = torch.arange(copies + 1, device="cuda") * len(collection.queries.terms)
    single = Queries.from_impacts(collection.queries, "cuda")
    queries = Queries(
        starts, single.terms.repeat(copies), single.impacts.repeat(copies), single.longest
    )
    found = search_blocks(queries, many, 2_100, backend=backend, workspace=2**35)
    assert (found.counts == found.counts[0]).all()
    assert (found.keys == found.keys[0]).all()
    assert found.matched.tolist() == [blocks * int(on_cpu(collection, 3).matched[0])] * copies
