import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csplade.core.errors import InputError
from csplade.core.vectors import MAX_SCORE, ImpactBatch, SparseBatch
from csplade.index import Index, verify
from csplade.kernels.score.reference import score
from csplade.kernels.select.reference import merge, select

from .. import helpers


def arrivals(result, shards, i):
    found_shards, ordinals, scores = result.row(i)
    return list(zip((ordinals * shards + found_shards).tolist(), scores.tolist(), strict=True))


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 150),
    levels=st.sampled_from([1, 3, 255]),
    block_size=st.sampled_from([1, 7, 64, 100]),
    segment_blocks=st.sampled_from([1, 2, 100]),
    threads=st.sampled_from([1, 3]),
    k=st.sampled_from([1, 2, 9, 40, 10_000]),
)
def test_scorer_equals_oracle_and_reference_on_any_number_of_shards(
    tmp_path_factory, seed, count, levels, block_size, segment_blocks, threads, k
):
    rng = np.random.default_rng(seed)
    vectors = helpers.random_vectors(rng, count, levels=levels)
    queries = helpers.random_queries(rng, 4)
    rankings = []
    for shards in sorted({1, int(rng.integers(2, 6))}):
        path = helpers.make_index(
            tmp_path_factory.mktemp("case") / "index",
            vectors,
            shards=shards,
            block_size=block_size,
            segment_blocks=segment_blocks,
        )
        with Index.open(path, threads=threads) as index:
            found = index.search(queries, k)
            helpers.assert_same_hits(found, index.oracle(queries, k))
            assert_same_as_reference(index, queries, k, found)
            rankings.append([arrivals(found, shards, i) for i in range(len(queries))])
        shutil.rmtree(path)
    assert all(ranking == rankings[0] for ranking in rankings)


def assert_same_as_reference(index, queries, k, found):
    parts, matched, postings = [], 0, 0
    for shard, first, block in index.blocks():
        scores = score(queries, block)
        parts.append(select(scores.scores, k, first_ordinal=first, shard=shard))
        matched, postings = matched + scores.matched, postings + scores.postings
    hits = merge(parts, k)
    for name in ("indptr", "shards", "ordinals", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(hits, name), err_msg=name)
    np.testing.assert_array_equal(found.matched, matched)
    np.testing.assert_array_equal(found.postings, postings)


def test_five_shards_rank_like_one(tmp_path):
    vectors = helpers.random_vectors(np.random.default_rng(1), 230, levels=2)
    queries = helpers.random_queries(np.random.default_rng(2), 6)
    rankings = []
    for shards in range(1, 6):
        path = helpers.make_index(tmp_path / str(shards), vectors, shards=shards)
        with Index.open(path, threads=2) as index:
            result = index.search(queries, 50)
            helpers.assert_same(result, index.oracle(queries, 50))
            rankings.append([arrivals(result, shards, i) for i in range(len(queries))])
    assert len(rankings[0][0]) > 5
    assert all(ranking == rankings[0] for ranking in rankings)


@pytest.mark.parametrize("k", [1, 5, 99, 100, 101, 10_000])
def test_all_equal_scores_rank_by_ordinal(tmp_path, k):
    vectors = SparseBatch.from_rows([([3], [1.0])] * 100)
    path = helpers.make_index(tmp_path / "index", vectors, block_size=7)
    query = ImpactBatch.join([(np.array([3], np.int32), np.array([9], np.int32))])
    for threads in (1, 4):
        with Index.open(path, threads=threads) as index:
            result = index.search(query, k)
            assert result.ordinals.tolist() == list(range(min(k, 100)))
            assert set(result.scores.tolist()) == {9 * 50}
            assert result.matched.tolist() == result.postings.tolist() == [100]
            helpers.assert_same(result, index.oracle(query, k))


