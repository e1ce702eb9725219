"""One state of an index: everything that a search reads, immutable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...core.document import Document
from ...core.errors import InputError
from ...core.filters import Filter
from ...core.results import StoredDocument
from ...core.vectors import MAX_SCORE, ImpactBatch, offsets
from ...kernels.score.types import Block, check_queries
from ...kernels.select.types import check_k
from ..storage.manifest import IndexManifest
from .cpu import CpuSearcher, ScoringThreads
from .filter import FilterCache, FilterMask
from .oracle import Oracle
from .searcher import Searcher, SearchResult, Selection, Wanted, always
from .shard import Shard
from .statistics import TermStatistics

if TYPE_CHECKING:
    from .device import DeviceSearcher

T = TypeVar("T")
Numbers = Sequence[int] | NDArray[np.integer[Any]]


class Snapshot:
    """An index at one generation. Safe to use from many threads; valid while it is held.

    Args:
        manifest: of the files.
        shards: the open shards.
        generation: that they are at.
        max_impact: largest impact of the index up to it.
        threads: score on the CPU.
        filters: keeps what filters come to, for all snapshots of an index.
        statistics: of the shards, if they are known already.

    Attributes:
        manifest: what the index is at this generation, with the manifests of the open shards.
        shards: the open shards by number.
        generation: of the last commit that this snapshot has.
        cpu: the searcher on the CPU, always there.
        tensors: the searcher on a torch device; None where there is none.
    """

    def __init__(
        self,
        manifest: IndexManifest,
        shards: Sequence[Shard],
        generation: int,
        max_impact: int,
        threads: ScoringThreads,
        filters: FilterCache,
        statistics: TermStatistics | None = None,
    ) -> None:
        described = tuple(shard.described(generation) for shard in shards)
        self.manifest = replace(manifest, max_impact=max_impact, shards=described)
        self.shards: Mapping[int, Shard] = {shard.number: shard for shard in shards}
        self.generation = generation
        self.cpu = CpuSearcher(shards, self.manifest, threads)
        self.tensors: DeviceSearcher | None = None
        self.filters = filters
        self._oracle = Oracle(shards, manifest.vocabulary_size)
        self._documents = {shard.number: shard.documents for shard in shards}
        if statistics is not None:
            self.statistics = statistics

    @cached_property
    def statistics(self) -> TermStatistics:
        """Document frequencies of the open shards."""
        return TermStatistics.of(list(self.shards.values()), self.manifest.vocabulary_size)

    @property
    def searcher(self) -> Searcher:
        """The searcher that :meth:`search` uses."""
        return self.cpu if self.tensors is None else self.tensors

    def mask(self, filter: Filter) -> FilterMask:
        """Return the documents that a filter holds for.

        Raises:
            InputError: a field that is not declared, a value of another type, too many of them.
        """
        return FilterMask(filter.resolve(self.manifest.fields), self.filters)

    def search(
        self, queries: ImpactBatch, k: int, mask: Selection | None = None, wanted: Wanted = always
    ) -> SearchResult:
        """Return the k best documents of each query.

        Args:
            queries: n vectors of at most 2,048 terms, impacts 1 to 4,095; each one's impacts times
                the index's ``max_impact`` sum to less than 2^31.
            k: 1 to 10,000; more than there are matches gives the matches.
            mask: the documents that may be hits, of every open shard; None for all live ones.
            wanted: asked between blocks of postings; see :meth:`.searcher.Searcher.search`.

        Raises:
            InputError: ``k``, a query or the mask out of its bounds.
        """
        self._check(queries, k, mask)
        return self.searcher.search(queries, k, mask, wanted)

    def oracle(
        self, queries: ImpactBatch, k: int, mask: Selection | Filter | None = None
    ) -> SearchResult:
        """Return what :meth:`search` must return, found exhaustively from the stored vectors.

        A filter is evaluated document by document on the stored metadata.
        """
        if isinstance(mask, Filter):
            mask = self._oracle.mask(mask.resolve(self.manifest.fields), self.manifest.fields)
        self._check(queries, k, mask)
        return self._oracle.search(queries, k, mask)

    def _check(self, queries: ImpactBatch, k: int, mask: Selection | None) -> None:
        check_k(k)
        check_queries(queries, self.manifest.vocabulary_size)
        if mask is not None:
            mask.check(self._documents)
        largest = self.manifest.max_impact
        sums = np.diff(offsets(queries.impacts)[queries.indptr])
        if (over := np.flatnonzero(sums > MAX_SCORE // largest)).size:
            raise InputError(
                f"query {over[0]}: impacts sum to {sums[over[0]]}; with document impacts up to "
                f"{largest} scores could exceed int32; allowed up to {MAX_SCORE // largest}"
            )

    def fetch(self, shards: Numbers, ordinals: Numbers) -> list[Document]:
        """Return the stored documents, in the order given.

        Raises:
            InputError: a shard or an ordinal that is not there.
        """
        return self._gather(shards, ordinals, lambda shard, o: shard.store.documents(o.tolist()))

    def vectors(self, shards: Numbers, ordinals: Numbers) -> ImpactBatch:
        """Return the stored document vectors as impacts, in the order given.

        Raises:
            InputError: a shard or an ordinal that is not there.
        """

        def read(shard: Shard, wanted: NDArray[np.int64]) -> list[Any]:
            rows = shard.store.vectors(wanted)
            return [rows.row(i) for i in range(len(wanted))]

        return ImpactBatch.join(self._gather(shards, ordinals, read), self.manifest.step)

    def ids(self, shards: Numbers, ordinals: Numbers) -> list[str]:
        """Return the documents' own ids, in the order given, from memory.

        Raises:
            InputError: a shard or an ordinal that is not there.
        """

        def read(shard: Shard, wanted: NDArray[np.int64]) -> list[str]:
            found: NDArray[np.object_] = np.empty(len(wanted), dtype=object)
            for segment, inside, places in shard.locate(wanted):
                found[inside] = segment.ids.take(places)
            return list(found)

        return self._gather(shards, ordinals, read)

    def versions(self, shards: Numbers, ordinals: Numbers) -> list[int]:
        """Return the generations of the documents' last writes, in the order given, from memory.

        Raises:
            InputError: a shard or an ordinal that is not there.
        """

        def read(shard: Shard, wanted: NDArray[np.int64]) -> list[int]:
            found = np.empty(len(wanted), dtype=np.int64)
            for segment, inside, places in shard.locate(wanted):
                found[inside] = segment.versions[places]
            return found.tolist()

        return self._gather(shards, ordinals, read)

    def _gather(
        self,
        shards: Numbers,
        ordinals: Numbers,
        read: Callable[[Shard, NDArray[np.int64]], list[T]],
    ) -> list[T]:
        """Return what ``read`` gives for each document, with one call for each shard."""
        numbers, wanted = np.asarray(shards), np.asarray(ordinals, dtype=np.int64)
        if numbers.shape != wanted.shape:
            raise InputError(f"{len(numbers)} shards but {len(wanted)} ordinals")
        if len(numbers) and (numbers == numbers[0]).all():
            return read(self._shard(int(numbers[0]), wanted), wanted)
        found: list[Any] = [None] * len(wanted)
        for number in np.unique(numbers).tolist():
            inside = np.flatnonzero(numbers == number)
            shard = self._shard(number, wanted[inside])
            for place, value in zip(inside.tolist(), read(shard, wanted[inside]), strict=True):
                found[place] = value
        return found

    def _shard(self, number: int, ordinals: NDArray[np.int64]) -> Shard:
        """Return a shard that has all of the ordinals; raises InputError otherwise."""
        if (shard := self.shards.get(number)) is None:
            raise InputError(
                f"shard is {number}, this index has {self.manifest.shard_count} (from 0), "
                f"of which are open: {', '.join(map(str, self.shards))}"
            )
        shard.locate(ordinals)
        return shard

    def find(self, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return shard and ordinal of each id that a live document of the open shards has."""
        return {
            id: (number, ordinal)
            for number, shard in self.shards.items()
            for id, ordinal in shard.store.find(ids, self.generation).items()
        }

    def get(self, ids: Sequence[str], *, with_vector: bool = False) -> list[StoredDocument | None]:
        """Return the live documents of some ids, in the order given; None for those not there."""
        places = self.find(ids)
        found = dict(zip(places, self._stored(list(places.values()), with_vector), strict=True))
        return [found.get(id) for id in ids]

    def scroll(
        self,
        after: int = -1,
        limit: int = 100,
        mask: Selection | None = None,
        *,
        with_vector: bool = False,
    ) -> list[StoredDocument]:
        """Return the next live documents in order of arrival.

        Args:
            after: arrival of the last document of the page before; -1 for the first page.
            limit: documents at most, 1 or more; fewer come back at the end only.
            mask: the documents wanted; None for all live ones.
            with_vector: add the vectors.

        Raises:
            InputError: ``limit`` or the mask out of its bounds.
        """
        ordinals, numbers = np.divmod(self.arrivals(after, limit, mask), self.manifest.shard_count)
        return self._stored(
            list(zip(numbers.tolist(), ordinals.tolist(), strict=True)), with_vector
        )

    def arrivals(
        self, after: int = -1, limit: int = 100, mask: Selection | None = None
    ) -> NDArray[np.int64]:
        """Return the next live documents by their arrivals, ascending.

        Arrival *a* is ordinal *a div N* of shard *a mod N*.

        Args:
            after, limit, mask: as of :meth:`scroll`.

        Raises:
            InputError: ``limit`` or the mask out of its bounds.
        """
        if limit < 1:
            raise InputError(f"limit: {limit} is too small; allowed 1 or more")
        if mask is not None:
            mask.check(self._documents)
        shards, arrivals = self.manifest.shard_count, [np.empty(0, np.int64)]
        for number, shard in self.shards.items():
            first = -(-(after + 1 - number) // shards)
            ordinals = _following(shard, max(first, 0), limit, mask)
            arrivals.append(ordinals * shards + number)
        return np.sort(np.concatenate(arrivals))[:limit]

    def _stored(self, places: Sequence[tuple[int, int]], with_vector: bool) -> list[StoredDocument]:
        shards, ordinals = ([one[i] for one in places] for i in range(2))
        vectors: Sequence[tuple[Any, Any]] = [((), ())] * len(places)
        if with_vector:
            impacts = self.vectors(shards, ordinals)
            vectors = [
                (terms, (values * impacts.scales[i]).astype(np.float32))
                for i, (terms, values) in enumerate(impacts)
            ]
        return [
            StoredDocument(document, version, ordinal * self.manifest.shard_count + shard, *vector)
            for document, version, shard, ordinal, vector in zip(
                self.fetch(shards, ordinals),
                self.versions(shards, ordinals),
                shards,
                ordinals,
                vectors,
                strict=True,
            )
        ]

    def count(self, mask: Selection | None = None) -> int:
        """Return how many documents are live, and inside the mask.

        Raises:
            InputError: a mask that does not fit.
        """
        if mask is None:
            return sum(shard.documents - shard.deleted for shard in self.shards.values())
        mask.check(self._documents)
        return sum(
            int(np.count_nonzero(one))
            for shard in self.shards.values()
            for one in shard.allowed(mask)
        )

    def blocks(self) -> Iterator[tuple[int, int, Block]]:
        """Yield every block in memory with its shard and its first document's position."""
        for shard in self.shards.values():
            for one in shard.segments:
                position = one.start
                for number in range(len(one.segment)):
                    block = one.segment.block(number)
                    yield shard.number, position, block
                    position += block.documents


def _following(shard: Shard, first: int, limit: int, mask: Selection | None) -> NDArray[np.int64]:
    """Return up to ``limit`` ordinals of live documents from ``first`` on, inside the mask."""
    found, missing = [np.empty(0, np.int64)], limit
    for one in shard.segments:
        if missing <= 0:
            break
        begin = int(np.searchsorted(one.ordinals, first))
        if begin == len(one):
            continue
        kept = one.kept[begin:]
        if mask is not None:
            kept &= mask.of(shard.number, one)[begin:]
        places = np.flatnonzero(kept)[:missing]
        found.append(one.ordinals[begin:][places].astype(np.int64))
        missing -= len(places)
    return np.concatenate(found)
