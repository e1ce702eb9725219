"""Corpus or ready vectors to an index, in fixed chunks, each one durable step of the builder.

Chunks lie at the same places however often a build is killed and resumed (:mod:`.chunks`), so that
the vectors, and with them the bytes of the index, come out the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from ..core.corpus import read_corpus
from ..core.document import Document
from ..core.errors import IncompatibleError, InputError
from ..core.fields import Fields
from ..core.lines import OnBad
from ..core.resume import require_same_settings
from ..core.vectors import SparseBatch
from ..index import BuildOptions, IndexBuilder, IndexManifest
from ..index.storage.documents import DocumentStore
from ..index.storage.manifest import BUILDING_FILE, INDEX_FILE
from ..index.storage.wide import highest_impact
from ..index.write.fidelity import choose_scale
from . import chunks
from .vectors import (
    ID,
    Keys,
    Lookup,
    VectorFile,
    ids_below,
    positions,
    read_vectors,
    scan_vectors,
    to_batch,
)

if TYPE_CHECKING:
    from ..model import Encoder

Progress = Callable[[str, int, int], None]
"""Called with the stage ("documents" or "segments"), documents done and documents in all."""

QueryModifier = Literal["auto", "none", "idf"]

T = TypeVar("T")


@dataclass
class BuildReport:
    """What a build did.

    Attributes:
        manifest: of the finished index.
        resumed: documents that were safe before this call.
        skipped: bad lines passed over.
        empty: documents without a single term, which no query finds; like the next two, of this
            call alone.
        dropped_tokens: tokens cut by the encoder's cap.
        dropped_terms: terms cut by the encoder's cap.
        seconds: from the first document of this call to the finished index.
    """

    manifest: IndexManifest = field(init=False)
    resumed: int = 0
    skipped: int = 0
    empty: int = 0
    dropped_tokens: int = 0
    dropped_terms: int = 0
    seconds: float = 0.0


def build_from_corpus(
    corpus: Path | str,
    out: Path | str,
    encoder: Encoder | Callable[[], Encoder],
    *,
    shards: int = 1,
    query_modifier: QueryModifier = "auto",
    fields: Fields | None = None,
    resume: bool = False,
    on_bad: OnBad | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Encode a corpus and index it.

    Args:
        corpus: JSON lines; see :func:`csplade.core.corpus.read_records`.
        out: directory of the index, absent or empty unless resuming.
        encoder: what makes the vectors, or a function that loads it once the corpus has been
            checked.
        shards: number of shards.
        query_modifier: "none", "idf", or "auto" for what the encoder was made for.
        fields: type of each field of the metadata that filters may name.
        resume: go on with an unfinished build; start one where there is none.
        on_bad: gets the error of each bad line, which is then skipped and counted; without it, it
            is raised.
        progress: told after each batch of texts and after each block of the segments.

    Raises:
        InputError: a bad corpus or an empty one, a directory in use.
        IncompatibleError: the unfinished build is of another corpus, encoder or setting.
        UnavailableError: no space left on the disk; resume when there is.
    """
    _check_place(Path(out), resume)
    report = BuildReport()
    count = _counting(report, on_bad)
    total = sum(1 for _ in read_corpus(corpus, fields=fields, on_bad=count))
    if not total:
        raise InputError(
            f"{corpus}: no documents in it" + (f", {report.skipped} bad lines" if on_bad else "")
        )
    encoder = encoder() if callable(encoder) else encoder
    options = BuildOptions(
        vocabulary_size=encoder.vocabulary_size,
        encoder=_encoder_record(encoder),
        shards=shards,
        query_modifier=_modifier(query_modifier, encoder),
        fields=fields or {},
    )

    def encode(documents: list[Document], advance: Callable[[int], None]) -> SparseBatch:
        encoded = encoder.encode([one.full_text for one in documents], "document", progress=advance)
        report.dropped_tokens += int(encoded.dropped_tokens.sum())
        report.dropped_terms += int(encoded.dropped_terms.sum())
        return encoded.vectors

    source = read_corpus(corpus, fields=fields, on_bad=_quietly(on_bad))
    return _build(
        corpus,
        out,
        options,
        source,
        lambda one: one,
        encode,
        total,
        chunks.TEXTS,
        progress,
        report,
    )


