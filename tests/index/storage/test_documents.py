"""A store has one writer; readers see what it has committed."""

import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from csplade.core.document import Document
from csplade.core.errors import UnavailableError
from csplade.index.storage.documents import DocumentStore
from csplade.index.storage.schema import STORE_FILE
from csplade.index.storage.writable import NewRow, WritableStore


def ids(store):
    return store.headers(0, 10).ids


def insert(store, *ordinals):
    none = np.empty(0, np.int32), np.empty(0, np.uint16)
    with store.transaction():
        store.insert([NewRow(i, Document(f"d{i}", "x"), "{}", *none, 0) for i in ordinals])


def test_a_second_writer_is_refused_in_this_process_and_in_another(tmp_path):
    program = (
        "import sys; from pathlib import Path; "
        "from csplade.index.storage.writable import WritableStore; "
        "WritableStore.open(Path(sys.argv[1]))"
    )
    store = WritableStore.open(tmp_path)
    with pytest.raises(UnavailableError, match="open for writing elsewhere"):
        WritableStore.open(tmp_path)
    other = [sys.executable, "-c", program, str(tmp_path)]
    refused = subprocess.run(other, capture_output=True, text=True, check=False)
    assert "UnavailableError" in refused.stderr
    insert(store, 0)
    store.close()
    store.close()
    subprocess.run(other, check=True)
    again = WritableStore.open(tmp_path)
    assert ids(again) == ["d0"]
    again.close()


@pytest.mark.parametrize("writable", [True, False])
def test_readers_see_what_is_in_the_log(tmp_path, monkeypatch, writable):
    """A store with a log is not immutable, not even in a directory that readers cannot write."""
    writer = WritableStore.open(tmp_path)
    insert(writer, 0)
    assert (tmp_path / "documents.sqlite-wal").stat().st_size
    monkeypatch.setattr("os.access", lambda path, mode: writable)
    reader = DocumentStore.open(tmp_path)
    assert ids(reader) == ["d0"]
    insert(writer, 1)
    assert ids(reader) == ["d0", "d1"]
    reader.close()
    writer.close()


def test_readers_do_not_write(tmp_path):
    WritableStore.open(tmp_path).close()
    reader = DocumentStore.open(tmp_path)
    with pytest.raises(UnavailableError, match="readonly"):
        reader._read("DELETE FROM documents")
    reader.close()


def test_rows_are_read_however_many_the_state_tells_of(tmp_path):
    """Not by counting up to a number that the file says: it may be any."""
    store = WritableStore.open(tmp_path)
    insert(store, 0, 1)
    store.close()
    with closing(sqlite3.connect(tmp_path / STORE_FILE)) as connection, connection:
        connection.execute("UPDATE state SET ordinals = ?", (2**62,))
    reader = DocumentStore.open(tmp_path)
    assert reader.headers(0, reader.count()).ids == ["d0", "d1"]
    assert reader.problems() == []
    reader.close()
