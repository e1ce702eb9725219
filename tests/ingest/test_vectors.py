import json

import numpy as np
import pytest

from csplade.core.errors import InputError
from csplade.ingest.vectors import (
    ids_below,
    positions,
    read_query_vectors,
    read_vectors,
    scan_vectors,
    to_batch,
)


@pytest.fixture
def vectors(tmp_path):
    """Writes a file with these vectors, ids a, b, c ..."""

    def write(*rows: dict) -> str:
        path = tmp_path / "vectors.jsonl"
        path.write_text(
            "".join(
                json.dumps({"id": chr(97 + i), "vector": row}) + "\n" for i, row in enumerate(rows)
            )
        )
        return path

    return write


def test_lines_keep_float32_weights(vectors):
    (line,) = read_vectors(vectors({"tea": 0.1, "2019": 3}))
    assert (line.line.number, line.document.id, line.document.text, line.terms) == (
        1,
        "a",
        "",
        ["tea", "2019"],
    )
    assert line.weights.dtype == np.float32
    assert line.weights.tolist() == [np.float32(0.1), 3.0]


@pytest.mark.parametrize(
    ("rows", "asked", "keys", "terms"),
    [
        ([{"10": 1, "9": 2}, {"0": 1}], None, "ids", ["0", "9", "10"]),
        ([{"10": 1, "9": 2}, {"x": 1}], None, "tokens", ["10", "9", "x"]),
        ([{"10": 1, "9": 2}], "tokens", "tokens", ["10", "9"]),
        ([{"007": 1}], None, "tokens", ["007"]),  # as an id it would fall together with 7
        ([{"\u0661": 1}], None, "tokens", ["\u0661"]),  # a decimal digit, but not of ASCII
    ],
)
def test_what_keys_are_is_told_by_the_whole_file(vectors, rows, asked, keys, terms):
    file = scan_vectors(vectors(*rows), keys=asked)
    assert (file.keys, list(file.terms), file.lines) == (keys, terms, len(rows))


def test_ids_asked_for_must_be_ids(vectors):
    with pytest.raises(InputError, match=r"vectors\.jsonl:2: term 'x' must be an integer id"):
        scan_vectors(vectors({"1": 1}, {"x": 1}), keys="ids")


def test_the_sample_is_spread_over_the_whole_file(vectors, monkeypatch):
    monkeypatch.setattr("csplade.ingest.vectors.SAMPLE_LINES", 8)
    file = scan_vectors(vectors(*({"1": i + 1} for i in range(20))))
    assert [one.weights.tolist() for one in file.sample] == [[1], [5], [9], [13], [17]]
    assert (file.largest, file.whole) == (20.0, True)


def test_unknown_terms_are_dropped_and_counted(vectors):
    lines = list(read_vectors(vectors({"b": 2, "zz": 1, "a": 1}, {"zz": 1}, {})))
    batch, dropped = to_batch(lines, positions(["a", "b", "c"]))
    assert batch.indptr.tolist() == [0, 2, 2, 2]
    assert batch.terms.tolist() == [0, 1]
    assert batch.weights.tolist() == [1.0, 2.0]
    assert dropped.tolist() == [1, 1, 0]


def test_ids_below_a_size():
    lookup = ids_below(10)
    assert [lookup(key) for key in ("0", "9", "10", "-1", "07", "x", "")] == [
        0,
        9,
        None,
        None,
        None,
        None,
        None,
    ]


