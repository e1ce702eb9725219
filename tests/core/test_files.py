import gzip

import pytest

from csplade.core.errors import InputError
from csplade.core.files import begun_with, read_jsonl, write_aside


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1', "broken JSON line"),
        (b"[1]", "found list"),
        (b'{"a": "\xff"}', "broken JSON line"),
        (b"[" * 100_000, "broken JSON line"),
        (b'{"a": 1, "a": 2}', "key 'a' is there twice"),
    ],
)
def test_a_bad_line_is_named_and_may_be_skipped(tmp_path, line, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 0}\n\n' + line + b'\n{"a": 3}\n')
    with pytest.raises(InputError, match=f"x.jsonl:3: .*{message}"):
        list(read_jsonl(path))
    bad = []
    assert list(read_jsonl(path, on_bad=bad.append)) == [(1, {"a": 0}), (4, {"a": 3})]
    assert len(bad) == 1


def test_gzip_is_read_and_a_torn_one_is_named(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    whole = gzip.compress(b'{"a": 0}\n' * 5000)
    path.write_bytes(whole)
    assert len(list(read_jsonl(path))) == 5000
    for broken in (whole[:-12], b"no gzip at all"):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"x\.jsonl\.gz: torn, or no gzip file"):
            list(read_jsonl(path))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")

    def interrupted():
        with write_aside(path) as file:
            file.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "old"
    with write_aside(path) as file:
        file.write("new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "new"


def test_a_job_is_resumed_with_what_it_was_begun_with(tmp_path):
    path = tmp_path / "settings.json"
    begun_with(path, {"depth": 5, "names": ("a", "b")})
    begun_with(path, {"depth": 5, "names": ("a", "b")})
    with pytest.raises(
        InputError, match="begun with depth 5, now 6; take the same again, or delete"
    ):
        begun_with(path, {"depth": 6, "names": ("a", "b")})
