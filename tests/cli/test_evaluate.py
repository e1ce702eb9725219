import json
import subprocess
import sys

import numpy as np
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
        queries = engine.quantize(
            engine.encoder.encode_query(["coffee 1", "river stone", ""]), engine.index.snapshot
        )
    with Index.open(small_index) as index:
        shards = [shard.documents for shard in index.manifest.shards]
        everything = index.vectors(
            [shard for shard, count in enumerate(shards) for _ in range(count)],
            [ordinal for count in shards for ordinal in range(count)],
        )
    of_query, of_document = {}, {}
    for counts, batch in ((of_query, queries), (of_document, everything)):
        for terms, impacts in batch:
            # A document's impact that needs two bytes takes two postings.
            postings = 1 + (impacts > 255)
            if batch is queries:
                postings = np.ones(len(terms))
            for term, count in zip(terms.tolist(), postings.tolist(), strict=True):
                counts[term] = counts.get(term, 0) + count / len(batch)
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
    assert "no encoder is noted in it" in fails("evaluate", dataset, "--index", tmp_path / "ready")


def test_usage_errors(cli, dataset):
    assert cli("evaluate", dataset).code == 2
    assert cli("evaluate").code == 2


WORDS = ("granite", "violin", "harbour", "cinnamon")


@pytest.fixture
def own_documents(tmp_path):
    """A collection whose queries are documents, and a run that finds each query first."""
    folder = tmp_path / "argue"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{i}", "text": f"shared {word}"} for i, word in enumerate(WORDS)]
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels" / "test.tsv").write_text("d0 0 d1 1\nd1 0 d2 1\nd2 0 d3 1\nd3 0 d0 0\n")
    run = tmp_path / "run.trec"
    run.write_text("d0 Q0 d0 1 9 t\nd0 Q0 d1 2 8 t\nd1 Q0 d1 1 9 t\nd1 Q0 d2 2 8 t\n")
    return folder, run


def test_a_hit_with_the_querys_own_id_is_left_out_unless_kept(cli, own_documents):
    folder, run = own_documents
    outcome = cli("evaluate", folder, "--run", run, "--json")
    (row,) = json.loads(outcome.out)["systems"]
    assert (row["measures"]["RR@10"], row["own_hits"], row["without_ranking"]) == (0.5, 2, 2)
    assert "2 hits with the query's own id were left out, as BEIR does; --keep-self" in outcome.err
    assert "2 of 4 judged queries have no ranking and count as 0" in outcome.err
    assert "1 of 4 judged queries have no relevant document" in outcome.err
    kept = cli("evaluate", folder, "--run", run, "--json", "--keep-self")
    (row,) = json.loads(kept.out)["systems"]
    assert (row["measures"]["RR@10"], row["own_hits"]) == (0.25, 0)
    assert "own id" not in kept.err


def test_ids_that_coincide_by_chance_are_told(cli, own_documents):
    folder, run = own_documents
    assert "coincide by chance" not in cli("evaluate", folder, "--run", run).err
    (folder / "qrels" / "test.tsv").write_text("d0 0 d0 1\nd1 0 d2 1\n")
    outcome = cli("evaluate", folder, "--run", run)
    assert "1 queries have a relevant document of their own id" in outcome.err


def test_one_more_hit_is_asked_for_the_one_that_is_left_out(cli, own_documents, tmp_path):
    folder, _ = own_documents
    outcome = cli("evaluate", folder, "--bm25", "-k", 1, "--json")
    (row,) = json.loads(outcome.out)["systems"]
    assert row["own_hits"] == 4
    assert row["without_ranking"] == 0  # all documents share a word


def test_ties_of_a_run_are_told(cli, dataset, tmp_path):
    run = tmp_path / "run.trec"
    run.write_text("q1 Q0 d1 1 2 t\nq1 Q0 d2 2 2 t\n")
    outcome = cli("evaluate", dataset, "--run", run)
    assert "1 ties stand by rank; trec_eval orders them by id" in outcome.err


