"""Collections of a few uploaded documents, searched for a while and then removed."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...core.corpus import read_corpus
from ...core.errors import IncompatibleError, InputError, NotFoundError, OverloadedError
from ...engine.collection import Collection
from ...engine.local import LocalBackend
from ...index import Index
from ...ingest.build import build_from_corpus
from ...model import Encoder
from .. import compose
from ..retrieval import Retrieval
from ..settings import Settings
from ..telemetry.metrics import Metrics

COLLECTIONS = 4
DOCUMENTS = 200
BYTES = 2**20
LIFE_SECONDS = 1800.0
RETRY_SECONDS = 5.0  # while another upload is being indexed


@dataclass(frozen=True)
class _Held:
    retrieval: Retrieval
    backend: LocalBackend
    folder: Path
    end: float  # of time.monotonic


class TemporaryCollections:
    """Index uploads with the encoder of the served collection.

    At most 4 at a time, of at most 200 documents and 1 MiB; each lives half an hour.

    Args:
        settings: All settings.
        metrics: Where their searches are counted.
        served: What is served; its encoder is used.
        clock: Returns seconds that only grow.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        served: Retrieval,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._metrics, self._served = settings, metrics, served
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._building = asyncio.Lock()

    async def create(self, lines: bytes) -> tuple[str, int]:
        """Index documents, lines of a corpus; return the collection's name and their number.

        Raises:
            InputError: a line is not a document, or there are too many, or none.
            IncompatibleError: no encoder is in this process.
            OverloadedError: the places are taken, or another upload is being indexed.
        """
        encoder = self._encoder()
        await self.remove_old()
        if self._building.locked():
            raise OverloadedError("collections: another upload is being indexed", RETRY_SECONDS)
        if len(self._held) >= COLLECTIONS:
            wait = min(one.end for one in self._held.values()) - self._clock()
            raise OverloadedError(
                f"collections: {COLLECTIONS} are held, at most {COLLECTIONS} are allowed; retry "
                f"after {wait:.0f} s",
                wait,
            )
        async with self._building:
            name = f"upload-{secrets.token_hex(4)}"
            folder = Path(tempfile.mkdtemp(prefix="csplade-"))
            try:
                collection = await asyncio.to_thread(self._build, folder, lines, encoder)
            except BaseException:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
                raise
            backend = compose.backend(collection, self._settings, self._metrics)
            retrieval = self._served.of(backend)
            end = self._clock() + LIFE_SECONDS
            self._held[name] = _Held(retrieval, backend, folder, end)
            asyncio.get_running_loop().call_later(LIFE_SECONDS, self._sweep)
            return name, collection.index.manifest.documents

    def find(self, name: str) -> Retrieval:
        """Return what answers for a collection.

        Raises:
            NotFoundError: it is not held, or no longer.
        """
        held = self._held.get(name)
        if held is None or held.end <= self._clock():
            raise NotFoundError(f"collection: {name[:60]!r} is not held; upload it again")
        return held.retrieval

    async def remove_old(self, *, everything: bool = False) -> None:
        """Close and delete the collections whose time is over, or all."""
        now = self._clock()
        old = [name for name, one in self._held.items() if everything or one.end <= now]
        for name in old:
            held = self._held.pop(name)
            await asyncio.to_thread(held.backend.close)
            await asyncio.to_thread(shutil.rmtree, held.folder, ignore_errors=True)

    def _sweep(self) -> None:
        self._sweeping = asyncio.ensure_future(self.remove_old())

    def _encoder(self) -> Encoder:
        backend = self._served.backend
        if not isinstance(backend, LocalBackend):
            raise IncompatibleError("collections: uploads need the encoder in this process")
        return backend.collection.require_encoder()

    def _build(self, folder: Path, lines: bytes, encoder: Encoder) -> Collection:
        corpus, index = folder / "upload.jsonl", folder / "index"
        corpus.write_bytes(lines)
        try:
            count = sum(1 for _ in read_corpus(corpus))
            if not 1 <= count <= DOCUMENTS:
                raise InputError(f"upload: {count} documents; 1 to {DOCUMENTS} allowed")
            build_from_corpus(corpus, index, encoder)
        except InputError as error:
            raise InputError(str(error).replace(str(corpus), "upload")) from None
        threads = self._settings.scoring.threads
        return Collection(Index.open(index, threads=threads), encoder)