def _write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "terms", "weights", "has_ids"),
    [
        ({"vector": {"cat": 0.5, "dog": 0.0, "cow": 0}}, ["cat"], [0.5], False),
        ({"vector": {"0": 0}}, [], [], False),
        ({"vector": {}}, [], [], False),
        ({"vector": {"indices": [5, 3], "values": [0.25, 2]}}, ["5", "3"], [0.25, 2.0], True),
        ({"vector": {"values": [1], "indices": [0]}}, ["0"], [1.0], True),
        ({"vector": {"text": {"indices": [3], "values": [0.5]}}}, ["3"], [0.5], True),
        ({"indices": [3, 4], "values": [0.5, 0]}, ["3"], [0.5], True),
        ({"vector": {"indices": 0.5, "values": 0.25}}, ["indices", "values"], [0.5, 0.25], False),
    ],
)
def test_forms_of_a_vector(tmp_path, row, terms, weights, has_ids):
    (line,) = read_vectors(_write(tmp_path / "v.jsonl", {"id": "a", **row}))
    assert (line.terms, line.weights.tolist(), line.has_ids) == (terms, weights, has_ids)
    assert line.document.metadata == {}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "'vector' is needed"),
        ({"vector": [["cat", 0.5]]}, "'vector' is needed, an object"),
        ({"vector": None, "values": [1]}, "'vector' is needed"),
        ({"vector": {"indices": [3], "values": [0.5, 1]}}, "has 1 indices but 2 values"),
        ({"vector": {"indices": [3], "values": 0.5}}, "has 1 indices but 0 values"),
        ({"vector": {"indices": [3, 3], "values": [1, 1]}}, "index 3 is there twice"),
        ({"vector": {"indices": ["3"], "values": [1]}}, "index '3' must be an integer from 0"),
        ({"vector": {"indices": [-1], "values": [1]}}, "index -1 must be an integer from 0"),
        ({"vector": {"indices": [2**31], "values": [1]}}, "index 2147483648 must be"),
        ({"vector": {"indices": [True], "values": [1]}}, "index True must be"),
        ({"vector": {"indices": [1], "values": [-1]}}, "weight of term '1' is -1, must be 0 or"),
        ({"vector": {"a": {"indices": [1], "values": [1]}, "b": {}}}, "weight of term 'a' is {"),
        ({"vector": {"cat": 1e-45}}, "weight of term 'cat' is 1e-45, must be 0 or more and fin"),
    ],
)
def test_bad_vectors_name_the_line(tmp_path, row, message):
    path = _write(tmp_path / "v.jsonl", {"id": "a", **row})
    with pytest.raises(InputError) as raised:
        list(read_vectors(path))
    assert str(raised.value).startswith(f"{path}:1: {message}")


def test_forms_with_ids_and_with_names_do_not_mix(tmp_path):
    pair = {"id": "a", "vector": {"indices": [3], "values": [1]}}
    names = {"id": "b", "vector": {"cat": 1}}
    ids = {"id": "c", "vector": {"4": 1}}
    assert scan_vectors(_write(tmp_path / "p", pair), default="tokens").keys == "ids"
    assert scan_vectors(_write(tmp_path / "i", pair, ids)).keys == "ids"
    with pytest.raises(InputError, match=r"m:1: has indices, .* token strings at .*m:2; use"):
        scan_vectors(_write(tmp_path / "m", pair, names))
    with pytest.raises(InputError, match=r"m:1: has indices, .* token strings at .*m:2; use"):
        scan_vectors(_write(tmp_path / "m", pair, ids), default="tokens")
    with pytest.raises(InputError, match=r"m:1: has indices, .* token strings; use --terms ids"):
        scan_vectors(_write(tmp_path / "m", pair), keys="tokens")


def test_topics_are_bags_of_tokens(tmp_path):
    path = tmp_path / "topics.tsv"
    path.write_text("3\t[101] cat cat dog\n4\t\n")
    three, four = read_query_vectors(path)
    assert (three.document.id, three.terms, three.weights.tolist()) == (
        "3", ["[101]", "cat", "dog"], [1.0, 2.0, 1.0],
    )  # fmt: skip
    assert four.terms == []
    path.write_text("3\tcat\n3\tcat\n")
    assert len(read_query_vectors(path)) == 1
    for text, message in (
        ("3 cat\n", ":1: needs query id, tab and tokens"),
        ('3\t{"cat": 1}\n', ":1: needs query id, tab and tokens"),
        ("3\tcat\n3\tdog\n", ":2: query '3' is there already"),
        ("3\t" + " ".join(f"t{i}" for i in range(2049)), ":1: query '3' has 2049 terms"),
        ("", ": no queries in it"),
    ):
        path.write_text(text)
        with pytest.raises(InputError) as raised:
            read_query_vectors(path)
        assert str(raised.value).startswith(f"{path}{message}")
