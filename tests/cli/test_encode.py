import json

import numpy as np
import pytest

from csplade.core.errors import InputError
from csplade.index import IndexManifest


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_corpus, tiny_model):
    """The bytes of a file of vectors that was written without a break."""
    from csplade.ingest.encode import encode_file
    from csplade.model import Encoder

    path = tmp_path_factory.mktemp("whole") / "vectors.jsonl"
    report = encode_file(small_corpus, path, Encoder.from_pretrained(tiny_model))
    assert (report.texts, report.resumed) == (300, 0)
    return path.read_bytes()


def arguments(source, output, model):
    return ("encode", "--input", source, "--output", output, "--model", model)


def test_lines_hold_what_the_encoder_says(whole, small_corpus, tiny_model):
    from csplade.model import Encoder

    encoder = Encoder.from_pretrained(tiny_model)
    lines = [json.loads(line) for line in whole.splitlines()]
    texts = [json.loads(line) for line in small_corpus.read_text().splitlines()]
    assert [line["id"] for line in lines] == [text["_id"] for text in texts]
    assert lines[0] == {"id": "d0", "contents": "", "vector": {}}
    assert lines[1]["contents"] == "coffee 1 the coffee and the coffee"
    assert lines[10]["contents"] == "the stone and the coffee"
    # in the company of the same texts the weights are the same to the bit
    vectors = encoder.encode_document([line["contents"] for line in lines[:256]])
    for line, (terms, weights) in zip(lines, vectors, strict=False):
        assert list(line["vector"]) == [encoder.token(term) for term in terms.tolist()]
        assert np.array(list(line["vector"].values()), np.float32).tolist() == weights.tolist()


@pytest.mark.parametrize("torn", [0, 37, 100_000])
def test_killed_and_run_again_keeps_whole_lines(
    cli, killed, tmp_path, small_corpus, tiny_model, whole, torn
):
    output = tmp_path / "vectors.jsonl"
    part = tmp_path / "vectors.jsonl.part"
    if torn == 0:
        # one for the note, one for its directory, one for each chunk
        killed("os:fsync", 4, *arguments(small_corpus, output, tiny_model))
        assert part.read_bytes() == whole
    else:
        (tmp_path / "vectors.jsonl.part.json").write_bytes(_note(tiny_model))
        part.write_bytes(whole[:-torn])
    kept = part.read_bytes().count(b"\n")
    assert not output.exists()
    again = cli(*arguments(small_corpus, output, tiny_model))
    assert again.code == 0
    assert f"{kept} vectors were there from before" in again.err
    assert "texts 300/300, " in again.err
    assert output.read_bytes() == whole
    assert {path.name for path in tmp_path.iterdir()} == {"vectors.jsonl", "vectors.jsonl.job.json"}


def _note(model):
    from csplade.model import Manifest

    made_with = {
        "model": Manifest.load(model).fingerprint,
        "quantization": "none",
        "kind": "document",
    }
    return json.dumps({**made_with, "terms": "tokens"}).encode()


def test_a_part_of_something_else_is_refused(
    fails, tmp_path, small_corpus, tiny_model, whole, lines
):
    output = tmp_path / "vectors.jsonl"
    part, note = tmp_path / "vectors.jsonl.part", tmp_path / "vectors.jsonl.part.json"
    part.write_bytes(b"".join(whole.splitlines(keepends=True)[:10]))
    command = arguments(small_corpus, output, tiny_model)
    assert "does not tell with which settings" in fails(*command)
    note.write_bytes(_note(tiny_model))
    assert "was started with kind 'document', now it is 'query'" in fails(
        *command, "--kind", "query"
    )
    assert "was started with terms 'tokens', now it is 'ids'" in fails(*command, "--terms", "ids")
    held = small_corpus.read_text().splitlines()
    other = lines(
        "other.jsonl",
        *held[:3],
        held[3].replace("bird", "bard").replace("stone", "stove"),
        *held[4:],
    )
    assert "another text where the source has 'd3'" in fails(*arguments(other, output, tiny_model))
    short = lines("short.jsonl", *held[:2])
    assert "has 2; delete it" in fails(*arguments(short, output, tiny_model))
    assert not output.exists()


def test_an_index_of_the_vectors_is_the_index_of_the_corpus(
    cli, tmp_path, small_index, tiny_model, whole
):
    vectors = tmp_path / "vectors.jsonl"
    vectors.write_bytes(whole)
    # A corpus and a file of vectors fit the scale to samples of their own.
    scale = repr(IndexManifest.open(small_index).document_scale)
    build = ("index", "build", "--vectors", vectors, "--shards", 2, "--document-scale", scale)
    assert cli(*build, "--out", tmp_path / "index", "--model", tiny_model).code == 0
    for segment in (
        "shard-0000/segment-000000.safetensors",
        "shard-0001/segment-000000.safetensors",
    ):
        assert (tmp_path / "index" / segment).read_bytes() == (small_index / segment).read_bytes()
    ours, theirs = IndexManifest.open(tmp_path / "index"), IndexManifest.open(small_index)
    assert ours.fingerprint == theirs.fingerprint


