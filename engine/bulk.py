"""Search with many queries, in batches; yields query id and answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ..core.errors import IncompatibleError, InputError
from ..core.results import Answer
from ..core.vectors import MAX_QUERY_TERMS
from ..ingest.vectors import ID, Lookup, VectorLine, ids_below, positions, to_batch
from .collection import Collection

BATCH = 64


def answer_texts(
    queries: Mapping[str, str], collection: Collection, k: int
) -> Iterator[tuple[str, Answer]]:
    """Answer texts by query id, in their order, without documents."""
    rest = iter(queries.items())
    while batch := list(islice(rest, BATCH)):
        answers = collection.search([text for _, text in batch], k, with_document=False)
        yield from zip((query for query, _ in batch), answers, strict=True)


def answer_vectors(
    path: Path | str, lines: Sequence[VectorLine], collection: Collection, k: int
) -> Iterator[tuple[str, Answer]]:
    """Answer ready query vectors.

    Terms that the index does not have are dropped and counted in the answer.

    Args:
        path: the file of the queries, for errors.
        lines: all queries.
        collection: with its encoder where keys are token strings and the index was built by an encoder.
        k: hits at most per query.

    Raises:
        InputError: a query with more than 2,048 terms.
        IncompatibleError: token strings, but the index has integer ids.
    """
    lookup = query_lookup(path, lines, collection)
    for line in lines:
        if len(line.terms) > MAX_QUERY_TERMS:
            raise InputError(
                f"{line.line.place}: query {line.document.id!r} has {len(line.terms)} terms, "
                f"at most {MAX_QUERY_TERMS}"
            )
    for first in range(0, len(lines), BATCH):
        batch = lines[first : first + BATCH]
        vectors, dropped = to_batch(batch, lookup)
        answers = collection.search(vectors, k, with_document=False)
        for line, answer, unknown in zip(batch, answers, dropped.tolist(), strict=True):
            yield line.document.id, replace(answer, cut=replace(answer.cut, terms=unknown))


def query_lookup(path: Path | str, lines: Sequence[VectorLine], collection: Collection) -> Lookup:
    """The way from the keys of query vectors to the terms of an index; None for terms that it does
    not have.

    Args:
        path: the file of the queries, for errors.
        lines: all of them: keys are ids when every key is one, unless the index keeps strings.
        collection: with its encoder where keys are strings and the index was built by an encoder.

    Raises:
        IncompatibleError: token strings, but nothing that tells their terms.
    """
    manifest = collection.index.manifest
    if manifest.vocabulary is not None:
        return positions(manifest.vocabulary)
    strange = next((term for line in lines for term in line.terms if not ID.fullmatch(term)), None)
    if strange is None:
        return ids_below(manifest.vocabulary_size)
    if collection.encoder is None:
        raise IncompatibleError(
            f"{path}: has token strings as terms ({strange!r}), the index has integer ids"
        )
    return collection.encoder.vocabulary().get
