"""What a service answers, over the wire: the same in one process and on Ray."""

import asyncio
import json

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from csplade.client.connection import ServiceError
from csplade.core.vectors import SparseBatch
from csplade.engine.collection import Collection
from csplade.index import Index
from csplade.service.names import RETRIEVAL
from csplade.v1 import retrieval_pb2 as pb
from csplade.v1 import retrieval_pb2_grpc as rpc


@pytest.fixture(scope="module")
def engine(text_index, encoder):
    with Index.open(text_index, threads=1) as index:
        yield Collection(index, encoder)


def oracle(engine, query, k):
    """(id, integer score) by the exhaustive reference, and the number of matches."""
    vectors = (
        engine.encoder.encode_query([query])
        if isinstance(query, str)
        else SparseBatch.from_rows([(list(query), list(query.values()))])
    )
    queries = engine.quantize(vectors, engine.index.snapshot)
    result = engine.index.oracle(queries, k)
    shards, ordinals, scores = result.row(0)
    documents = engine.index.fetch(shards, ordinals)
    ranking = [
        (document.id, score) for document, score in zip(documents, scores.tolist(), strict=True)
    ]
    return ranking, int(result.matched[0])


def test_a_text_is_answered_as_the_oracle_answers(client, engine):
    answer = client.search("rivers in winter", k=15, explain=True, with_document=True)
    ranking, matched = oracle(engine, "rivers in winter", 15)
    assert [(hit.id, hit.integer_score) for hit in answer] == ranking
    assert answer.matched == matched
    assert len(answer) == 15
    for hit in answer:
        assert sum(one.product for one in hit.contributions) == hit.integer_score
        assert all(
            one.product == one.query_impact * one.document_impact for one in hit.contributions
        )
        assert hit.contributions[0].token == engine.encoder.token(hit.contributions[0].term)
        assert hit.score == pytest.approx(hit.integer_score * answer.score_scale, rel=1e-6)
        number = int(hit.id[1:])
        assert hit.document.title == f"Title {number}"
        assert hit.document.text.startswith(f"Document {number}: ")
        assert hit.document.metadata == {"number": number}
    assert answer.model_fingerprint == engine.encoder.fingerprint
    assert answer.generation == 1
    assert answer.postings > 0
    assert all(
        answer.timings[stage] > 0 for stage in ("queue", "tokenize", "encode", "score", "fetch")
    )
    assert answer.timings["total"] >= sum(answer.timings.values()) - answer.timings["total"]


def test_documents_are_explained_ranked_or_not(client, engine):
    query = "rivers in winter"
    ranked = client.search(query, k=48, explain=True, with_document=True)
    ids = [hit.id for hit in ranked]
    found = client.explain(query, [*reversed(ids), "missing"], with_document=True)
    assert [one.id for one in found] == [*reversed(ids), "missing"]
    assert found[-1].hit is None
    for rank, (hit, one) in enumerate(zip(ranked, reversed(found[:-1]), strict=True), 1):
        assert (one.rank, one.hit) == (rank, hit)
    matched = {hit.id for hit in client.search({3: 1.0}, k=48)}
    for one in client.explain({3: 1.0}, [f"d{i}" for i in range(48)]):
        assert (one.rank is not None) == (one.hit.integer_score > 0) == (one.id in matched)
        assert bool(one.hit.contributions) == (one.id in matched)
        assert one.hit.document is None
    assert 0 < len(matched) < 48
    for bad in ([], ["a"] * 1001):
        with pytest.raises(ServiceError, match=r"ids: .* allowed"):
            client.explain(query, bad)


def test_vectors_are_answered_as_the_oracle_answers(vector_client, vector_index, random_queries):
    with Collection.open(vector_index) as engine:
        for query in random_queries[:10]:
            answer = vector_client.search(query, k=1000, explain=True)
            ranking, matched = oracle(engine, query, 1000)
            assert [(hit.id, hit.integer_score) for hit in answer] == ranking
            assert (answer.matched, len(answer)) == (matched, matched)
            assert all(
                sum(one.product for one in hit.contributions) == hit.integer_score for hit in answer
            )


def test_nothing_more_than_asked_for_comes_back(client):
    answer = client.search("iron")
    assert len(answer) == 10
    assert all(hit.document is None and hit.contributions == () for hit in answer)


