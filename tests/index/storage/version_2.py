"""Turn an index into one of store version 2, as the program before wrote it."""

import json
import sqlite3

from csplade.index.storage.manifest import write_checked

SCHEMA = """
CREATE TABLE documents (
    ordinal INTEGER PRIMARY KEY, id TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL,
    metadata TEXT NOT NULL, clipped INTEGER NOT NULL, deleted INTEGER NOT NULL,
    id_checksum BLOB NOT NULL, checksum BLOB NOT NULL
);
CREATE UNIQUE INDEX live_id ON documents (id) WHERE deleted = 0;
CREATE INDEX tombstones ON documents (ordinal) WHERE deleted = 1;
CREATE TABLE vectors (
    ordinal INTEGER PRIMARY KEY, terms BLOB NOT NULL, impacts BLOB NOT NULL, checksum BLOB NOT NULL
);
CREATE TABLE sample (arrival INTEGER PRIMARY KEY, terms BLOB NOT NULL, weights BLOB NOT NULL);
CREATE TABLE arrivals (count INTEGER NOT NULL, max_impact INTEGER NOT NULL);
PRAGMA user_version = 2;
"""


def downgrade(path):
    """Write stores and shard manifests again as version 2 had them; for builds only."""
    for directory in sorted(path.glob("shard-*")):
        file = directory / "documents.sqlite"
        newer = file.rename(directory / "newer.sqlite")
        with sqlite3.connect(file) as store:
            store.executescript(SCHEMA)
            store.execute("ATTACH ? AS newer", (str(newer),))
            columns = "ordinal, id, title, text, metadata, clipped, deleted, id_checksum, checksum"
            store.execute(f"INSERT INTO documents SELECT {columns} FROM newer.documents")
            store.execute("INSERT INTO vectors SELECT * FROM newer.vectors")
            store.execute("INSERT INTO sample SELECT * FROM newer.sample")
            store.execute("INSERT INTO arrivals SELECT arrivals, max_impact FROM newer.state")
        store.execute("PRAGMA journal_mode=WAL")
        store.close()
        newer.unlink()
        shard = json.loads((directory / "shard.json").read_text())
        for name in ("checksum", "sealed", "deleted"):
            del shard[name]
        for segment in shard["segments"]:
            del segment["stop_ordinal"], segment["generation"]
        write_checked(directory / "shard.json", shard)
