"""A collection: an index and the encoder that it was built with, searched in this process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..core.errors import IncompatibleError
from ..core.filters import Filter
from ..core.results import Answer
from ..core.vectors import ImpactBatch, SparseBatch
from ..index import Index
from ..index.read.filter import CACHE_BYTES
from ..kernels.select.types import check_k
from .backend import CollectionInfo, EncoderInfo, Query
from .observer import NullObserver
from .plan import Plan, SearchTask

if TYPE_CHECKING:
    from torch import Tensor

    from ..model import Encoder

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


class Collection:
    """An open index and its encoder. Use as a context manager, or ``close`` it.

    Args:
        index: An open index.
        encoder: None to search with vectors only.

    Raises:
        IncompatibleError: the index was built by another encoder.
    """

    def __init__(self, index: Index, encoder: Encoder | None = None) -> None:
        self.index, self.encoder = index, encoder
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
        index = Index.open(
            path,
            threads=options.index_threads,
            shards=options.shards,
            device=options.index_device,
            filter_bytes=options.filter_bytes,
        )
        try:
            named = options.model or (index.manifest.encoder or {}).get("model")
            if not options.with_encoder or named is None:
                return cls(index)
            from ..model import Encoder  # torch and transformers, which vectors do not need

            encoder = Encoder.from_pretrained(
                named,
                device=options.device,
                quantization=options.quantization,
                query_encoder=options.query_encoder,
                threads=options.encoder_threads,
            )
            return cls(index, encoder)
        except BaseException:
            index.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    @cached_property
    def info(self) -> CollectionInfo:
        """What the collection is."""
        encoder, modifier = self.encoder, self.index.manifest.query_modifier
        statistics = self.index.statistics if modifier == "idf" else None
        if encoder is None:
            return CollectionInfo(self.index.manifest, statistics=statistics)
        return CollectionInfo(
            self.index.manifest,
            EncoderInfo(
                name=encoder.name,
                fingerprint=encoder.fingerprint,
                device=encoder.device,
                query_encoder=encoder.query_encoder,
                manifest=encoder.manifest.to_dict(golden=False),
                tokens=encoder.tokens(),
            ),
            statistics,
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

    @cached_property
    def device_factors(self) -> Tensor | None:
        """Factors of the query modifier on the index's device; None where there is none."""
        from torch import from_numpy

        if self.index.tensors is None or not self._modifies:
            return None
        assert self.info.statistics is not None
        return from_numpy(self.info.statistics.factors).to(self.index.tensors.device)

    @property
    def _modifies(self) -> bool:
        """Whether queries are weighed here: who fans out to parts of an index has done so."""
        whole = len(self.index.shards) == self.index.manifest.shard_count
        return whole and self.info.statistics is not None

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

    def quantize(self, vectors: SparseBatch) -> ImpactBatch:
        """Return queries as impacts, after the query modifier, each at a scale of its own."""
        if self._modifies:
            vectors = self.info.modify(vectors)
        return vectors.quantize_queries(self.index.manifest.max_impact)


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
