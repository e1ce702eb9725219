"""A store has one writer; readers see what it has committed."""

import subprocess
import sys

import numpy as np
import pytest

from csplade.core.document import Document
from csplade.core.errors import UnavailableError
from csplade.index.storage.documents import DocumentStore, StoredDocument


def insert(store, *ordinals):
    none = np.empty(0, np.int32), np.empty(0, np.uint16)
    with store.transaction():
        store.insert([StoredDocument(i, Document(f"d{i}", "x"), "{}", *none, 0) for i in ordinals])


def test_a_second_writer_is_refused_in_this_process_and_in_another(tmp_path):
    program = (
        "import sys; from pathlib import Path; "
        "from csplade.index.storage.documents import DocumentStore; "
        "DocumentStore.create(Path(sys.argv[1]))"
    )
    store = DocumentStore.create(tmp_path)
    with pytest.raises(UnavailableError, match="open for writing elsewhere"):
        DocumentStore.create(tmp_path)
    other = [sys.executable, "-c", program, str(tmp_path)]
    refused = subprocess.run(other, capture_output=True, text=True, check=False)
    assert "UnavailableError" in refused.stderr
    insert(store, 0)
    store.close()
    store.close()
    subprocess.run(other, check=True)
    again = DocumentStore.create(tmp_path)
    assert list(again.ids()) == ["d0"]
    again.close()


@pytest.mark.parametrize("writable", [True, False])
def test_readers_see_what_is_in_the_log(tmp_path, monkeypatch, writable):
    """A store with a log is not immutable, not even in a directory that readers cannot write."""
    writer = DocumentStore.create(tmp_path)
    insert(writer, 0)
    assert (tmp_path / "documents.sqlite-wal").stat().st_size
    monkeypatch.setattr("os.access", lambda path, mode: writable)
    reader = DocumentStore.open(tmp_path)
    assert list(reader.ids()) == ["d0"]
    insert(writer, 1)
    assert list(reader.ids()) == ["d0", "d1"]
    reader.close()
    writer.close()


def test_readers_do_not_write(tmp_path):
    DocumentStore.create(tmp_path).close()
    reader = DocumentStore.open(tmp_path)
    with pytest.raises(UnavailableError, match="readonly"):
        insert(reader, 0)
    reader.close()