def test_full_blocks_of_ordinary_size(tmp_path):
    """Scores that rise with the ordinal make every document a candidate: the worst case for the
    threshold.
    """
    count = 40_000
    weights = 0.02 * (1 + np.arange(count) * 254 // count)
    vectors = SparseBatch(
        np.arange(count + 1), np.full(count, 7, np.int32), weights.astype(np.float32)
    )
    path = helpers.make_index(tmp_path / "index", vectors, batch=count, block_size=1 << 14)
    query = ImpactBatch.join([(np.array([7], np.int32), np.array([4095], np.int32))])
    with Index.open(path, threads=1) as index:
        for k in (1, 1000, 10_000):
            result = index.search(query, k)
            assert len(result.scores) == k
            assert result.matched.tolist() == [count]
            helpers.assert_same(result, index.oracle(query, k))


def test_widest_query_at_the_largest_impacts(tmp_path):
    terms = np.arange(2048)
    vectors = SparseBatch.from_rows([(terms, [5.1] * 2048), (terms[:5], [0.02] * 5), ([], [])])
    path = helpers.make_index(tmp_path / "index", vectors, vocabulary_size=262_144)
    query = ImpactBatch.join([(terms, np.full(2048, 4095))])
    with Index.open(path) as index:
        assert index.manifest.max_impact == 255
        result = index.search(query, 10)
        assert result.scores.tolist() == [2_138_572_800, 5 * 4095]
        helpers.assert_same(result, index.oracle(query, 10))


def test_empty_queries_and_no_queries(collection):
    path, _ = collection
    nothing = np.empty(0, np.int32)
    with Index.open(path) as index:
        empty = index.search(ImpactBatch.join([(nothing, nothing)] * 2), 10)
        assert empty.indptr.tolist() == [0, 0, 0]
        assert empty.matched.tolist() == empty.postings.tolist() == [0, 0]
        none = index.search(ImpactBatch.join([]), 10)
        assert len(none) == 0
        helpers.assert_same(
            none,
            index.oracle(ImpactBatch.join([]), 10),
        )


def test_read_only_and_strided_queries(collection):
    path, _ = collection
    queries = helpers.random_queries(np.random.default_rng(6), 3)
    with Index.open(path) as index:
        truth = index.search(queries, 10)
        frozen = np.frombuffer(queries.terms.tobytes(), np.int32)
        strided = np.repeat(queries.impacts, 2)[::2]
        assert not frozen.flags.writeable
        assert not strided.flags.c_contiguous
        helpers.assert_same(
            index.search(ImpactBatch(queries.indptr, frozen, strided, queries.scales), 10), truth
        )


def test_documents_without_terms_only(tmp_path):
    path = helpers.make_index(tmp_path / "index", SparseBatch.from_rows([([], [])] * 40), shards=3)
    queries = helpers.random_queries(np.random.default_rng(0), 3)
    with Index.open(path) as index:
        assert len(index.search(queries, 5).scores) == 0
        helpers.assert_same(index.search(queries, 5), index.oracle(queries, 5))
        assert verify(index).ok


def test_threads_at_once_get_the_same_bytes(collection):
    path, _ = collection
    queries = helpers.random_queries(np.random.default_rng(8), 16)
    with Index.open(path, threads=3) as index:
        truth = index.oracle(queries, 20)
        barrier, failures = threading.Barrier(6), []

        def work():
            barrier.wait()
            for _ in range(10):
                try:
                    found = index.search(queries, 20)
                    helpers.assert_same(found, truth)
                    assert index.fetch(found.shards[:5], found.ordinals[:5])
                except BaseException as error:
                    failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def test_fetch_and_vectors_keep_the_order_asked_for(collection):
    path, vectors = collection
    wanted = [7, 399, 0, 7, 12]
    with Index.open(path) as index:
        shards, ordinals = np.array(wanted) % 2, np.array(wanted) // 2
        assert index.fetch(shards, ordinals) == [helpers.documents(i, i + 1)[0] for i in wanted]
        assert index.ids(shards, ordinals) == [helpers.documents(i, i + 1)[0].id for i in wanted]
        stored = index.vectors(shards, ordinals)
        expected, _ = vectors.take(np.array(wanted)).quantize(helpers.SCALE)
        np.testing.assert_array_equal(stored.indptr, expected.indptr)
        np.testing.assert_array_equal(stored.terms, expected.terms)
        np.testing.assert_array_equal(stored.impacts, expected.impacts)
        assert index.fetch([], []) == []
        with pytest.raises(InputError, match="ordinal is 200, shard 0 has 200 documents"):
            index.fetch([0], [200])
        with pytest.raises(InputError, match="shard is 2, this index has 2"):
            index.vectors([2], [0])


def test_deleted_documents_are_neither_found_nor_counted(collection, tmp_path):
    path = Path(shutil.copytree(collection[0], tmp_path / "index"))
    queries = helpers.random_queries(np.random.default_rng(4), 8)
    with Index.open(path) as index:
        before = index.search(queries, 400)
    deleted = sorted(set(before.ordinals[before.shards == 1].tolist()))[::3]
    helpers.delete(path, 1, deleted)
    with Index.open(path, threads=2) as index:
        after = index.search(queries, 400)
        helpers.assert_same_hits(after, index.oracle(queries, 400))
        gone = (before.shards == 1) & np.isin(before.ordinals, deleted)
        assert gone.any()
        np.testing.assert_array_equal(after.scores, before.scores[~gone])
        assert (after.matched < before.matched).any()
        assert verify(index).ok


def test_a_shard_opened_alone_answers_its_part(collection, tmp_path):
    queries = helpers.random_queries(np.random.default_rng(5), 8)
    with Index.open(collection[0]) as index:
        whole = index.search(queries, 400)
    path = Path(shutil.copytree(collection[0], tmp_path / "index"))
    shutil.rmtree(path / "shard-0000")  # the other shard may be on another machine
    with Index.open(path, shards=[1]) as index:
        assert verify(index, 20).ok
        part = index.search(queries, 400)
        helpers.assert_same(part, index.oracle(queries, 400))
        assert index.manifest.documents == 200
        for i in range(len(queries)):
            _, ordinals, scores = part.row(i)
            shards, all_ordinals, all_scores = whole.row(i)
            np.testing.assert_array_equal(ordinals, all_ordinals[shards == 1])
            np.testing.assert_array_equal(scores, all_scores[shards == 1])
        assert index.fetch([1], [0])[0].id == helpers.documents(1, 2)[0].id
        with pytest.raises(InputError, match="shard is 0, this index has 2"):
            index.ids([0], [0])
    with pytest.raises(InputError, match=r"shard is 2, .* has 2"):
        Index.open(path, shards=[2])


def test_wrong_arguments_are_refused(collection):
    path, _ = collection
    queries = helpers.random_queries(np.random.default_rng(4), 1)
    with Index.open(path) as index:
        for k in (0, 10_001):
            with pytest.raises(InputError, match=f"k: {k} is out of range; allowed 1 to 10000"):
                index.search(queries, k)
        outside = ImpactBatch.join([(np.array([200], np.int32), np.ones(1, np.int32))])
        with pytest.raises(InputError, match="term 200 is out of range; allowed 0 to 199"):
            index.search(outside, 5)
    with pytest.raises(InputError, match="threads: 0 is too small"):
        Index.open(path, threads=0)


def test_queries_whose_scores_could_overflow_are_refused(tmp_path):
    vectors = SparseBatch.from_rows([(np.arange(200), np.full(200, 65_280 * helpers.SCALE))])
    path = helpers.make_index(tmp_path / "index", vectors)
    terms = np.arange(9, dtype=np.int32)
    most = np.array([4095] * 8 + [MAX_SCORE // 65_280 - 8 * 4095])
    with Index.open(path, threads=1) as index:
        result = index.search(ImpactBatch.join([(terms, most)]), 5)
        assert result.scores.tolist() == [int(most.sum()) * 65_280]
        loud = ImpactBatch.join([(terms[:1], np.ones(1)), (terms, most + (terms == 8))])
        with pytest.raises(InputError, match=r"query 1: impacts sum to 32897; .* exceed int32"):
            index.search(loud, 5)