def build_from_vectors(
    vectors: Path | str,
    out: Path | str,
    *,
    encoder: Encoder | Callable[[], Encoder] | None = None,
    keys: Keys | None = None,
    vocabulary_size: int | None = None,
    shards: int = 1,
    document_scale: float | None = None,
    query_modifier: QueryModifier = "auto",
    fields: Fields | None = None,
    resume: bool = False,
    on_bad: OnBad | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Index ready vectors.

    Args:
        vectors: JSON lines; see :func:`.vectors.read_vectors`.
        out: directory of the index, absent or empty unless resuming.
        encoder: the encoder that made them and encodes queries, or a function that loads it; terms
            must be of its vocabulary. Without one, queries come as vectors, and token strings get
            ids in sorted order.
        keys: what the terms are. None takes ids for ``indices``; for ``{term: weight}`` it takes
            token strings where there is an encoder, else ids if every term of the file is one.
        vocabulary_size: terms are ids below it, where there is no encoder; None takes the largest
            id of the file.
        shards: number of shards.
        document_scale: weight of one document impact step; None fits it to the weights.
        query_modifier: as for :func:`build_from_corpus`; "auto" without an encoder is "none".
        fields, resume, on_bad, progress: as for :func:`build_from_corpus`.

    Raises:
        InputError, IncompatibleError, UnavailableError: as :func:`build_from_corpus`; also an
            unknown term.
    """
    _check_place(Path(out), resume)
    report = BuildReport()
    default: Keys | None = None if encoder is None else "tokens"
    file = scan_vectors(
        vectors, keys=keys, default=default, fields=fields, on_bad=_counting(report, on_bad)
    )
    if vocabulary_size is not None and (encoder is not None or file.keys == "tokens"):
        raise InputError(
            "vocabulary_size: goes with integer ids and no encoder, whose vocabulary is known"
        )
    encoder = encoder() if callable(encoder) else encoder
    size, strings, lookup = _vocabulary(file, encoder, vocabulary_size)
    options = BuildOptions(
        vocabulary_size=size,
        encoder=_encoder_record(encoder) if encoder else None,
        shards=shards,
        document_scale=document_scale or _fitted_scale(file, lookup, size),
        query_modifier=_modifier(query_modifier, encoder),
        fields=fields or {},
        vocabulary=strings,
    )

    def convert(lines: list[Any], advance: Callable[[int], None]) -> SparseBatch:
        return to_batch(lines, lookup)[0]

    source = read_vectors(vectors, fields=fields, on_bad=_quietly(on_bad))
    return _build(
        vectors,
        out,
        options,
        source,
        lambda line: line.document,
        convert,
        file.lines,
        chunks.VECTORS,
        progress,
        report,
        ready_vectors=True,
    )


def _vocabulary(
    file: VectorFile, encoder: Encoder | None, asked: int | None
) -> tuple[int, list[str] | None, Lookup]:
    """Size of the vocabulary, its strings if the index is to keep them, and the way from key to
    term.
    """
    if encoder is None and file.keys == "tokens":
        strings = list(file.terms)
        return len(strings), strings, positions(strings)
    if encoder is None:
        largest, place = next(reversed(file.terms.items()))
        size = asked or int(largest) + 1
        if int(largest) >= size:
            raise InputError(
                f"{place}: term {largest} is not below the vocabulary size, {size}; raise "
                "--vocabulary-size"
            )
        return size, None, ids_below(size)
    size = encoder.vocabulary_size
    lookup = encoder.vocabulary().get if file.keys == "tokens" else ids_below(size)
    for term, place in file.terms.items():
        if lookup(term) is None:
            raise InputError(
                f"{place}: term {term!r} is not in the vocabulary of model {encoder.name}, "
                f"{size} terms" + ("; integer ids need --terms ids" if ID.fullmatch(term) else "")
            )
    return size, None, lookup


def _fitted_scale(file: VectorFile, lookup: Lookup, size: int) -> float:
    """Return the document scale that suits a file of vectors: 1 keeps whole numbers as they are."""
    highest = highest_impact(size)
    if file.whole and file.largest <= highest:
        return 1.0
    return choose_scale(to_batch(file.sample, lookup)[0], highest)


def _build(
    path: Path | str,
    out: Path | str,
    options: BuildOptions,
    source: Iterable[T],
    document_of: Callable[[T], Document],
    encode: Callable[[list[T], Callable[[int], None]], SparseBatch],
    total: int,
    size: int,
    progress: Progress | None,
    report: BuildReport,
    *,
    ready_vectors: bool = False,
) -> BuildReport:
    """Feed the builder in chunks of ``size``, passing over what it holds already.

    Ready vectors are compared with those that the build holds; others follow from text and encoder.
    """
    with _open_builder(Path(out), options) as builder:
        safe = report.resumed = builder.documents
        if safe > total:
            raise IncompatibleError(
                f"{out}: the unfinished build holds {safe} documents, {path} has {total}; "
                "resume with the same file or build elsewhere"
            )
        started = time.monotonic()
        done = safe
        if progress:
            progress("documents", done, total)

        def advance(texts: int) -> None:
            nonlocal done
            done += texts
            if progress:
                progress("documents", done, total)

        first = 0
        for chunk in chunks.chunks(source, size):
            documents = [document_of(one) for one in chunk]
            known = min(max(safe - first, 0), len(chunk))
            ready = encode(chunk, advance) if ready_vectors and known else None
            _require_same_documents(builder, path, first, documents[:known], ready)
            first += len(chunk)
            if known == len(chunk):
                continue
            done = first - len(chunk)
            vectors = (ready or encode(chunk, advance)).take(np.arange(known, len(chunk)))
            report.empty += int((np.diff(vectors.indptr) == 0).sum())
            builder.add(documents[known:], vectors)
            advance(first - done)  # empty texts are in no batch of the encoder
        segments = (
            None if progress is None else (lambda done, total: progress("segments", done, total))
        )
        report.manifest = builder.finish(segments)
        report.seconds = time.monotonic() - started
    return report


def _check_place(out: Path, resume: bool) -> None:
    """Refuse a directory in use before hours go into it."""
    if (out / INDEX_FILE).exists():
        raise InputError(f"{out}: holds a complete index; build elsewhere or delete it")
    if (out / BUILDING_FILE).exists() and not resume:
        raise InputError(
            f"{out}: holds an unfinished build; go on with --resume, or build elsewhere"
        )
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is not a directory")
    # killed while it wrote its first file, a build leaves nothing but a torn copy of that file
    torn = out / f"{BUILDING_FILE}.part"
    if resume and torn.exists() and list(out.iterdir()) == [torn]:
        torn.unlink()
    if out.is_dir() and any(out.iterdir()) and not (out / BUILDING_FILE).exists():
        raise InputError(f"{out}: must be absent or an empty directory")


def _open_builder(out: Path, options: BuildOptions) -> IndexBuilder:
    if not (out / BUILDING_FILE).exists():
        return IndexBuilder.create(out, options)
    builder = IndexBuilder.resume(out)
    try:
        _require_same_options(out, builder.manifest, options)
    except BaseException:
        builder.close()
        raise
    return builder


def _require_same_options(out: Path, manifest: IndexManifest, options: BuildOptions) -> None:
    if options.document_scale is None:
        options = replace(options, document_scale=manifest.document_scale)
    require_same_settings(
        out, _settings(manifest, manifest.shard_count), _settings(options, options.shards)
    )


def _settings(source: IndexManifest | BuildOptions, shards: int) -> dict[str, Any]:
    """What the bytes of an index depend on, besides its documents."""
    encoder = source.encoder or {}
    return {
        "encoder": encoder.get("fingerprint"),
        "quantization": encoder.get("quantization"),
        "shards": shards,
        "vocabulary size": source.vocabulary_size,
        "vocabulary": source.vocabulary,
        "document scale": source.document_scale,
        "query modifier": source.query_modifier,
        "fields": dict(source.fields),
    }


def _require_same_documents(
    builder: IndexBuilder,
    path: Path | str,
    first: int,
    documents: list[Document],
    vectors: SparseBatch | None,
) -> None:
    """Compare documents from arrival number ``first`` on with those that the build holds."""
    impacts = None
    if vectors:
        scale = builder.manifest.document_scale or 1.0
        impacts, _ = vectors.quantize(scale, highest_impact(builder.manifest.vocabulary_size))
    shards = builder.manifest.shard_count
    for shard in range(shards if documents else 0):
        places = [place for place in range(len(documents)) if (first + place) % shards == shard]
        store = DocumentStore.open(builder.manifest.shard_directory(builder.path, shard))
        try:
            ordinals = [(first + place) // shards for place in places]
            held = store.documents(ordinals)
            rows = store.vectors(ordinals) if ordinals else None
        finally:
            store.close()
        for number, (place, there) in enumerate(zip(places, held, strict=True)):
            here = documents[place]
            same = here == there
            if same and impacts and rows:
                terms, values = impacts.row(place)
                span = slice(rows.indptr[number], rows.indptr[number + 1])
                same = np.array_equal(terms, rows.terms[span]) and np.array_equal(
                    values, rows.impacts[span]
                )
            if not same:
                raise IncompatibleError(
                    f"{path}: document {first + place + 1} is {here.id!r}, but the unfinished "
                    f"build {builder.path} has {there.id!r} there or other content; "
                    "resume with the same file or build elsewhere"
                )


def _encoder_record(encoder: Encoder) -> dict[str, Any]:
    return {
        "fingerprint": encoder.fingerprint,
        "model": encoder.name,
        "quantization": encoder.quantization,
        "manifest": encoder.manifest.to_dict(golden=False),
    }


def _modifier(query_modifier: QueryModifier, encoder: Encoder | None) -> str:
    if query_modifier != "auto":
        return query_modifier
    return "idf" if encoder is not None and encoder.manifest.query_idf else "none"


def _counting(report: BuildReport, on_bad: OnBad | None) -> OnBad | None:
    if on_bad is None:
        return None

    def count(error: InputError) -> None:
        report.skipped += 1
        on_bad(error)

    return count


def _quietly(on_bad: OnBad | None) -> OnBad | None:
    """For the second reading: skip what the first one reported."""
    return None if on_bad is None else (lambda error: None)