def test_everything_is_checked_before_a_model_is_loaded(
    fails, dataset, small_index, tmp_path, monkeypatch
):
    def load(*arguments, **options):
        raise AssertionError("loaded")

    monkeypatch.setattr("csplade.engine.collection.Collection.open", load)
    bad = tmp_path / "bad.trec"
    bad.write_text("q1 Q0 d1 1\n")
    ours = ("evaluate", dataset, "--index", small_index)
    assert f"{bad}:1: a run line is" in fails(*ours, "--run", bad)
    assert "no index here" in fails(*ours, "--index", tmp_path / "no")
    assert "UNAVAILABLE" in fails(*ours, "--target", "127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "bm25s", None)
    assert "needs bm25s" in fails(*ours, "--bm25")
    monkeypatch.setitem(sys.modules, "pytrec_eval", None)
    assert "needs pytrec-eval-terrier" in fails(*ours)


def test_a_system_that_fails_late_does_not_lose_the_others(cli, dataset, tmp_path, monkeypatch):
    from csplade.core.errors import InputError

    def fail(*arguments, **options):
        raise InputError("gone")

    monkeypatch.setattr("csplade.evaluation.bm25.rank", fail)
    run = tmp_path / "run.trec"
    run.write_text("q1 Q0 d1 1 2 t\n")
    outcome = cli("evaluate", dataset, "--run", run, "--bm25")
    assert outcome.code == 1
    assert str(run) in outcome.out
    assert "csplade: gone" in outcome.err


def test_a_written_run_is_measured_by_trec_eval_as_by_us(cli, lines, tmp_path):
    """Whole-number impacts, nearly all scores equal."""
    import pytrec_eval

    documents = [{"id": f"d{i:02d}", "vector": {f"t{i % 3}": 1 + i % 2}} for i in range(60)]
    folder = tmp_path / "ties"
    (folder / "qrels").mkdir(parents=True)
    judged = [("q0", "d03"), ("q0", "d33"), ("q1", "d31"), ("q2", "d50")]
    (folder / "qrels" / "test.tsv").write_text("".join(f"{q} 0 {d} 1\n" for q, d in judged))
    (folder / "queries.jsonl").write_text(
        "".join(f'{{"_id": "q{i}", "text": "x"}}\n' for i in range(3))
    )
    queries = lines("q.jsonl", *({"id": f"q{i}", "vector": {f"t{i}": 2}} for i in range(3)))
    index, run = tmp_path / "index", tmp_path / "run.trec"
    vectors = lines("v.jsonl", *documents)
    assert cli("index", "build", "--vectors", vectors, "--out", index).code == 0
    assert cli("search", index, "--vectors", queries, "-k", 100, "--output", run).code == 0
    ours = json.loads(cli("evaluate", folder, "--run", run, "--json").out)["systems"][0]
    qrels = {"q0": {"d03": 1, "d33": 1}, "q1": {"d31": 1}, "q2": {"d50": 1}}
    with open(run) as file:
        theirs = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank", "ndcg_cut.10"}).evaluate(
            pytrec_eval.parse_run(file)
        )
    mean = sum(one["ndcg_cut_10"] for one in theirs.values()) / 3
    assert ours["measures"]["nDCG@10"] == pytest.approx(mean, abs=1e-12)
    assert mean > 0


def test_an_absent_index_is_built_with_the_model(cli, dataset, tiny_model, tmp_path):
    index = tmp_path / "index"
    command = ("evaluate", dataset, "--index", index, "--model", tiny_model, "--json")
    first = cli(*command)
    assert first.code == 0
    assert (index / "index.json").is_file()
    written = (index / "index.json").stat().st_mtime_ns
    again = cli(*command)
    measures = [json.loads(one.out)["systems"][0]["measures"] for one in (first, again)]
    assert measures[0] == measures[1]
    assert (index / "index.json").stat().st_mtime_ns == written