def test_terms_as_ids(cli, tmp_path, small_corpus, tiny_model, whole):
    from csplade.model import Encoder

    output = tmp_path / "ids.jsonl"
    assert cli(*arguments(small_corpus, output, tiny_model), "--terms", "ids").code == 0
    vocabulary = Encoder.from_pretrained(tiny_model).vocabulary()
    tokens = json.loads(whole.splitlines()[7])["vector"]
    ids = json.loads(output.read_text().splitlines()[7])["vector"]
    assert {str(vocabulary[token]): weight for token, weight in tokens.items()} == ids


def test_terms_without_strings_of_their_own_are_told_before_anything_is_encoded(
    tmp_path, small_corpus, tiny_model, monkeypatch
):
    from csplade.ingest.encode import encode_file
    from csplade.model import Encoder

    encoder = Encoder.from_pretrained(tiny_model)
    names = encoder.tokens()
    monkeypatch.setattr(encoder, "tokens", lambda: [*names[:-2], names[4], names[5]])
    monkeypatch.setattr(encoder, "encode", None)
    message = r"terms: 2 of the \d+ terms .* have no token string of their own; give --terms ids"
    with pytest.raises(InputError, match=message):
        encode_file(small_corpus, tmp_path / "vectors.jsonl", encoder)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_file_is_left_as_it_is(cli, fails, lines, tmp_path, tiny_model, small_corpus):
    output = tmp_path / "vectors.jsonl"
    command = arguments(small_corpus, output, tiny_model)
    assert cli(*command).code == 0
    before = output.read_bytes()
    again = cli(*command)
    assert (again.code, again.out) == (0, f"{output}: 300 vectors\n")
    assert "nothing to do" in again.err
    assert "was made with kind 'document', now it is 'query'" in fails(*command, "--kind", "query")
    other = lines("other.jsonl", *small_corpus.read_text().splitlines()[:-1])
    assert "was made with texts" in fails(*arguments(other, output, tiny_model))
    assert output.read_bytes() == before


def test_empty_vectors_are_counted(tmp_path, lines, tiny_model, monkeypatch):
    from dataclasses import replace

    from csplade.core.vectors import SparseBatch
    from csplade.ingest.encode import encode_file
    from csplade.model import Encoder

    encoder = Encoder.from_pretrained(tiny_model)
    encode = encoder.encode

    def first_is_empty(texts, kind, *, progress):
        encoded = encode(texts, kind, progress=progress)
        rows = [([], []), *list(encoded.vectors)[1:]]
        return replace(encoded, vectors=SparseBatch.from_rows(rows))

    monkeypatch.setattr(encoder, "encode", first_is_empty)
    texts = [{"_id": "a", "text": "tea"}, {"_id": "b", "text": " "}, {"_id": "c", "text": "sea"}]
    report = encode_file(lines("texts.jsonl", *texts), tmp_path / "out.jsonl", encoder)
    assert (report.texts, report.empty) == (3, 1)


def test_a_checkpoint_without_manifest_takes_a_preset(
    cli, fails, lines, tmp_path, tiny_model_of, small_corpus
):
    directory = tiny_model_of()
    (directory / "csplade.json").unlink()
    output = tmp_path / "vectors.jsonl"
    command = arguments(small_corpus, output, directory)
    assert "give a manifest or a preset" in fails(*command)
    assert cli(*command, "--preset", "csplade").code == 0
    assert "has no adapter; leave out base" in fails(
        *command, "--preset", "csplade", "--base", directory
    )


def test_bad_input(fails, cli, lines, tmp_path, tiny_model):
    output = tmp_path / "vectors.jsonl"
    assert "no such file" in fails(*arguments(tmp_path / "no.jsonl", output, "nowhere"))
    assert ": no texts in it" in fails(*arguments(lines("empty.jsonl"), output, "nowhere"))
    bad = lines("bad.jsonl", {"_id": "a", "text": "tea"}, {"_id": "b"})
    assert f"{bad}:2: 'text' or 'contents' is needed" in fails(*arguments(bad, output, "nowhere"))
    assert "no such directory" in fails(
        *arguments(lines("one.jsonl", {"_id": "a", "text": "x"}), output, "nowhere")
    )
    skipped = cli(*arguments(bad, output, tiny_model), "--skip-bad")
    assert (skipped.code, "1 bad lines were skipped" in skipped.err) == (0, True)
    output.with_name("vectors.jsonl.job.json").unlink()
    assert "is there already" in fails(*arguments(bad, output, tiny_model), "--skip-bad")
    assert cli(*arguments(bad, tmp_path / "vectors.jsonl.gz", tiny_model)).code == 2
