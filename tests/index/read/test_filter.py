"""Filters hold for the documents that they hold for one by one, on every searcher."""

import gc
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csplade.core.document import Document
from csplade.core.errors import CorruptError, InputError
from csplade.core.filters import Filter
from csplade.index import BuildOptions, Index, IndexBuilder, Mask, declare_field, drop_field
from csplade.index.read import filter as filter_masks
from csplade.index.read import rare as rare_documents
from csplade.index.read.filter import FilterCache

from .. import helpers
from ..helpers import assert_same_hits

FIELDS = {
    "language": "keyword",
    "ok": "bool",
    "year": "integer",
    "price": "float",
    "at": "datetime",
}
VALUES = {
    "language": ["en", "de", "fr", "é"],
    "ok": [True, False],
    "year": [1990, 2000, 2010, -(2**63)],
    "price": [0.5, 1, 2.25],
    "at": ["2000-01-01", "2010-06-01T12:00:00Z", "2020-01-01T00:00:00+02:00"],
}
UNKNOWN = {"language": "xx", "ok": True, "year": 1, "price": 9.75, "at": "1999-01-01"}


def metadata(rng):
    """Some fields, of one value or several, null and empty lists among them."""
    found = {}
    for name, values in VALUES.items():
        match rng.integers(5):
            case 0:
                pass
            case 1:
                found[name] = [None, []][rng.integers(2)]
            case 2 | 3:
                found[name] = values[rng.integers(len(values))]
            case 4:
                found[name] = [values[i] for i in rng.integers(len(values), size=2)]
    return found


def filters(depth=2):
    """Filters over the fields, nested."""

    def of_field(name):
        value = st.sampled_from([*VALUES[name], UNKNOWN[name]])
        some = st.lists(value, min_size=1, max_size=3)
        kinds = [
            st.fixed_dictionaries({"any": some}).map(lambda one: {"match": one}),
            st.fixed_dictionaries({"except": some}).map(lambda one: {"match": one}),
            st.booleans().map(lambda one: {"exists": one}),
        ]
        if name in ("year", "price", "at"):
            bounds = st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), value, min_size=1)
            kinds.append(bounds.map(lambda one: {"range": one}))
        return st.one_of(kinds).map(lambda one: {"field": name, **one})

    condition = st.one_of(
        *(of_field(name) for name in FIELDS),
        st.lists(st.integers(0, 150).map("id-{}".format), min_size=1, max_size=30).map(
            lambda ids: {"has_id": ids}
        ),
    )
    if depth:
        condition = condition | filters(depth - 1).map(lambda one: {"nested": one})
    some = st.lists(condition, max_size=3)
    return st.fixed_dictionaries({}, optional={"must": some, "should": some, "must_not": some})


def make_index(path, vectors, held, **options):
    small = {"vocabulary_size": helpers.VOCABULARY, "document_scale": helpers.SCALE}
    with IndexBuilder.create(path, BuildOptions(**small | {"fields": FIELDS} | options)) as builder:
        documents = [Document(f"id-{i}", "", metadata=one) for i, one in enumerate(held)]
        builder.add(documents, vectors)
        builder.finish()
    return path


