"""Documents are read alike in one process and on Ray; what is read-only says so."""

import pytest

from csplade.client.connection import ServiceError
from csplade.core.document import Document
from csplade.index import Index


def test_documents_are_read_by_id(client, vector_client, vector_index):
    third, none, first = client.get(["d3", "missing", "d1"])
    assert none is None
    assert (third.document.id, first.document.id) == ("d3", "d1")
    assert third.document.metadata == {"number": 3}
    assert third.version == 1
    assert third.vector == {}
    (stored,) = vector_client.get(["v17"], with_vector=True)
    with Index.open(vector_index, threads=1) as index:
        (place,) = index.find(["v17"]).values()
        terms, impacts = index.vectors([place[0]], [place[1]]).row(0)
        expected = dict(zip(terms.tolist(), (impacts * index.manifest.step).tolist(), strict=True))
    assert stored.vector == pytest.approx(expected, rel=1e-6)


def test_all_documents_are_read_by_pages_in_order_of_arrival(client, vector_client):
    for one, ids in (
        (client, [f"d{i}" for i in range(48)]),
        (vector_client, [f"v{i}" for i in range(300)]),
    ):
        assert one.count() == len(ids)
        for page in (7, 1000):
            assert [stored.document.id for stored in one.scroll(page=page)] == ids


def test_documents_are_counted_and_read_by_filter(client):
    early = {"must": [{"field": "number", "range": {"lt": 5}}]}
    assert client.count(filter=early) == 5
    assert [one.document.id for one in client.scroll(filter=early, page=2)] == [
        f"d{i}" for i in range(5)
    ]
    with pytest.raises(ServiceError, match="year") as error:
        client.count(filter={"must": [{"field": "year", "exists": True}]})
    assert error.value.code == "INVALID_ARGUMENT"


def test_hits_tell_the_version_of_their_document(client):
    assert {hit.version for hit in client.search("iron", 48)} == {1}


def test_what_does_not_write_says_so(service, vector_service, narrow_service):
    for one in (service, vector_service, narrow_service):
        with one.client() as client:
            assert not client.info().index["writable"]
            for call in (
                lambda client: client.upsert([Document("new", "iron")]),
                lambda client: list(client.upsert_many([Document("new", "iron")])),
                lambda client: client.delete(["d1"]),
            ):
                with pytest.raises(ServiceError, match=r"writable: false|does not write") as error:
                    call(client)
                assert error.value.code in ("FAILED_PRECONDITION", "UNIMPLEMENTED")


def test_a_generation_that_nobody_wrote(client):
    assert client.search("iron", min_generation=1).generation == 1
    with pytest.raises(ServiceError, match="min_generation: 2 is not there") as error:
        client.search("iron", min_generation=2)
    assert error.value.code == "FAILED_PRECONDITION"
