import json
import resource
import shutil
import sqlite3
import subprocess
import sys

import pytest

from csplade.index import Index, IndexManifest


def contents(index):
    """Everything that a search can tell: manifests and segments to the byte, stores row by row."""
    held = {}
    for path in sorted(index.rglob("*")):
        if path.suffix in {".json", ".safetensors"}:
            held[str(path.relative_to(index))] = path.read_bytes()
        elif path.suffix == ".sqlite":
            with sqlite3.connect(path) as connection:
                held[str(path.relative_to(index))] = list(connection.iterdump())
    return held


@pytest.fixture(scope="module")
def whole(tmp_path_factory, many_vectors):
    """The contents of an index that was built without a break."""
    from csplade.ingest.build import build_from_vectors

    path = tmp_path_factory.mktemp("whole") / "index"
    build_from_vectors(many_vectors, path, shards=3)
    return contents(path)


def test_build_info_verify(cli, tmp_path, many_vectors, whole):
    path = tmp_path / "new" / "index"
    built = cli("index", "build", "--vectors", many_vectors, "--out", path, "--shards", 3)
    assert built.code == 0
    assert "2,500 documents" in built.out
    assert "358 documents have no terms" in built.err
    assert contents(path) == whole

    told = cli("index", "info", path, "--json")
    info = json.loads(told.out)
    assert (info["documents"], info["terms"], info["encoder"], info["vocabulary_size"]) == (
        2500,
        "tokens",
        None,
        10,
    )
    assert [shard["documents"] for shard in info["shards"]] == [834, 833, 833]
    assert "2,500" in cli("index", "info", path).out

    sound = cli("index", "verify", path, "--sample", 20)
    assert (sound.code, sound.out.splitlines()[-1]) == (0, "sound    2,500 documents, 3 segments")


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        ("os:replace", 1),  # the very first file is still aside
        ("csplade.index.write.build:IndexBuilder.add", 1),
        (
            "csplade.index.storage.writable:WritableStore.insert",
            5,
        ),  # inside an addition, after a shard of it
        ("csplade.index.write.build:IndexBuilder.add", 3),
        ("csplade.index.write.build:IndexBuilder.finish", 1),
        ("csplade.index.write.build:write_segment", 2),
        ("os:replace", 8),  # all is derived, only the name of the manifest is missing
    ],
)
def test_killed_and_resumed_gives_the_same_bytes(
    cli, fails, killed, tmp_path, many_vectors, whole, function, calls
):
    path = tmp_path / "index"
    arguments = ("index", "build", "--vectors", many_vectors, "--out", path, "--shards", 3)
    killed(function, calls, *arguments)
    fails("index", "info", path)
    fails("search", path, "--vectors", many_vectors, "--output", tmp_path / "run")
    fails(*arguments)
    assert cli(*arguments, "--resume").code == 0
    assert contents(path) == whole