@pytest.mark.parametrize("rare", [rare_documents.RARE_SHARE, 1.0])
def test_filtered_searches_equal_those_by_a_check_of_every_document(
    tmp_path_factory, monkeypatch, rare
):
    monkeypatch.setattr(filter_masks, "RARE_SHARE", rare)
    monkeypatch.setattr(filter_masks, "RARE_FROM", 1)

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        seed=st.integers(0, 2**32 - 1),
        count=st.integers(1, 120),
        shards=st.integers(1, 3),
        block_size=st.sampled_from([1, 7, 64]),
        segment_blocks=st.sampled_from([1, 2, 100]),
        deleted=st.sampled_from([0.0, 0.3]),
        asked=st.lists(filters(), min_size=1, max_size=3),
        k=st.sampled_from([3, 10_000]),
    )
    def check(seed, count, shards, block_size, segment_blocks, deleted, asked, k):
        rng = np.random.default_rng(seed)
        path = make_index(
            tmp_path_factory.mktemp("case") / "index",
            helpers.random_vectors(rng, count),
            [metadata(rng) for _ in range(count)],
            shards=shards,
            block_size=block_size,
            segment_blocks=segment_blocks,
        )
        live = {}
        for shard in range(shards):
            held = len(range(shard, count, shards))
            gone = np.flatnonzero(rng.random(held) < deleted)
            helpers.delete(path, shard, gone)
            live[shard] = np.isin(np.arange(held), gone, invert=True)
        queries = helpers.random_queries(rng, 3)
        with Index.open(path, threads=2) as index:
            for one in map(Filter.parse, asked):
                truth = index.oracle(queries, k, one)
                naive = index.snapshot._oracle.mask(one.resolve(FIELDS), FIELDS).shards
                inside = sum(int((naive[shard] & live[shard]).sum()) for shard in live)
                for device in (None, "cpu"):
                    index.snapshot.tensors = None
                    if device:
                        index.to(device)
                    for _ in range(3):  # evaluated, then from the cache, then perhaps rare
                        assert_same_hits(index.search(queries, k, index.mask(one)), truth)
                        index.filters.settle()
                    assert index.count(index.mask(one)) == inside
        shutil.rmtree(path)

    check()


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """An index of 400 documents whose field "number" ascends; not to be changed."""
    vectors = helpers.random_vectors(np.random.default_rng(5), 400)
    path = tmp_path_factory.mktemp("numbered") / "index"
    return helpers.make_index(path, vectors, fields={"number": "integer"})


def below(number):
    return Filter.parse({"must": [{"field": "number", "range": {"lt": number}}]})


def test_blocks_without_an_allowed_document_are_not_read(numbered):
    queries = helpers.random_queries(np.random.default_rng(1), 2, highest=20)
    with Index.open(numbered, threads=1) as index:
        whole = index.search(queries, 10)
        first = index.search(queries, 10, index.mask(below(32)))
        assert (first.postings > 0).all()
        assert (first.postings < whole.postings / 8).all()
        assert index.search(queries, 10, index.mask(below(0))).postings.tolist() == [0, 0]


def test_the_cache_counts_and_keeps_what_was_used_last(numbered):
    queries = helpers.random_queries(np.random.default_rng(1), 1)
    with Index.open(numbered, threads=1, filter_bytes=1000) as index:
        segments = len(index.shards[0].segments)
        for number in (10, 20, 10, 30, 10, 20):
            index.search(queries, 10, index.mask(below(number)))
        # 400 bytes each, so two filters stay: 20 went when 30 came.
        assert index.filters.take_counts() == (2 * segments, 4 * segments)
        assert index.filters.take_counts() == (0, 0)
        assert index.filters.nbytes == 800
        index.search(queries, 10, index.mask(below(20)))
        assert index.filters.take_counts() == (segments, 0)


def test_the_cache_holds_a_bounded_number_of_filters_and_nothing_of_owners_that_are_gone():
    class Owner:
        pass

    cache, owner = FilterCache(limit=10_000), Owner()
    for number in range(3000):
        cache.get(below(number), owner, lambda: np.zeros(1, bool))
    assert cache.nbytes == 1024
    made = cache.get(below(0), Owner(), lambda: np.zeros(9000, bool))
    del made
    gc.collect()
    cache.get(below(1), owner, lambda: np.zeros(9000, bool))
    assert cache.nbytes <= 10_000
    assert len(cache.get(below(1), owner, lambda: np.zeros(1, bool))) == 9000


def test_documents_that_stay_rare_are_searched_apart(numbered, monkeypatch):
    monkeypatch.setattr(filter_masks, "RARE_FROM", 1)
    queries = helpers.random_queries(np.random.default_rng(2), 3)
    few = Filter.parse({"must": [{"field": "number", "match": {"any": [3, 40, 41]}}]})
    with Index.open(numbered, threads=2) as index:
        truth = index.oracle(queries, 10, few)
        found = []
        for _ in range(3):
            found.append(index.search(queries, 10, index.mask(few)))
            index.filters.settle()
        for one in found:
            assert_same_hits(one, truth)
        # The second search has it begun, so the third reads the postings of three documents.
        assert (found[1].postings == found[0].postings).all()
        assert (found[2].postings < found[0].postings / 4).all()
        assert found[2].matched.tolist() == truth.matched.tolist()
        before = index.filters.nbytes
        index.search(queries, 10, index.mask(few))
        assert index.filters.nbytes == before > 400


