"""A collection: an index and the encoder that it was built with, searched in this process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..core.device import find_device, find_devices
from ..core.errors import IncompatibleError
from ..core.filters import Filter
from ..core.results import Answer
from ..core.vectors import ImpactBatch, SparseBatch
from ..index import Index, IndexWriter, Snapshot
from ..index.read.filter import CACHE_BYTES
from ..kernels.runtime.memory import WORKING_MEMORY, WorkingMemory
from ..kernels.select.types import check_k
from .backend import CollectionInfo, EncoderInfo, Query
from .observer import NullObserver
from .plan import Plan, SearchTask

if TYPE_CHECKING:
    from ..index.read.device import DeviceSearcher
    from ..index.read.placement import Placement
    from ..model import Encoder
    from .device_plan import DevicePlan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenOptions:
    """How to open a collection.

    Attributes:
        model: Directory or name of the model; None for the one that the index names, if any.
        with_encoder: False loads none: only vectors can be searched then.
        device: Where the encoder runs: "auto", "cpu", "cuda", "cuda:1" ...
        quantization: Of the encoder: "auto", "none", "int8", "nf4" or "fp4".
        query_encoder: "lexical", "model" or "both", where the model holds both; "auto" for its own.
        encoder_threads: CPU threads of the encoder; None for all cores.
        index_threads: CPU threads of the scorer; None for all cores.
        index_device: Where to score: "cpu", "cuda", "cuda:1" ..., "auto" for a GPU if present, or
            several GPUs: "cuda:0,cuda:1", "cuda:all".
        shards: Numbers of the shards to open; None for all.
        filter_bytes: Bytes of evaluated filters to keep at most.
        memory: What is left for requests on each GPU, beside index and weights.
        writable: Whether documents can be written; needs all shards, and no other process may have
            the index open for writing.
    """

    model: str | None = None
    with_encoder: bool = True
    device: str = "auto"
    quantization: str = "auto"
    query_encoder: str = "auto"
    encoder_threads: int | None = None
    index_threads: int | None = None
    index_device: str = "cpu"
    shards: Sequence[int] | None = None
    filter_bytes: int = CACHE_BYTES
    memory: WorkingMemory = WORKING_MEMORY
    writable: bool = False


class Collection:
    """An open index and its encoder. Use as a context manager, or ``close`` it.

    Args:
        index: An open index.
        encoder: None to search with vectors only.
        memory: What is left for requests on each GPU.
        writer: What writes to the index; None if nothing does.

    Raises:
        IncompatibleError: the index was built by another encoder.
    """

    def __init__(
        self,
        index: Index,
        encoder: Encoder | None = None,
        memory: WorkingMemory = WORKING_MEMORY,
        writer: IndexWriter | None = None,
    ) -> None:
        self.index, self.encoder, self.writer, self._memory = index, encoder, writer, memory
        self._info: CollectionInfo | None = None
        self._device_plan: tuple[DeviceSearcher, DevicePlan] | None = None
        if encoder is not None:
            _check_compatible(index, encoder)

    @classmethod
    def open(cls, path: Path | str, options: OpenOptions | None = None, **values: object) -> Self:
        """Open an index and load its encoder.

        Args:
            path: Directory of the index.
            options: How to open it; by default :class:`OpenOptions` with ``values``.
            values: Fields of :class:`OpenOptions`.

        Raises:
            InputError: no such model, shard or device.
            CorruptError: no index there, or one that is incomplete or altered.
            IncompatibleError: the index was built by another encoder.
            UnavailableError: the index does not fit into the device's memory.
        """
        options = options or OpenOptions(**values)  # type: ignore[arg-type]
        devices = find_devices(options.index_device)
        on_cpu = devices == ("cpu",)
        index, writer = _open(path, options, device="cpu" if on_cpu else None)
        try:
            # The encoder leaves room for the index, which is checked once its weights are there.
            placement = None if on_cpu else index.place(*devices)
            encoder = _load_encoder(index, options, placement)
            collection = cls(index, encoder, options.memory, writer)
            if placement is not None:
                index.load(placement, memory=options.memory)
            return collection
        except BaseException:
            (writer or index).close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the index."""
        (self.writer or self.index).close()

    @property
    def info(self) -> CollectionInfo:
        """What the collection is now."""
        now, last = self.index.snapshot, self._info
        if last is not None and last.index is now.manifest:
            return last
        statistics = now.statistics if now.manifest.query_modifier == "idf" else None
        if last is None:
            last = CollectionInfo(
                now.manifest, self._encoder_info(), statistics, writable=self.writer is not None
            )
        else:
            last = last.at(now.manifest, statistics)
        self._info = last
        return last

    def _encoder_info(self) -> EncoderInfo | None:
        encoder = self.encoder
        if encoder is None:
            return None
        return EncoderInfo(
            name=encoder.name,
            fingerprint=encoder.fingerprint,
            device=encoder.device,
            query_encoder=encoder.query_encoder,
            manifest=encoder.manifest.to_dict(golden=False),
            tokens=encoder.tokens(),
        )

    def require_encoder(self) -> Encoder:
        """Return the encoder.

        Raises:
            IncompatibleError: none is loaded.
        """
        if self.encoder is None:
            self.info.require_encoder()
        assert self.encoder is not None
        return self.encoder

    @property
    def on_one_device(self) -> bool:
        """Whether encoder and index share a torch device, so that a search need not leave it."""
        if self.encoder is None or self.index.tensors is None:
            return False
        name, device = self.encoder.device, self.index.tensors.device
        return name == str(device) or (name == device.type and device.index in (None, 0))

    def device_plan(self, now: Snapshot) -> DevicePlan:
        """Return the plan on the device that encoder and index share.

        Args:
            now: the state of the index that is searched.
        """
        # torch and transformers, which other searches need not load
        from torch import from_numpy

        from .device_plan import DevicePlan

        assert now.tensors is not None
        if self._device_plan is None or self._device_plan[0] is not now.tensors:
            factors = None
            if self._modifies(now):
                factors = from_numpy(now.statistics.factors).to(now.tensors.device)
            plan = DevicePlan(self.require_encoder(), now, factors)
            self._device_plan = now.tensors, plan
        return self._device_plan[1]

    def prepare(self, *, recorded: bool = True) -> None:
        """Do what the first requests would wait for: compile, record, search once.

        Args:
            recorded: Record query encoding and searches where they run on one GPU, so that a batch
                takes two launches; see :mod:`.device_plan`.
        """
        if self.encoder is not None:
            self.encoder.prepare()
        if recorded:
            self._record()
        for name in sorted(self._devices):
            self._memory.reserve(name)
        if self.encoder is not None:
            self.encoder.encode(["ready"], "query")
        if self.index.shards:
            self.search(SparseBatch.from_rows([([0], [1.0])]), 1, with_document=False)
        if self.index.shards and self.on_one_device:
            self.search(["ready"], 1, with_document=False)

    @property
    def _devices(self) -> set[str]:
        """Names of the GPUs in use."""
        used = [] if self.index.tensors is None else [*map(str, self.index.tensors.devices)]
        if self.encoder is not None:
            used.append(self.encoder.device)
        return set(used) - {"cpu"}

    def _record(self) -> None:
        tensors, encoder = self.index.tensors, self.encoder
        if not self._devices:
            return
        from torch import device

        from ..kernels.runtime.graph import recorder  # torch

        try:
            if tensors is not None and (found := recorder(tensors.device)) is not None:
                if self.on_one_device and tensors.recordable:
                    self.device_plan(self.index.snapshot).record(found)
                    return
                tensors.record(found)
            if encoder is not None and (found := recorder(device(encoder.device))) is not None:
                encoder.record(found)
        except RuntimeError as error:
            reason = str(error).split("\n")[0]
            log.warning("queries cannot be recorded and run kernel by kernel: %s", reason)

    def _modifies(self, now: Snapshot) -> bool:
        """Whether queries are weighed here: who fans out to parts of an index has done so."""
        whole = len(now.shards) == now.manifest.shard_count
        return whole and now.manifest.query_modifier == "idf"

    def search(
        self,
        queries: Sequence[str] | SparseBatch | ImpactBatch,
        k: int,
        *,
        filter: Filter | None = None,
        offset: int = 0,
        score_threshold: float | None = None,
        explain: bool = False,
        with_document: bool = True,
        with_vector: bool = False,
    ) -> list[Answer]:
        """Rank the documents of the collection for every query.

        Args:
            queries: Texts, weights, or impacts.
            k: Hits at most per query; with ``offset`` 1 to 10,000.
            filter: Which documents may be hits; None for all.
            offset: Hits to pass over: the first ones.
            score_threshold: Smallest score of a hit.
            explain: Add contributions to the hits.
            with_document: Add documents to the hits.
            with_vector: Add the stored vectors to the hits.

        Raises:
            InputError: ``k``, the filter or a query out of the index's bounds.
            IncompatibleError: texts, but no encoder.
        """
        check_k(offset + k)
        if not len(queries):
            return []
        plan = Plan(self, NullObserver())
        options: dict[str, Any] = {
            "k": k,
            "filter": filter.resolve(self.index.manifest.fields) if filter else None,
            "offset": offset,
            "score_threshold": score_threshold,
            "explain": explain,
            "with_document": with_document,
            "with_vector": with_vector,
        }
        if isinstance(queries, SparseBatch):
            tasks = [SearchTask(Query(vector=row, **options)) for row in queries]
            plan.run(tasks)
        elif isinstance(queries, ImpactBatch):
            tasks = [SearchTask(Query(**options)) for _ in range(len(queries))]
            plan.rank_impacts(tasks, queries)
        else:
            tasks = [SearchTask(Query(text=text, **options)) for text in queries]
            plan.tokenize(tasks)
            plan.run(tasks)
        return [plan.answer(task) for task in tasks]

    def quantize(self, vectors: SparseBatch, now: Snapshot) -> ImpactBatch:
        """Return queries as impacts, after the query modifier, each at a scale of its own.

        Args:
            vectors: the queries.
            now: the state of the index that they are for.
        """
        if self._modifies(now):
            vectors = now.statistics.weigh(vectors)
        return vectors.quantize_queries(now.manifest.max_impact)