def test_killed_twice_while_encoding(cli, killed, tmp_path, tiny_model, monkeypatch):
    """With a model: chunk borders, and so vectors, stay where they were."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"_id": f"d{i}", "text": "tea " * (i % 9)}) + "\n" for i in range(300))
    )
    arguments = ("index", "build", "--corpus", corpus, "--model", tiny_model, "--shards", 2)
    assert cli(*arguments, "--out", tmp_path / "whole").code == 0
    killed(
        "csplade.index.storage.writable:WritableStore.insert",
        3,
        *arguments,
        "--out",
        tmp_path / "index",
    )
    resumed = cli(*arguments, "--out", tmp_path / "index", "--resume")
    assert resumed.code == 0
    assert "256 documents were kept from the interrupted build" in resumed.err
    assert contents(tmp_path / "index") == contents(tmp_path / "whole")


def test_a_full_disk(cli, tmp_path, many_vectors, whole):
    """A limit on the size of files stands for it; afterwards the build goes on."""
    path = tmp_path / "index"
    arguments = [
        "index",
        "build",
        "--vectors",
        str(many_vectors),
        "--out",
        str(path),
        "--shards",
        "3",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "from csplade.cli.main import main; main()", *arguments],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("csplade: ")]
    assert (done.returncode, len(said)) == (1, 1), done.stderr
    assert "no space left" in said[0]
    assert "--resume" in said[0]
    assert cli(*arguments, "--resume").code == 0
    assert contents(path) == whole


def test_resume_wants_the_same_input(fails, cli, killed, lines, tmp_path, many_vectors):
    path = tmp_path / "index"
    arguments = ("index", "build", "--vectors", many_vectors, "--out", path)
    killed("csplade.index.write.build:IndexBuilder.add", 2, *arguments)
    assert "shards 1, now it is 2" in fails(*arguments, "--shards", 2, "--resume")
    assert "document scale" in fails(*arguments, "--document-scale", 0.5, "--resume")

    held = many_vectors.read_text().splitlines()
    other = lines("other.jsonl", *held[:700], held[700].replace("text 700", "text 7"), *held[701:])
    assert "document 701 is 'd700'" in fails(
        "index", "build", "--vectors", other, "--out", path, "--resume"
    )
    other = json.loads(held[701])
    other["vector"] = {term: weight + 0.5 for term, weight in other["vector"].items()}
    changed = lines("changed.jsonl", *held[:701], other, *held[702:])
    assert "document 702 is 'd701'" in fails(
        "index", "build", "--vectors", changed, "--out", path, "--resume"
    )
    labelled = lines(
        "labelled.jsonl", *held[:300], {**json.loads(held[300]), "year": 7}, *held[301:]
    )
    assert "document 301 is 'd300'" in fails(
        "index", "build", "--vectors", labelled, "--out", path, "--resume"
    )
    short = lines("short.jsonl", *held[:1000])
    assert "holds 1024 documents" in fails(
        "index", "build", "--vectors", short, "--out", path, "--resume"
    )
    strange = lines("strange.jsonl", *held, {"id": "x", "vector": {"moon": 1}})
    assert "vocabulary size" in fails(
        "index", "build", "--vectors", strange, "--out", path, "--resume"
    )
    assert cli(*arguments, "--resume").code == 0
    assert "complete index" in fails(*arguments, "--resume")


def test_resume_starts_what_was_not_begun(cli, tmp_path, many_vectors, whole):
    arguments = ("--vectors", many_vectors, "--out", tmp_path / "index", "--shards", 3, "--resume")
    assert cli("index", "build", *arguments).code == 0
    assert contents(tmp_path / "index") == whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], ": no vectors in it"),
        (['{"id": "a", '], ":1: broken JSON line"),
        (["[1]"], ":1: broken JSON line: must be a JSON object, is list"),
        ([{"vector": {"a": 1}}], ":1: '_id' or 'id' is needed, found 'vector'"),
        ([{"id": 7.5, "vector": {"a": 1}}], ":1: id: 7.5 must be a string"),
        ([{"id": "a b", "vector": {"a": 1}}], ":1: id: 'a b' has white space"),
        ([{"id": "a"}], ":1: 'vector' is needed"),
        ([{"id": "a", "vector": [1]}], ":1: 'vector' is needed"),
        (
            [{"id": "a", "vector": {"t": 1}}, {"id": "a", "vector": {"t": 2}}],
            ":2: id 'a' is on line 1 already",
        ),
        ([{"id": "a", "vector": {"t": float("nan")}}], ":1: broken JSON line: NaN is not JSON"),
        (['{"id": "a", "vector": {"t": 1e999}}'], ":1: weight of term 't' is inf"),
        (
            [{"id": "a", "vector": {"t": -0.5}}],
            ":1: weight of term 't' is -0.5, must be 0 or more and finite",
        ),
        ([{"id": "a", "vector": {"t": 0}}], ": not one of its 1 vectors has a term"),
        ([{"id": "a", "vector": {"t": 1e39}}], ":1: weight of term 't' is 1e+39"),
        ([{"id": "a", "vector": {"t": 10**400}}], ":1: weight of term 't' is 1000"),
        (
            [{"id": "a", "vector": {"t": True}}],
            ":1: weight of term 't' is True, must be a number",
        ),
        (
            [{"id": "a", "vector": {"t": "1"}}],
            ":1: weight of term 't' is '1', must be a number",
        ),
        (
            ['{"id": "a", "contents": "\\ud800", "vector": {"t": 1}}'],
            ":1: has '\\ud800', half of a Unicode surrogate pair",
        ),
        (
            ['{"id": "a", "more": ["\\ud800"], "vector": {"t": 1}}'],
            ":1: has '\\ud800', half of a Unicode surrogate pair",
        ),
        (
            ['{"id": "a", "vector": {"\\ud800": 1}}'],
            ":1: has '\\ud800', half of a Unicode surrogate pair",
        ),
        ([{"id": "a", "vector": {}}], ": not one of its 1 vectors has a term"),
        (
            [{"id": "a", "vector": {"2147483647": 1}}],
            ":1: term '2147483647' must be an integer id from 0 to 2147483646",
        ),
        (
            [{"id": "a", "contents": 5, "vector": {"t": 1}}],
            ":1: contents: 5 must be a string",
        ),
    ],
)
def test_bad_vectors(fails, lines, tmp_path, content, message):
    path = lines("bad.jsonl", *content)
    said = fails("index", "build", "--vectors", path, "--out", tmp_path / "index")
    assert said.startswith(f"{path}{message}"), said
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], ": no documents in it"),
        ([{"_id": "a", "text": "x"}, "{"], ":2: broken JSON line"),
        ([{"_id": "a", "text": None}], ":1: text: None must be a string"),
        ([{"_id": "a"}], ":1: 'text' or 'contents' is needed"),
        ([{"_id": "a", "title": ["x"], "text": "y"}], ":1: title: ['x'] must be a string"),
        ([{"_id": "", "text": "y"}], ":1: _id: '' must be a string that is not empty"),
        (
            [{"_id": "a", "text": "y"}, "", {"id": "a", "text": "z"}],
            ":3: id 'a' is on line 1 already",
        ),
    ],
)
def test_bad_corpus(fails, lines, tmp_path, content, message):
    """Found before a model is loaded: the one named here does not exist."""
    path = lines("bad.jsonl", *content)
    said = fails(
        "index", "build", "--corpus", path, "--out", tmp_path / "index", "--model", "nowhere"
    )
    assert said.startswith(f"{path}{message}"), said
    assert not (tmp_path / "index").exists()


def test_skip_bad_counts_and_reports(cli, lines, tmp_path):
    good = {"id": "a", "contents": "first", "vector": {"t": 1.5}}
    repeated = {**good, "contents": "second"}
    path = lines(
        "some.jsonl",
        good,
        "{",
        repeated,
        {"id": "b", "vector": {"t": -1}},
        {"id": "c", "vector": {"u": 2}},
    )
    built = cli("index", "build", "--vectors", path, "--out", tmp_path / "index", "--skip-bad")
    assert built.code == 0
    assert "3 bad lines were skipped" in built.err
    assert [line for line in built.err.splitlines() if line.startswith("skipped: ")] == [
        f"skipped: {path}:2: broken JSON line: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)",
        f"skipped: {path}:3: id 'a' is on line 1 already, and the lines differ",
        f"skipped: {path}:4: weight of term 't' is -1, must be 0 or more and finite in float32",
    ]
    with Index.open(tmp_path / "index") as index:
        assert [one.text for one in index.fetch([0, 0], [0, 1])] == ["first", ""]


def test_documents_keep_what_their_lines_say(lines, tmp_path, tiny_model, cli):
    path = lines(
        "corpus.jsonl",
        {"_id": "a", "title": "Tea", "text": "hot", "year": 1900, "metadata": {"tags": ["x"]}},
        {"id": "b", "text": "cold", "title": None, "metadata": {}},
    )
    assert (
        cli(
            "index", "build", "--corpus", path, "--model", tiny_model, "--out", tmp_path / "index"
        ).code
        == 0
    )
    with Index.open(tmp_path / "index") as index:
        first, second = index.fetch([0, 0], [0, 1])
    assert (first.title, first.text, first.metadata) == (
        "Tea",
        "hot",
        {"tags": ["x"], "year": 1900},
    )
    assert (second.id, second.title, second.text, second.metadata) == ("b", "", "cold", {})
    encoder = IndexManifest.open(tmp_path / "index").encoder
    assert encoder["model"] == str(tiny_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: shutil.rmtree(path), "no index here"),
        (lambda path: (path / "index.json").write_text("{"), "torn"),
        (
            lambda path: _edit(path / "index.json", '"format_version": 2', '"format_version": 9'),
            "format version 9",
        ),
        (
            lambda path: _edit(path / "index.json", '"shard_count": 3', '"shard_count": 2'),
            "altered",
        ),
        (
            lambda path: _cut(path / "shard-0001" / "segment-000000.safetensors"),
            "segment-000000.safetensors",
        ),
        (
            lambda path: (path / "shard-0002" / "documents.sqlite").unlink(),
            "documents.sqlite: missing",
        ),
        (lambda path: (path / "shard-0000" / "shard.json").unlink(), "shard.json: missing"),
    ],
)
def test_spoilt_indexes(fails, tmp_path, many_vectors, change, message):
    from csplade.ingest.build import build_from_vectors

    path = tmp_path / "index"
    build_from_vectors(many_vectors, path, shards=3)
    change(path)
    assert message in fails("index", "verify", path)
    assert message in fails(
        "search", path, "--vectors", many_vectors, "--output", tmp_path / "run.trec"
    )
    assert not (tmp_path / "run.trec").exists()


def test_verify_repairs_segments(fails, cli, tmp_path, many_vectors, whole):
    from csplade.ingest.build import build_from_vectors

    path = tmp_path / "index"
    build_from_vectors(many_vectors, path, shards=3)
    _cut(path / "shard-0001" / "segment-000000.safetensors")
    fails("index", "verify", path)
    assert cli("index", "verify", path, "--repair").code == 0
    assert contents(path) == whole


def test_verify_finds_a_store_that_differs(cli, tmp_path, many_vectors):
    from csplade.ingest.build import build_from_vectors

    path = tmp_path / "index"
    build_from_vectors(many_vectors, path)
    with sqlite3.connect(path / "shard-0000" / "documents.sqlite") as store:
        store.execute("UPDATE vectors SET impacts = x'01' WHERE ordinal = 1")
    store.close()
    outcome = cli("index", "verify", path)
    assert outcome.code == 1
    assert "PROBLEM" in outcome.out


def test_usage_errors(cli, tmp_path):
    assert cli("index", "build", "--out", tmp_path / "x").code == 2
    assert (
        cli("index", "build", "--out", tmp_path / "x", "--corpus", "a", "--vectors", "b").code == 2
    )
    assert (
        cli("index", "build", "--out", tmp_path / "x", "--corpus", "a", "--terms", "ids").code == 2
    )
    assert (
        cli(
            "index", "build", "--out", tmp_path / "x", "--vectors", "a", "--quantization", "int8"
        ).code
        == 2
    )
    assert cli("index", "build", "--out", tmp_path / "x", "--corpus", "a", "--shards", 0).code == 2
    assert (
        cli(
            "index", "build", "--out", tmp_path / "x", "--corpus", "a", "--quantization", "int3"
        ).code
        == 2
    )


def test_missing_files(fails, tmp_path):
    assert fails("index", "build", "--corpus", tmp_path / "no.jsonl", "--out", tmp_path / "x") == (
        f"{tmp_path}/no.jsonl: no such file"
    )
    assert "no such file" in fails(
        "index", "build", "--vectors", tmp_path / "no.jsonl", "--out", tmp_path / "x"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    assert "absent or an empty" in fails(
        "index", "build", "--corpus", "a", "--out", tmp_path / "full"
    )
    assert "is not a directory" in fails(
        "index", "build", "--corpus", "a", "--out", tmp_path / "full" / "something"
    )


def _edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_the_vocabulary_size_of_ids_may_be_set(cli, fails, lines, tmp_path):
    path = lines("v.jsonl", {"id": "a", "vector": {"5": 1}}, {"id": "b", "vector": {"900": 1}})
    build = ("index", "build", "--vectors", path, "--out")
    assert cli(*build, tmp_path / "index", "--vocabulary-size", 30522).code == 0
    info = json.loads(cli("index", "info", tmp_path / "index", "--json").out)
    assert (info["vocabulary_size"], info["terms"]) == (30522, "ids")
    said = fails(*build, tmp_path / "small", "--vocabulary-size", 900)
    assert said.startswith(f"{path}:2: term 900 is not below the vocabulary size, 900")
    words = lines("w.jsonl", {"id": "a", "vector": {"tea": 1}})
    assert "goes with integer ids" in fails(
        "index", "build", "--vectors", words, "--out", tmp_path / "w", "--vocabulary-size", 9
    )
    assert cli(*build, tmp_path / "m", "--vocabulary-size", 9, "--model", "embedded").code == 2
    corpus = ("index", "build", "--corpus", path, "--out", tmp_path / "c")
    assert cli(*corpus, "--vocabulary-size", 9).code == 2
    assert sorted(one.name for one in tmp_path.iterdir()) == ["index", "v.jsonl", "w.jsonl"]


def test_a_folder_and_indices_with_values(cli, tmp_path):
    folder = tmp_path / "vectors"
    folder.mkdir()
    (folder / "docs00.json").write_text('{"id": 7, "vector": {"4": 0.5, "9": 0}}\n')
    (folder / "docs01.json").write_text(
        '{"id": "b", "vector": {"sparse": {"indices": [9, 4], "values": [1, 2.0]}}}\n'
        '{"id": "c", "indices": [], "values": [], "text": "nothing"}\n'
    )
    outcome = cli("index", "build", "--vectors", folder, "--out", tmp_path / "index")
    assert outcome.code == 0
    assert "1 documents have no terms" in outcome.err
    with Index.open(tmp_path / "index") as index:
        assert index.manifest.vocabulary_size == 10
        assert [one.id for one in index.fetch([0, 0, 0], [0, 1, 2])] == ["7", "b", "c"]
        stored = index.vectors([0, 0, 0], [0, 1, 2])
    assert stored.indptr.tolist() == [0, 1, 3, 3]
    assert stored.terms.tolist() == [4, 4, 9]


def test_export_and_build_again(cli, fails, tmp_path, many_vectors):
    index = tmp_path / "index"
    assert cli("index", "build", "--vectors", many_vectors, "--out", index, "--shards", 2).code == 0
    ours = json.loads(cli("index", "info", index, "--json").out)
    for name in ("x.ciff", "x.jsonl", "x.parquet"):
        outcome = cli("index", "export", index, "--out", tmp_path / name)
        assert outcome.code == 0, outcome
        assert "2,500 documents" in outcome.out
        again = tmp_path / f"{name}.index"
        assert cli("index", "build", "--vectors", tmp_path / name, "--out", again).code == 0
        theirs = json.loads(cli("index", "info", again, "--json").out)
        for key in ("documents", "postings", "terms", "vocabulary_size"):
            assert theirs[key] == ours[key]
        assert "exists already" in fails("index", "export", index, "--out", tmp_path / name)
    outcome = cli("index", "export", index, "--out", tmp_path / "ids.jsonl", "--terms", "ids")
    assert outcome.code == 0
    line = json.loads((tmp_path / "ids.jsonl").read_text().splitlines()[1])
    assert all(term.isdecimal() for term in line["vector"])
    command = ("index", "export", index, "--out")
    assert cli(*command, tmp_path / "plain", "--format", "jsonl").code == 0
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "x.jsonl").read_bytes()
    outcome = cli(*command, tmp_path / "x.txt")
    assert outcome.code == 2
    assert "give --format" in outcome.err
    outcome = cli(*command, tmp_path / "y.ciff", "--format", "jsonl")
    assert outcome.code == 2
    assert "y.ciff ends as ciff does" in outcome.err


@pytest.mark.parametrize("name", ["v.parquet", "v.ciff", "v.jsonl"])
def test_a_malformed_file_is_one_line(fails, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"PAR1 and nothing else")
    told = fails("index", "build", "--vectors", path, "--out", tmp_path / "index")
    assert str(path) in told
    assert not (tmp_path / "index").exists()


def test_an_index_of_an_encoder_is_exported_by_its_tokens(cli, small_index, tmp_path):
    assert cli("index", "export", small_index, "--out", tmp_path / "x.jsonl").code == 0
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"d{i}" for i in range(300)]
    assert lines[5]["metadata"] == {"year": 1905}
