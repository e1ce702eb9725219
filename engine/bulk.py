"""Search with many queries, in batches; yields query id and answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from ..core.errors import IncompatibleError
from ..core.results import Answer
from ..ingest.vector_line import VectorLine
from ..ingest.vectors import ID, Keys, Lookup, ids_below, positions, to_batch
from .collection import Collection

BATCH = 64


def answer_texts(
    queries: Mapping[str, str], collection: Collection, k: int, **options: Any
) -> Iterator[tuple[str, Answer]]:
    """Answer texts by query id, in their order, without documents.

    ``options`` are those of :meth:`.collection.Collection.search`.
    """
    rest = iter(queries.items())
    while batch := list(islice(rest, BATCH)):
        answers = collection.search([text for _, text in batch], k, with_document=False, **options)
        yield from zip((query for query, _ in batch), answers, strict=True)


def answer_vectors(
    lines: Sequence[VectorLine],
    collection: Collection,
    k: int,
    keys: Keys | None = None,
    **options: Any,
) -> Iterator[tuple[str, Answer]]:
    """Answer ready query vectors.

    Terms that the index does not have are dropped and counted in the answer.

    Args:
        lines: all queries.
        collection: with its encoder where keys are token strings and the index was built by an
            encoder.
        k: hits at most per query.
        keys: what the terms are, see :func:`query_lookup`.
        options: of :meth:`.collection.Collection.search`.

    Raises:
        IncompatibleError: token strings, but nothing that tells their terms.
    """
    lookup = query_lookup(lines, collection, keys)
    ids = ids_below(collection.index.manifest.vocabulary_size)
    for first in range(0, len(lines), BATCH):
        batch = lines[first : first + BATCH]
        vectors, dropped = to_batch(batch, lookup, ids)
        answers = collection.search(vectors, k, with_document=False, **options)
        for line, answer, unknown in zip(batch, answers, dropped.tolist(), strict=True):
            yield line.document.id, replace(answer, cut=replace(answer.cut, terms=unknown))


def query_lookup(lines: Sequence[VectorLine], collection: Collection, keys: Keys | None) -> Lookup:
    """Return the way from the keys of ``{term: weight}`` to the terms of an index.

    Args:
        lines: all queries, for errors.
        collection: with its encoder where keys are strings and the index was built by an encoder.
        keys: what the keys are. None takes token strings where the index or its encoder has token
            strings, else ids; it never depends on the queries.

    Raises:
        IncompatibleError: token strings, but nothing that tells their terms.
    """
    manifest = collection.index.manifest
    if keys == "ids":
        return ids_below(manifest.vocabulary_size)
    if manifest.vocabulary is not None:
        return positions(manifest.vocabulary)
    if collection.encoder is not None:
        return collection.encoder.vocabulary().get
    for line in lines:
        strange = [term for term in line.terms if keys or not ID.fullmatch(term)]
        if strange and not line.has_ids:
            raise IncompatibleError(
                f"{line.line.place}: term {strange[0]!r} is a token string, the index has integer "
                "ids; use --terms ids"
            )
    return ids_below(manifest.vocabulary_size)