def test_what_is_made_beside_the_searches_is_bounded_and_may_be_gone():
    class Owner:
        pass

    cache, owner = FilterCache(limit=1000), Owner()
    made = []

    def make(size):
        made.append(size)
        return np.zeros(size, bool)

    assert cache.get_later(below(1), owner, lambda: make(1)) is None  # nothing is known of it
    cache.get(below(1), owner, lambda: np.zeros(10, bool))
    large, small, gone = Owner(), Owner(), Owner()
    for size, one in ((251, large), (250, small), (9, gone)):
        for _ in range(2):
            assert cache.get_later(below(1), one, lambda size=size: make(size)) is None
    del one, gone
    gc.collect()
    cache.settle()
    assert made == [251, 250, 9]
    assert cache.get_later(below(1), large, lambda: make(251)) is None
    assert len(cache.get_later(below(1), small, lambda: make(250))) == 250
    assert made == [251, 250, 9]
    assert cache.nbytes <= 269
    cache.close()


def test_bits_larger_than_the_cache_are_made_each_time(numbered):
    with Index.open(numbered, threads=1, filter_bytes=1) as index:
        for _ in range(2):
            assert index.count(index.mask(below(7))) == 7
        assert index.filters.nbytes == 0


def test_the_device_keeps_its_own_bits(numbered):
    queries = helpers.random_queries(np.random.default_rng(1), 1)
    with Index.open(numbered, threads=1) as index:
        index.to("cpu")
        index.search(queries, 10, index.mask(below(50)))
        index.filters.take_counts()
        index.search(queries, 10, index.mask(below(50)))
        assert index.filters.take_counts() == (1, 0)  # one run of blocks, nothing is uploaded


def test_fields_are_declared_and_dropped_after_the_build(tmp_path):
    vectors = helpers.random_vectors(np.random.default_rng(5), 90)
    path = helpers.make_index(tmp_path / "index", vectors, shards=2)
    with Index.open(path, threads=1) as index:
        before = index.manifest
        with pytest.raises(InputError, match="field 'number' is not declared; declared are none"):
            index.mask(below(10))
    with pytest.raises(InputError, match="document 'id-0': field number: 0 is not keyword"):
        declare_field(path, "number", "keyword")
    declare_field(path, "number", "integer")
    declare_field(path, "list", "integer")
    with Index.open(path, threads=1) as index:
        assert index.manifest == replace(before, fields={"number": "integer", "list": "integer"})
        assert index.count(index.mask(below(10))) == 10
    with pytest.raises(InputError, match="field number: is declared as integer already; drop it"):
        declare_field(path, "number", "integer")
    drop_field(path, "number")
    with pytest.raises(InputError, match="field 'number': is not declared; declared are list"):
        drop_field(path, "number")
    with Index.open(path, threads=1) as index:
        assert index.manifest.fields == {"list": "integer"}


def test_a_build_rejects_values_of_another_type(tmp_path):
    options = BuildOptions(helpers.VOCABULARY, fields={"year": "integer"})
    vectors = helpers.random_vectors(np.random.default_rng(5), 1)
    with IndexBuilder.create(tmp_path / "index", options) as builder:
        with pytest.raises(InputError, match="document 'a': field year: '2000' is not integer"):
            builder.add([Document("a", "", metadata={"year": "2000"})], vectors)
        assert builder.documents == 0
    for fields, message in (
        ({"year": "int"}, "field year: type 'int' is unknown"),
        ({"": "bool"}, "field: name '' is out of range"),
    ):
        with pytest.raises(InputError, match=message):
            IndexBuilder.create(tmp_path / "other", BuildOptions(helpers.VOCABULARY, fields=fields))


def test_a_store_that_does_not_fit_the_declarations_is_reported(tmp_path):
    vectors = helpers.random_vectors(np.random.default_rng(5), 9)
    path = helpers.make_index(tmp_path / "index", vectors)
    with Index.open(path, threads=1) as index:
        replace(index.manifest, fields={"number": "bool"}).write(path / "index.json")
    with pytest.raises(CorruptError, match=r"'id-0': field number: 0 is not bool.*drop the field"):
        Index.open(path)


def test_a_mask_and_a_filter_count_alike(numbered):
    with Index.open(numbered, threads=1) as index:
        mask = Mask({0: np.arange(400) < 33})
        assert index.count(mask) == index.count(index.mask(below(33))) == 33
        assert index.count() == 400
        with pytest.raises(InputError, match="mask: shard 0 is bool"):
            index.count(Mask({0: np.ones(3, bool)}))
