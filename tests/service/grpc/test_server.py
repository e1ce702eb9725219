"""What only the single process has: an engine of one's own, its metrics endpoint, its refusal to
start.
"""

import urllib.request

import pytest

from csplade.client.client import Client
from csplade.core.errors import IncompatibleError
from csplade.engine.collection import Collection
from csplade.index import Index
from csplade.service.grpc.server import running


def test_verify_reports_what_differs(vector_index, settings, random_queries):
    class Wrong(Index):
        @property
        def snapshot(self):
            return self

        def search(self, *arguments, **options):
            result = super().search(*arguments, **options)
            result.scores[1:2] += 1
            return result

    with (
        running(
            settings(vector_index, metrics__enabled=True),
            lambda _: Collection(Wrong.open(vector_index)),
        ) as server,
        Client(server.address) as client,
    ):
        verification = client.verify(random_queries[0], k=5)
        assert not verification
        (difference,) = verification.differences
        assert difference.rank == 2
        assert difference.id == difference.reference_id
        assert difference.score == difference.reference_score + 1
        assert "csplade_verify_mismatches_total 1.0" in scrape(server)


def test_an_index_of_another_model_is_refused_at_the_start(text_index, tiny_model_of, settings):
    another = str(tiny_model_of(logit_scale=0.25))
    with (
        pytest.raises(IncompatibleError, match="was built by an encoder"),
        running(settings(text_index, model__path=another, model__device="cpu")),
    ):
        pass


def scrape(server):
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as response:
        return response.read().decode()


def value(text, name):
    return next(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + " ")
    )


NAMES = [
    "requests_total",
    "request_seconds",
    "stage_seconds",
    "batch_queries",
    "batch_tokens",
    "queue_depth",
    "query_terms",
    "postings_scored",
    "truncated_total",
    "filter_cache_hits_total",
    "filter_cache_misses_total",
    "filter_cache_bytes",
    "index_documents",
    "index_postings",
    "index_bytes",
    "index_generation",
    "generation",
    "documents",
    "deleted_documents",
    "tail_documents",
    "compactions_total",
    "writes_total",
    "commit_seconds",
    "model_info",
    "verify_mismatches_total",
    "log_dropped_lines",
    "device_memory_bytes",
    "device_memory_limit_bytes",
]


def test_metrics_have_their_names_and_move(text_index, encoder, settings):
    def opener(_):
        return Collection(Index.open(text_index, threads=1), encoder)

    with (
        running(settings(text_index, metrics__enabled=True), opener) as server,
        Client(server.address) as client,
    ):
        check_metrics(server, client)


def check_metrics(server, client):
    before = scrape(server)
    client.search("a text of " + "many " * 100 + "words")
    after = scrape(server)
    kinds = [line.split()[2] for line in after.splitlines() if line.startswith("# TYPE csplade_")]
    assert sorted(kinds) == sorted(f"csplade_{name}" for name in NAMES)
    moved = {
        'csplade_requests_total{code="OK",method="Search"}': 1,
        'csplade_request_seconds_count{method="Search"}': 1,
        "csplade_batch_queries_count": 1,
        "csplade_batch_tokens_sum": 32,
        "csplade_query_terms_count": 1,
        "csplade_postings_scored_count": 1,
        **{
            f'csplade_stage_seconds_count{{stage="{stage}"}}': 1
            for stage in (
                "queue",
                "tokenize",
                "encode",
                "sparsify",
                "score",
                "select",
                "merge",
                "fetch",
            )
        },
    }
    for name, by in moved.items():
        earlier = value(before, name) if name in before else 0
        assert value(after, name) - earlier == by, name
    for what in ("tokens", "terms"):
        name = f'csplade_truncated_total{{what="{what}"}}'
        assert value(after, name) > value(before, name)
    assert value(after, 'csplade_index_documents{shard="1"}') == 24
    assert 'csplade_stage_seconds_bucket{le="1.5e-05",stage="queue"}' in after
    assert 'csplade_stage_seconds_bucket{le="2.25e-05",stage="queue"}' in after


def test_no_metrics_when_switched_off(vector_index, settings):
    with running(settings(vector_index)) as server:
        assert server.metrics_address == ""