def test_a_query_without_terms_matches_nothing(vector_client):
    answer = vector_client.search({})
    assert (answer.hits, answer.matched, answer.postings) == ((), 0, 0)


def test_cuts_are_told(client, vector_client, engine):
    assert client.search("word " * 200).cut.tokens > 100
    assert client.search("iron").cut.terms == int(
        engine.encoder.encode(["iron"], "query").dropped_terms[0]
    )
    assert not vector_client.search({1: 100.0, 2: 1.0}).cut


def test_token_strings_find_their_terms(string_service):
    with string_service.client() as client:
        assert client.info().index["string_terms"]
        (hit,) = client.search({"iron": 2.0, "river": 0.5}, explain=True)
        assert hit.id == "a"
        assert [one.token for one in hit.contributions] == ["iron", "river"]
        answer = client.search({"iron": 1.0, "gold": 0.5})
        assert [hit.id for hit in answer] == ["a"]
        assert (answer.query_terms, answer.cut.terms) == (1, 1)


def test_unknown_and_absent_terms_are_dropped_and_unknown_ones_counted(vector_client):
    alone = vector_client.search({1: 1.0})
    answer = vector_client.search({1: 1.0, 2: 0.0, 100_000: 3.0, 2**32 - 1: 1.0})
    assert answer.hits == alone.hits
    assert (answer.query_terms, answer.cut.terms) == (1, 2)


def test_token_strings_are_terms_of_an_index_that_an_encoder_built(client, encoder):
    terms, weights = encoder.encode_query(["iron"]).row(0)
    by_token = {
        encoder.token(int(term)): float(weight)
        for term, weight in zip(terms, weights, strict=True)
        if encoder.vocabulary().get(encoder.token(int(term))) == term
    }
    by_term = {encoder.vocabulary()[token]: weight for token, weight in by_token.items()}
    assert client.search(by_token).hits == client.search(by_term).hits


def test_a_stream_answers_all_in_order(vector_client, random_queries):
    one_by_one = [
        [(hit.id, hit.integer_score) for hit in vector_client.search(query)]
        for query in random_queries
    ]
    queries = random_queries * 4
    streamed = [
        [(hit.id, hit.integer_score) for hit in answer]
        for answer in vector_client.search_many(iter(queries), k=10)
    ]
    assert streamed == one_by_one * 4


def test_a_bad_query_of_a_stream_does_not_end_it(vector_service):
    with vector_service.channel() as channel:
        good = pb.SearchRequest(query=pb.Query(vector=pb.SparseVector(indices=[1], values=[1.0])))
        bad = pb.SearchRequest(query=pb.Query(vector=pb.SparseVector(indices=[1], values=[-1.0])))
        sent = [
            pb.SearchStreamRequest(sequence=7 * i, request=bad if i == 1 else good)
            for i in range(4)
        ]
        answers = {
            one.sequence: one for one in rpc.RetrievalServiceStub(channel).SearchStream(iter(sent))
        }
    assert sorted(answers) == [0, 7, 14, 21]
    assert answers[7].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "query.vector.values[0]: -1.0" in answers[7].error.message
    assert all(answers[i].HasField("response") for i in (0, 14, 21))


def test_the_client_tells_which_query_of_a_stream_failed(vector_client):
    answers = vector_client.search_many([{1: 1.0}, {1: 1.0}, "a text", {1: 1.0}])
    failed = "FAILED_PRECONDITION: query 2 of the stream: "
    with pytest.raises(ServiceError, match=failed) as error:
        list(answers)
    assert error.value.code == "FAILED_PRECONDITION"


def test_an_exception_of_the_callers_generator_is_raised_as_itself(vector_client, random_queries):
    class OwnError(Exception):
        pass

    def queries():
        yield from random_queries[:5]
        raise OwnError("of the caller")

    answers, one_by_one = [], [vector_client.search(query).hits for query in random_queries[:5]]
    with pytest.raises(OwnError, match="of the caller"):
        answers.extend(answer.hits for answer in vector_client.search_many(queries()))
    assert answers == one_by_one  # none is lost


