"""The stores of an index as one log: commits that reach all shards or none, and recovery.

A commit has a generation. The shards that it touches commit one after the other, shard 0 last: what
shard 0 says is what has happened. Recovery undoes what the others have beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ...core.errors import CorruptError
from ..storage.documents import LiveRow
from ..storage.manifest import IndexManifest
from ..storage.writable import NewRow, WritableStore


@dataclass
class Changes:
    """What one commit does.

    Attributes:
        generation: of the commit.
        arrivals: documents that the index was given, these included.
        max_impact: largest impact of the index, these included.
        added: new rows of each shard, in ascending ordinals.
        removed: ordinals of each shard whose rows are deleted.
    """

    generation: int
    arrivals: int
    max_impact: int
    added: dict[int, list[NewRow]] = field(default_factory=dict)
    removed: dict[int, list[int]] = field(default_factory=dict)


class CommitLog:
    """All stores of an index, open for writing. One thread commits.

    Attributes:
        stores: by shard.
        generation: of the last commit.
        arrivals: documents that the index was ever given.
        max_impact: largest impact that it was given.
    """

    def __init__(self, manifest: IndexManifest, stores: Sequence[WritableStore]) -> None:
        self.stores = stores
        self._shard_count = manifest.shard_count
        self.generation, self.arrivals, self.max_impact = 1, 0, manifest.max_impact
        self.recover()

    @classmethod
    def open(cls, path: Path, manifest: IndexManifest) -> CommitLog:
        """Lock, migrate and recover the stores of an index.

        Raises:
            UnavailableError: another writer has them open, or the disk fails.
            CorruptError: a store that lacks documents.
        """
        stores: list[WritableStore] = []
        try:
            for shard in range(manifest.shard_count):
                stores.append(WritableStore.open(manifest.shard_directory(path, shard)))
                stores[-1].retry = "send the write again"
            return cls(manifest, stores)
        except BaseException:
            for store in stores:
                store.close()
            raise

    def close(self) -> None:
        """Close the stores."""
        for store in self.stores:
            store.close()

    def recover(self) -> None:
        """Undo what shards have committed beyond shard 0, in this process's life or before it.

        Shard 0 is written first: a commit of it that failed late may lie in its log, and is gone
        for good once another one has taken its place.

        Raises:
            CorruptError: a store that lacks documents.
            UnavailableError: the disk fails.
        """
        first = self.stores[0]
        state = first.state()
        with first.transaction():
            first.set_state(state.generation, state.arrivals, state.max_impact)
        for shard, store in enumerate(self.stores):
            own, ordinals = store.state(), self.ordinals(shard, state.arrivals)
            if own.ordinals < ordinals:
                raise CorruptError(
                    f"{store.path}: {own.ordinals} documents, must be {ordinals}; restore the "
                    "file or build the index again"
                )
            if own.generation > state.generation or own.ordinals > ordinals:
                store.undo(state.generation, ordinals)
        self.generation, self.arrivals = state.generation, state.arrivals
        self.max_impact = max(self.max_impact, state.max_impact)

    def ordinals(self, shard: int, arrivals: int) -> int:
        """Return how many ordinals a shard has given out after so many arrivals."""
        return (arrivals - shard + self._shard_count - 1) // self._shard_count

    def live_rows(self, ids: Sequence[str]) -> dict[str, tuple[int, LiveRow]]:
        """Return shard and row of each id that a live document has."""
        return {
            id: (shard, row)
            for shard, store in enumerate(self.stores)
            for id, row in store.live_rows(ids).items()
        }

    def commit(self, changes: Changes) -> None:
        """Make changes durable: when this returns they are, and after a failure none is.

        Raises:
            UnavailableError: the disk is full or fails; call :meth:`recover` before the next one.
        """
        touched = sorted({0, *changes.added, *changes.removed})
        with ExitStack() as transactions:  # left in reverse: shard 0 commits last
            for shard in touched:
                store = self.stores[shard]
                transactions.enter_context(store.transaction())
                store.delete(changes.removed.get(shard, ()), changes.generation)
                store.insert(changes.added.get(shard, ()))
                store.set_state(changes.generation, changes.arrivals, changes.max_impact)
        self.generation, self.arrivals = changes.generation, changes.arrivals
        self.max_impact = changes.max_impact

    def purge(self, garbage: Mapping[int, Sequence[int]]) -> None:
        """Remove rows of deleted documents for good, by shard."""
        for shard, ordinals in garbage.items():
            self.stores[shard].purge(ordinals)
