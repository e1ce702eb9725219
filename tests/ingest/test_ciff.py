import gzip
import struct

import pytest

from csplade.core.errors import InputError
from csplade.index import Index
from csplade.ingest.build import build_from_vectors
from csplade.ingest.ciff import read_ciff
from csplade.ingest.export import export_index


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def integer(number: int, value: int) -> bytes:
    """A field of the wire format; proto3 leaves zeros out."""
    return varint(number << 3) + varint(value) if value else b""


def data(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(*parts: bytes) -> bytes:
    whole = b"".join(parts)
    return varint(len(whole)) + whole


def header(lists: int, documents: int, version: int = 1) -> bytes:
    return message(
        integer(1, version), integer(2, lists), integer(3, documents), integer(4, lists),
        integer(5, documents), integer(6, 300), varint(7 << 3 | 1) + struct.pack("<d", 1.5),
        data(8, b"made by hand"),
    )  # fmt: skip


def postings(term: str, *pairs: tuple[int, int], df: int | None = None) -> bytes:
    """A postings list from (gap, frequency) pairs."""
    return message(
        data(1, term.encode()),
        integer(2, len(pairs) if df is None else df),
        integer(3, sum(tf for _, tf in pairs)),
        *(data(4, integer(1, gap) + integer(2, tf)) for gap, tf in pairs),
    )


def record(number: int, identity: str) -> bytes:
    return message(integer(1, number), data(2, identity.encode()), integer(3, 7))


# Three documents, the middle one without terms; 300 needs two bytes of a varint.
WHOLE = (
    header(2, 3)
    + postings("café", (0, 300), (2, 5))
    + postings("tea", (2, 1))
    + record(0, "a")
    + record(1, "b")
    + record(2, "c")
)


def found(path) -> list:
    return [
        (one.document.id, dict(zip(one.terms, one.weights.tolist(), strict=True)))
        for one in read_ciff(path)
    ]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_bytes_made_by_hand(tmp_path, pack):
    path = tmp_path / "x.ciff"
    path.write_bytes(pack(WHOLE))
    assert found(path) == [("a", {"café": 300.0}), ("b", {}), ("c", {"café": 5.0, "tea": 1.0})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is incomplete, or not CIFF: a Header is missing"),
        (b'{"id": "a"}\n', "is incomplete, or not CIFF"),
        (b"\xff" * 9, "is incomplete, or not CIFF: a Header is missing"),
        (varint(2**34) + b"x", "longer than the file or than 2 GiB"),
        (WHOLE[:-1], "longer than the file"),
        (WHOLE.removesuffix(record(2, "c")), "a DocRecord is missing"),
        (WHOLE + b"\0", "goes on after the 3 documents of its header"),
        (header(0, 0, version=2), "CIFF version 2, readable is 1"),
        (header(1, 1) + postings("t", (0, 1), df=2) + record(0, "a"), "its document frequency is"),
        (header(1, 1) + postings("t", (1, 1)) + record(0, "a"), "do not ascend below 1"),
        (header(1, 2) + postings("t", (1, 1), (0, 1)) + record(0, "a"), "do not ascend below 2"),
        (header(1, 1) + postings("t", (0, 0)) + record(0, "a"), "that is not above 0"),
        (header(-1 & 2**64 - 1, 0), "its header has a count below 0"),
        (header(0, -1 & 2**64 - 1), "its header has a count below 0"),
        (header(0, 2**31 - 1) + record(0, "a"), "a DocRecord is missing"),
        (header(2, 1) + postings("t", (0, 1)) * 2 + record(0, "a"), "two postings lists of one"),
        (header(0, 2) + record(0, "a") * 2, "document number 0 is out of range or repeated"),
        (header(0, 1) + record(1, "a"), "document number 1 is out of range or repeated"),
        (header(0, 2) + record(0, "a") + record(1, "a"), "two documents of one id"),
        (header(0, 1) + record(0, "a b"), "document id: 'a b' has white space"),
    ],
)
def test_broken_files_are_rejected(tmp_path, content, message):
    path = tmp_path / "x.ciff"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        found(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)


def test_the_bytes_that_are_written(tmp_path):
    """The very bytes, as the specification has them."""
    path = tmp_path / "v.jsonl"
    path.write_text(
        '{"id": "a", "vector": {"tea": 200}}\n{"id": "b", "vector": {}}\n'
        '{"id": "c", "vector": {"tea": 2, "bag": 7}}\n'
    )
    build_from_vectors(path, tmp_path / "index", document_scale=1.0)
    with Index.open(tmp_path / "index") as index:
        export_index(index, tmp_path / "x.ciff", "ciff", index.manifest.vocabulary.__getitem__)
    written = (tmp_path / "x.ciff").read_bytes()
    ending = (
        postings("bag", (2, 7))
        + postings("tea", (0, 200), (2, 2))
        + message(data(2, b"a"), integer(3, 200))
        + message(integer(1, 1), data(2, b"b"))
        + message(integer(1, 2), data(2, b"c"), integer(3, 9))
    )
    assert written.endswith(ending)
    assert written.startswith(varint(len(written) - len(ending) - 1))
    assert (
        integer(2, 2) + integer(3, 3) + integer(4, 2) + integer(5, 3) + integer(6, 209) in written
    )
    assert struct.pack("<d", 209 / 3) in written


def test_documents_in_any_order(tmp_path):
    path = tmp_path / "x.ciff"
    path.write_bytes(header(1, 2) + postings("t", (1, 3)) + record(1, "b") + record(0, "a"))
    assert found(path) == [("a", {}), ("b", {"t": 3.0})]


def test_a_document_too_long_for_the_format(tmp_path, monkeypatch):
    monkeypatch.setattr("csplade.ingest.ciff.MAX_LENGTH", 9)
    path = tmp_path / "v.jsonl"
    path.write_text('{"id": "a", "vector": {"x": 9}}\n{"id": "b", "vector": {"x": 9, "y": 1}}\n')
    build_from_vectors(path, tmp_path / "index", document_scale=1.0)
    with (
        Index.open(tmp_path / "index") as index,
        pytest.raises(InputError, match="document 'b': its impacts sum to 10; CIFF holds up to 9"),
    ):
        export_index(index, tmp_path / "x.ciff", "ciff")
    assert not list(tmp_path.glob("x.ciff*"))