def test_a_batch_is_answered_as_its_queries_are(client, vector_client, random_queries):
    for asked, queries, options in (
        (vector_client, random_queries, {"k": 25}),
        (vector_client, random_queries[:3], {"k": 1000, "explain": True}),
        (client, ["iron", "rivers in winter", {3: 1.0}], {"k": 5, "with_document": True}),
    ):
        batch = asked.search_batch(queries, **options)
        single = [asked.search(query, **options) for query in queries]
        assert [one.hits for one in batch] == [one.hits for one in single]
        assert [(one.matched, one.query_terms, one.generation) for one in batch] == [
            (one.matched, one.query_terms, one.generation) for one in single
        ]
        assert all(len(one) for one in batch)
        assert all(one.timings["total"] >= one.timings["score"] > 0 for one in batch)


def test_a_bad_query_of_a_batch_fails_alone(vector_client):
    good, text, bad, again = vector_client.search_batch([{1: 1.0}, "a text", {}, {1: 1.0}])
    assert good.hits == again.hits
    assert len(good.hits)
    assert len(bad.hits) == 0
    assert isinstance(text, ServiceError)
    assert text.code == "FAILED_PRECONDITION"
    assert text.details.startswith("query 1 of the batch: query.text: no encoder is loaded")


def test_a_batch_that_is_malformed_fails_query_by_query(vector_service):
    good = pb.SearchRequest(query=pb.Query(vector=pb.SparseVector(indices=[1], values=[1.0])), k=2)
    bad = pb.SearchRequest(query=pb.Query(vector=pb.SparseVector(indices=[1], values=[-1.0])))
    with vector_service.channel() as channel:
        response = rpc.RetrievalServiceStub(channel).SearchBatch(
            pb.SearchBatchRequest(requests=[bad, good, pb.SearchRequest(query=good.query, k=0)])
        )
    assert [one.WhichOneof("outcome") for one in response.outcomes] == [
        "error",
        "response",
        "error",
    ]
    invalid = grpc.StatusCode.INVALID_ARGUMENT.value[0]
    for place, complaint in ((0, "query.vector.values[0]: -1.0"), (2, "k: 0 is out of range")):
        assert response.outcomes[place].error.code == invalid
        assert complaint in response.outcomes[place].error.message
    assert len(response.outcomes[1].response.hits) == 2


def test_columns_hold_the_hits(vector_service, random_queries):
    indices, values = list(random_queries[0]), list(random_queries[0].values())
    query = pb.Query(vector=pb.SparseVector(indices=indices, values=values))
    with vector_service.channel() as channel:
        stub = rpc.RetrievalServiceStub(channel)
        rows = stub.Search(pb.SearchRequest(query=query, k=100))
        columns = stub.Search(pb.SearchRequest(query=query, k=100, columns=True))
        with pytest.raises(grpc.RpcError, match="columns: true is not allowed with") as error:
            stub.Search(pb.SearchRequest(query=query, columns=True, with_document=True))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not rows.HasField("columns")
    assert not columns.hits
    assert list(columns.columns.ids) == [hit.id for hit in rows.hits]
    assert list(columns.columns.integer_scores) == [hit.integer_score for hit in rows.hits]
    assert list(columns.columns.shards) == [hit.shard for hit in rows.hits]
    assert columns.score_scale == rows.score_scale
    assert len(rows.hits) > 10


async def test_the_same_for_an_asynchronous_generator(vector_service, random_queries):
    async def queries():
        for query in random_queries[:5]:
            yield query
        raise ZeroDivisionError

    answers = []

    async def collect(client):
        async for answer in client.search_many(queries()):
            answers.append(answer)  # noqa: PERF401, what came before the exception counts

    async with vector_service.async_client() as client:
        with pytest.raises(ZeroDivisionError):
            await collect(client)
    assert len(answers) == 5


@pytest.mark.parametrize("kind", ["query", "document"])
def test_encode_gives_the_encoders_vectors(client, encoder, kind):
    texts = ["iron and energy", "", "word " * 200]
    expected = encoder.encode(texts, kind)
    encodings = client.encode(texts, kind, decode=True)
    assert len(encodings) == 3
    for row, encoding in enumerate(encodings):
        terms, weights = expected.vectors.row(row)
        assert list(encoding.vector) == terms.tolist()
        assert list(encoding.vector.values()) == pytest.approx(weights.tolist(), rel=1e-4)
        assert list(encoding.tokens) == [encoder.token(term) for term in terms.tolist()]
        assert encoding.tokens_read == expected.tokens[row]
        assert encoding.cut.tokens == expected.dropped_tokens[row]
        assert encoding.cut.terms == expected.dropped_terms[row]
    assert client.encode(["iron"])[0].tokens == ()


