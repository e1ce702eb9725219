import json
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, small_corpus):
    folder = tmp_path_factory.mktemp("data") / "small"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_bytes(small_corpus.read_bytes())
    queries = [
        {"_id": "q1", "text": "coffee 1"},
        {"_id": "q2", "text": "river stone"},
        {"_id": "q3", "text": ""},
    ]
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    judgments = "q1\td1\t1\nq2\td2\t2\nq2\td3\t1\nq3\td4\t1\n"
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgments)
    return folder


@pytest.fixture
def served(small_index):
    """host:port of the small index, served by a process of its own."""
    command = [sys.executable, "-c", "from csplade.cli.main import main; main()"]
    serving = [
        *command,
        "serve",
        str(small_index),
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-metrics",
    ]
    with subprocess.Popen(
        serving, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        yield process.stdout.readline().strip()
        process.terminate()


def test_index_service_and_run_agree(cli, dataset, small_index, served, tmp_path):
    run = tmp_path / "run.trec"
    assert (
        cli(
            "search",
            small_index,
            "--queries",
            dataset / "queries.jsonl",
            "-k",
            300,
            "--output",
            run,
        ).code
        == 0
    )
    systems = ("--index", small_index, "--target", served, "--run", run, "--bm25", "-k", 300)
    outcome = cli("evaluate", dataset, *systems, "--sample", 20, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert (result["dataset"], result["split"], result["queries"]) == ("small", "test", 3)
    ours = {row["name"]: row for row in result["systems"]}
    index, service, file = ours[str(small_index)], ours[served], ours[str(run)]
    assert index["measures"] == service["measures"] == file["measures"]
    assert index["measures"]["Recall@1000"] == pytest.approx(2 / 3)
    for key in ("query_terms", "document_terms", "flops", "bytes_per_document"):
        assert index[key] == service[key] > 0
    assert index["documents_per_second"] > 0
    assert {"tokenize", "encode", "score", "total"} <= set(index["milliseconds"])
    assert "queue" in service["milliseconds"]
    assert ours["BM25"]["measures"]["Recall@1000"] == pytest.approx(2 / 3)


def test_flops_by_their_definition(cli, dataset, small_index):
    from csplade.engine.collection import Collection
    from csplade.index import Index

    outcome = cli("evaluate", dataset, "--index", small_index, "--sample", 0, "--json")
    (row,) = json.loads(outcome.out)["systems"]
    with Collection.open(small_index) as engine:
        queries, _ = engine.quantize(engine.encoder.encode_query(["coffee 1", "river stone", ""]))
    with Index.open(small_index) as index:
        shards = [shard.documents for shard in index.manifest.shards]
        everything = index.vectors(
            [shard for shard, count in enumerate(shards) for _ in range(count)],
            [ordinal for count in shards for ordinal in range(count)],
        )
    of_query, of_document = {}, {}
    for counts, batch in ((of_query, queries), (of_document, everything)):
        for terms, _ in batch:
            for term in terms.tolist():
                counts[term] = counts.get(term, 0) + 1 / len(batch)
    expected = sum(share * of_document.get(term, 0) for term, share in of_query.items())
    assert row["flops"] == pytest.approx(expected)
    assert row["documents_per_second"] is None


def test_the_table(cli, dataset, small_index):
    outcome = cli("evaluate", dataset, "--index", small_index, "--bm25", "--sample", 0)
    lines = outcome.out.splitlines()
    assert lines[0] == "small, test: 3 judged queries, top 1,000"
    assert lines[1].split()[:5] == ["system", "nDCG@10", "RR@10", "Recall@100", "Recall@1000"]
    assert lines[2].split()[0] == str(small_index)
    assert lines[3].split()[0] == "BM25"
    assert "encode" in lines[5]
    assert "\x1b" not in outcome.out


def test_a_run_of_another_collection(fails, cli, dataset, tmp_path):
    run = tmp_path / "run.trec"
    run.write_text("elsewhere Q0 d1 1 2 t\n")
    assert "has none of the queries" in fails("evaluate", dataset, "--run", run)
    run.write_text("q1 Q0 nothing 1 2 t\n")
    outcome = cli("evaluate", dataset, "--run", run)
    assert outcome.code == 0
    assert "no judged document was found" in outcome.err


def test_bad_input(fails, dataset, small_index, tmp_path, many_vectors):
    from csplade.ingest.build import build_from_vectors

    assert "no such folder" in fails("evaluate", tmp_path / "no", "--bm25")
    assert "splits that exist: test" in fails("evaluate", dataset, "--split", "dev", "--bm25")
    assert "no such file" in fails("evaluate", dataset, "--run", tmp_path / "no.trec")
    assert "no index here" in fails("evaluate", dataset, "--index", tmp_path / "no")
    assert "UNAVAILABLE" in fails("evaluate", dataset, "--target", "127.0.0.1:1")
    build_from_vectors(many_vectors, tmp_path / "ready")
    assert "no encoder is loaded" in fails("evaluate", dataset, "--index", tmp_path / "ready")


def test_usage_errors(cli, dataset):
    assert cli("evaluate", dataset).code == 2
    assert cli("evaluate").code == 2
