"""Parquet files are read by the rules of JSON lines."""

import sys
from datetime import date

import pytest

from csplade.core.corpus import read_corpus
from csplade.core.document import Document
from csplade.core.errors import InputError, UnavailableError
from csplade.ingest.vectors import read_query_vectors, read_vectors, scan_vectors

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

NAMES = pa.map_(pa.string(), pa.float32())
PAIR = pa.struct([("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float64()))])


@pytest.fixture
def write(tmp_path):
    """Writes a file from columns."""

    def made(name="v.parquet", row_group_size=2, **columns):
        parquet.write_table(pa.table(columns), tmp_path / name, row_group_size=row_group_size)
        return tmp_path / name

    return made


def found(path, **options):
    return [
        (one.document.id, dict(zip(one.terms, one.weights.tolist(), strict=True)), one.has_ids)
        for one in read_vectors(path, **options)
    ]


def test_documents_with_every_column(write):
    path = write(
        _id=[1, 2],
        title=["a", None],
        text=pa.array(["x", "ü"]).dictionary_encode(),
        year=[1999, None],
        tags=[["p", None], []],
        place=[{"town": "Ulm", "at": [1.5]}, None],
        metadata=['{"deep": {"er": [1]}}', None],
    )
    tags = {"tags": ["p", None], "place": {"town": "Ulm", "at": [1.5]}}
    assert list(read_corpus(path)) == [
        Document("1", "x", "a", {"deep": {"er": [1]}, "year": 1999, **tags}),
        Document("2", "ü", "", {"tags": []}),
    ]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"vector": pa.array([[("tea", 0.5), ("pot", 0.0)]], NAMES)}, {"tea": 0.5}),
        ({"vector": pa.array([[]], NAMES)}, {}),
        ({"vector": pa.array([{"indices": [7], "values": [0.25]}], PAIR)}, {"7": 0.25}),
        ({"vector": [{"s": {"indices": [7], "values": [3]}}]}, {"7": 3.0}),
        ({"indices": [[7, 2]], "values": [[3.0, 0.5]]}, {"7": 3.0, "2": 0.5}),
    ],
)
def test_forms_of_a_vector(write, columns, expected):
    has_ids = bool(expected) and "tea" not in expected
    assert found(write(id=["a"], **columns)) == [("a", expected, has_ids)]


def test_a_vector_of_null_is_none(write):
    path = write(id=["a", "b"], vector=pa.array([[("tea", 1.0)], None], NAMES))
    with pytest.raises(InputError, match=r"v\.parquet:2: 'vector' is needed"):
        found(path)


def test_weights_are_exact(write):
    weights = [0.1, 3.4e38, 1.2e-38]
    path = write(id=["a"], vector=pa.array([list(zip("abc", weights, strict=True))], NAMES))
    assert [one.weights.tolist() for one in read_vectors(path)] == [
        pa.array(weights, pa.float32()).to_pylist()
    ]


def test_a_folder_of_parts(write, tmp_path):
    for part in range(3):
        ids = [f"{part}-{i}" for i in range(5)]
        write(f"part-{part}.parquet", id=ids, indices=[[part]] * 5, values=[[1]] * 5)
    file = scan_vectors(tmp_path)
    assert (file.lines, list(file.terms)) == (15, ["0", "1", "2"])


def test_rows_that_come_again(write):
    path = write(id=["a", "a"], indices=[[1], [1]], values=[[2], [2]])
    assert len(read_query_vectors(path)) == len(found(path)) == 1
    path = write(id=["a", "b", "a"], indices=[[1], [1], [2]], values=[[2], [2], [2]])
    with pytest.raises(InputError, match=r"v\.parquet:3: id 'a' is on line 1 already"):
        found(path)


def test_bad_rows_are_named_or_skipped(write):
    vectors = pa.array([[("a", 1.0)], [("a", 1.0), ("a", 2.0)], [("a", -1.0)]], NAMES)
    path = write(id=["a", "b", "c"], vector=vectors)
    with pytest.raises(InputError, match=r"v\.parquet:2: vector: key 'a' is there twice"):
        found(path)
    bad = []
    assert found(path, on_bad=bad.append) == [("a", {"a": 1.0}, False)]
    second, third = map(str, bad)
    assert second == f"{path}:2: vector: key 'a' is there twice"
    assert third.startswith(f"{path}:3: weight of term 'a' is -1.0")


@pytest.mark.parametrize("text", ["no JSON", "[1]", '{"a": 1, "a": 2}', '{"a": NaN}'])
def test_metadata_must_be_an_object(write, text):
    path = write(id=["a"], text=["x"], metadata=[text])
    with pytest.raises(InputError, match=r"v\.parquet:1: metadata: .* is not a JSON object"):
        list(read_corpus(path))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([date(2020, 1, 1)]), "date32"),
        (pa.array([b"x"]), "binary"),
        (pa.array([[date(2020, 1, 1)]]), "list<"),
        (pa.array([[(1, 2.0)]], pa.map_(pa.int32(), pa.float32())), "map<int32"),
        (pa.array([[[("a", 2.0)]]], pa.list_(NAMES)), "list<"),
    ],
)
def test_types_that_json_does_not_have(write, column, kind):
    path = write(id=["a"], when=column)
    with pytest.raises(InputError) as raised:
        found(path)
    assert str(raised.value).startswith(f"{path}: column 'when' is {kind}")
    assert "\n" not in str(raised.value)


def test_names_that_come_twice(tmp_path):
    path = tmp_path / "v.parquet"
    values = pa.array(["a"])
    parquet.write_table(pa.Table.from_arrays([values, values], ["id", "id"]), path)
    with pytest.raises(InputError, match=r"v\.parquet: has two columns of one name"):
        list(read_corpus(path))
    inner = pa.StructArray.from_arrays([values, values], ["x", "x"])
    parquet.write_table(pa.table({"id": values, "text": values, "inner": inner}), path)
    with pytest.raises(InputError, match=r"v\.parquet: "):
        list(read_corpus(path))


def test_broken_files_are_one_line(write, tmp_path):
    path = write(id=[f"{i}" for i in range(4000)], text=["x" * (i % 99) for i in range(4000)])
    whole = path.read_bytes()
    middle = len(whole) // 3
    for content in (b"", b"PAR1", b'{"id": "a"}\n', whole[:-1], whole[4:], whole[:middle]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"v\.parquet: is not Parquet, or is damaged") as one:
            list(read_corpus(path))
        assert "\n" not in str(one.value)
    path.write_bytes(whole[:middle] + b"\xff" * 500 + whole[middle + 500 :])
    with pytest.raises(InputError, match=r"v\.parquet: is not Parquet, or is damaged") as one:
        list(read_corpus(path))
    assert "\n" not in str(one.value)
    with pytest.raises(InputError, match="no such file"):
        list(read_corpus(tmp_path / "no.parquet"))


def test_an_altered_byte_is_found(write, tmp_path):
    table = pa.table({"id": ["a"], "text": ["the quick brown fox"]})
    path = tmp_path / "v.parquet"
    parquet.write_table(table, path, compression="none", write_page_checksum=True)
    path.write_bytes(path.read_bytes().replace(b"quick brown", b"quack brown"))
    with pytest.raises(InputError, match=r"v\.parquet: is not Parquet, or is damaged"):
        list(read_corpus(path))


def test_without_pyarrow(write, monkeypatch):
    path = write(id=["a"], text=["x"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnavailableError, match=r"needs pyarrow; pip install 'csplade\[parquet\]'"):
        list(read_corpus(path))