def test_an_encoded_query_searches_like_its_text(client):
    vector = client.encode(["birds in summer"])[0].vector
    by_text, by_vector = client.search("birds in summer"), client.search(vector)
    assert [(hit.id, hit.integer_score) for hit in by_text] == [
        (hit.id, hit.integer_score) for hit in by_vector
    ]


def test_info_publishes_model_index_and_limits(client, encoder):
    info = client.info()
    assert info.model["fingerprint"] == encoder.fingerprint == info.index["model_fingerprint"]
    assert info.model["manifest"]["variant"] == "bidirectional"
    assert (info.index["documents"], len(info.index["shards"])) == (48, 2)
    assert info.index["postings"] == sum(shard["postings"] for shard in info.index["shards"])
    assert {"python", "grpcio", "torch", "numba"} <= set(info.versions)
    assert set(info.limits) == set(pb.Limits.DESCRIPTOR.fields_by_name)
    assert all(info.limits.values())
    assert info.limits["k"] == 10_000


def test_verify_finds_the_ranking_exact(client, vector_client, random_queries):
    verification = client.verify("maps", k=48)
    assert verification
    assert (verification.compared, verification.differences) == (48, ())
    assert verification.matched == verification.reference_matched > 0
    assert vector_client.verify(random_queries[0], k=500)


def test_vectors_are_served_without_an_encoder_and_texts_refused(vector_client):
    assert vector_client.info().model is None
    for call in (lambda: vector_client.search("text"), lambda: vector_client.encode(["text"])):
        with pytest.raises(ServiceError, match="no encoder is loaded") as error:
            call()
        assert error.value.code == "FAILED_PRECONDITION"


async def test_the_asynchronous_client_does_the_same(vector_service, vector_client, random_queries):
    def ranking(answer):
        return [(hit.id, hit.integer_score) for hit in answer]

    expected = [ranking(vector_client.search(query)) for query in random_queries]
    async with vector_service.async_client() as client:
        together = await asyncio.gather(*(client.search(query) for query in random_queries))
        assert [ranking(answer) for answer in together] == expected
        assert [ranking(answer) async for answer in client.search_many(random_queries)] == expected
        batch = await client.search_batch(random_queries)
        assert [ranking(answer) for answer in batch] == expected
        assert (await client.info()).index["documents"] == 300
        assert await client.verify(random_queries[0])
        with pytest.raises(ServiceError, match="FAILED_PRECONDITION"):
            await client.encode(["text"])


def test_health_tells_alive_ready_and_unknown(service):
    with service.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", RETRIEVAL):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
        with pytest.raises(grpc.RpcError) as error:
            stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert RETRIEVAL == "csplade.v1.RetrievalService"


def test_reflection_describes_the_service(service):
    with service.channel() as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {RETRIEVAL, "grpc.health.v1.Health"} <= set(database.get_services())
        described = database.FindFileContainingSymbol(RETRIEVAL).service[0]
    assert [method.name for method in described.method] == [
        "Search",
        "SearchStream",
        "SearchBatch",
        "Explain",
        "Encode",
        "Info",
        "Verify",
    ]


def test_request_ids_are_taken_or_made_and_given_back(service):
    with service.channel() as channel:
        stub = rpc.RetrievalServiceStub(channel)

        def id_of(given):
            _, call = stub.Info.with_call(pb.InfoRequest(), metadata=given)
            return dict(call.trailing_metadata())["x-request-id"]

        assert id_of((("x-request-id", "mine-1"),)) == "mine-1"
        made = {id_of(()), id_of(()), id_of((("x-request-id", "x" * 200),))}
        assert len(made) == 3
        assert all(len(one) == 32 for one in made)


def test_metadata_of_a_document_survives_as_json(client):
    hit = client.search("iron", k=1, with_document=True).hits[0]
    assert json.dumps(hit.document.metadata) == json.dumps({"number": int(hit.id[1:])})