def _load_encoder(
    index: Index, options: OpenOptions, placement: Placement | None
) -> Encoder | None:
    named = options.model or (index.manifest.encoder or {}).get("model")
    if not options.with_encoder or named is None:
        return None
    from ..model import Encoder  # torch and transformers, which vectors do not need

    reserved = 0
    if placement is not None and (name := find_device(options.device)) != "cpu":
        reserved = placement.bytes_on(name)
    return Encoder.from_pretrained(
        named,
        device=options.device,
        quantization=options.quantization,
        query_encoder=options.query_encoder,
        threads=options.encoder_threads,
        memory=options.memory,
        reserved_bytes=reserved,
    )


def _open(
    path: Path | str, options: OpenOptions, device: str | None
) -> tuple[Index, IndexWriter | None]:
    """Open an index, with what writes to it if it is to be writable."""
    threads, filter_bytes = options.index_threads, options.filter_bytes
    if options.writable:
        writer = IndexWriter.open(path, threads=threads, device=device, filter_bytes=filter_bytes)
        return writer.index, writer
    index = Index.open(
        path, threads=threads, shards=options.shards, device=device, filter_bytes=filter_bytes
    )
    return index, None


def _check_compatible(index: Index, encoder: Encoder) -> None:
    manifest = index.manifest
    if manifest.fingerprint is None:
        if manifest.vocabulary is not None or manifest.vocabulary_size != encoder.vocabulary_size:
            raise IncompatibleError(
                f"model: {encoder.name} has {encoder.vocabulary_size} terms, the index holds ready "
                f"vectors over {manifest.vocabulary_size} terms of its own; open it without a model"
            )
        log.warning("the index holds ready vectors: nothing shows that %s made them", encoder.name)
    elif manifest.fingerprint != encoder.fingerprint:
        raise IncompatibleError(
            f"model: {encoder.name} has fingerprint {encoder.fingerprint[:16]}, the index was "
            f"built by an encoder with {manifest.fingerprint[:16]}; load that encoder, or build "
            "the index again"
        )
