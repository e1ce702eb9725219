import gzip
import json
import sys

import pytest
from backports import zstd

from csplade.core import lines
from csplade.core.errors import InputError, UnavailableError
from csplade.core.lines import files_of, is_tab_separated, read_jsonl, read_lines

TWO = b'{"a": 0}\n{"a": 1}\n'


def values(path, **options):
    return [value for _, value in read_jsonl(path, **options)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1', "broken JSON line"),
        (b"[1]", "must be a JSON object, is list; is it a JSON array"),
        (b"[", "is it a JSON array"),
        (b'"a"', "must be a JSON object, is str"),
        (b'{"a": "caf\xe9"}', r"byte 0xe9 at column 11 is not UTF-8; convert"),
        (b'{"a": "\x00"}', "has a NUL byte"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "key 'a' is there twice"),
        (b'{"a": {"b": NaN}}', "NaN is not JSON"),
        (b'{"a": [-Infinity]}', "-Infinity is not JSON"),
        (rb'{"a": "\ud83d half"}', r"'\\ud83d', half of a Unicode surrogate pair"),
        (rb'{"a": {"\uDE00": 1}}', r"half of a Unicode surrogate pair"),
        (b'{"a": ' + b"9" * 5000 + b"}", "broken JSON line"),
        (b'{"a": 1}\r{"a": 2}', "broken JSON line"),
    ],
)
def test_a_bad_line_is_named_and_may_be_skipped(tmp_path, line, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 0}\n\n' + line + b'\n{"a": 3}\n')
    with pytest.raises(InputError, match=f"x.jsonl:3: .*{message}"):
        values(path)
    bad = []
    assert values(path, on_bad=bad.append) == [{"a": 0}, {"a": 3}]
    assert len(bad) == 1


@pytest.mark.parametrize(
    "content",
    [
        TWO,
        TWO.rstrip(),
        TWO.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + TWO,
        TWO.replace(b"\n", b"\n\xef\xbb\xbf", 1),  # two files with marks, joined
        b"\n  \n" + TWO + b"\r\n",
        gzip.compress(TWO),
        gzip.compress(TWO[:9]) + gzip.compress(TWO[9:]),
        zstd.compress(TWO),
        zstd.compress(TWO[:9]) + zstd.compress(TWO[9:]),
    ],
)
def test_one_content_in_many_forms(tmp_path, content):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert values(path) == [{"a": 0}, {"a": 1}]


def test_separators_of_unicode_end_no_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "x\u2028y\x85z"}\n{"a": "\\ud83d\\ude00"}\n', encoding="utf-8")
    assert values(path) == [{"a": "x\u2028y\x85z"}, {"a": "\U0001f600"}]


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst"])
def test_an_incomplete_or_damaged_file_is_named(tmp_path, name):
    path = tmp_path / name
    whole = (gzip if name.endswith("gz") else zstd).compress(TWO * 5000)
    path.write_bytes(whole)
    assert len(values(path)) == 10_000
    damaged = whole[:-6] + b"\xff" * 6
    for broken in (whole[:-6], damaged):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=rf"{name}: is incomplete or damaged"):
            values(path)
    path.write_bytes(TWO)
    with pytest.raises(InputError, match=rf"{name}: the name ends in \.\w+, the content is not"):
        values(path)


def test_utf16_is_named_with_the_remedy(tmp_path):
    path = tmp_path / "x.jsonl"
    for name in ("utf-16-le", "utf-16-be"):
        path.write_bytes("\ufeff".encode(name) + TWO.decode().encode(name))
        with pytest.raises(InputError, match=r"x\.jsonl: is UTF-16, must be UTF-8; .*iconv"):
            values(path)


def test_zst_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "backports", None)
    path = tmp_path / "x.zst"
    path.write_bytes(zstd.compress(TWO))
    with pytest.raises(UnavailableError, match=r"needs backports\.zstd; pip install"):
        values(path)


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress, bytes])
def test_a_line_that_is_too_long_is_named_and_may_be_skipped(tmp_path, monkeypatch, compress):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "x.jsonl"
    long = json.dumps({"a": "x" * 5000}).encode()
    path.write_bytes(compress(TWO + long + b"\n" + TWO))
    with pytest.raises(InputError, match=r"x\.jsonl:3: the line has more than 1,000 bytes"):
        values(path)
    bad = []
    assert values(path, on_bad=bad.append) == [{"a": 0}, {"a": 1}] * 2
    assert len(bad) == 1


def test_a_small_file_with_a_huge_line_takes_little_memory(tmp_path):
    """510 KB of gzip that are one line of 500 MB."""
    import subprocess

    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(500):
            file.write(b"a" * 10**6)
    program = (
        "import sys; from csplade.core.lines import read_lines; "
        "from csplade.core.machine import peak_bytes, reset_peak_bytes\n"
        "before = peak_bytes()\n"
        "assert list(read_lines(sys.argv[1], on_bad=lambda error: None)) == []\n"
        "print(peak_bytes() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100 * 2**20


def test_a_folder_is_read_in_order_of_names(tmp_path):
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n'))
    (tmp_path / "a.json").write_bytes(b'{"a": 0}')
    (tmp_path / "_SUCCESS").write_bytes(b"")
    (tmp_path / ".crc").write_bytes(b"\xff\xfe")
    assert [line.place for line in read_lines(tmp_path)] == [
        f"{tmp_path / 'a.json'}:1",
        f"{tmp_path / 'b.jsonl.gz'}:1",
    ]
    assert values(tmp_path) == [{"a": 0}, {"a": 1}]
    (tmp_path / "more").mkdir()
    with pytest.raises(InputError, match="more: is not a file"):
        values(tmp_path)
    with pytest.raises(InputError, match="no files in this folder"):
        files_of(tmp_path / "more")
    with pytest.raises(InputError, match="nowhere: no such file"):
        values(tmp_path / "nowhere")


def test_tab_separated_files_are_told_by_their_names(tmp_path):
    names = ["q.tsv", "q.TSV.gz", "q.txt.zst", "q.jsonl", "q", "q.tsv.jsonl.gz"]
    assert [is_tab_separated(tmp_path / name) for name in names] == [True] * 3 + [False] * 3


def test_a_pipe_is_named_and_never_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is neither a file nor a folder"):
        values(tmp_path / "pipe")
