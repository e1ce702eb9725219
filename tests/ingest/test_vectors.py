import json

import numpy as np
import pytest

from csplade.core.errors import InputError
from csplade.ingest.vectors import (
    VectorFile,
    ids_below,
    positions,
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


@pytest.mark.parametrize(
    ("largest", "whole", "scales"),
    [
        (5.1, False, (0.02, 0.00125)),
        (3.0, True, (0.02, 0.00125)),
        (255.0, True, (1.0, 1.0)),
        (255.0, False, (1.0, 0.0625)),
        (510.0, True, (2.0, 0.125)),
    ],
)
def test_scales_hold_the_largest_weight(largest, whole, scales):
    assert VectorFile(1, "ids", {"0": "f:1"}, largest, whole).scales == pytest.approx(scales)


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
