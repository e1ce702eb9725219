"""The Common Index File Format (CIFF): postings and document ids, exchanged with other engines.

Lucene (Anserini), PISA, Terrier and others read and write it. Impacts stand where a text index has
term frequencies. Texts and metadata are not part of the format.
Source: Lin et al., "Supporting Interoperability Between Open-Source Search Engines with the Common
Index File Format", SIGIR 2020.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from io import BufferedIOBase
from pathlib import Path
from shutil import copyfileobj
from tempfile import SpooledTemporaryFile
from typing import IO, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from ..core.document import Document, parse_id
from ..core.errors import InputError
from ..core.files import write_aside
from ..core.lines import Line, open_decompressed
from ..core.vectors import ImpactBatch, offsets
from ..v1 import ciff_pb2 as pb
from .transpose import SPOOL_BYTES, Transposition, balanced_parts, even_parts
from .vector_line import VectorLine

SUFFIX = ".ciff"
VERSION = 1
MAX_MESSAGE_BYTES = 2**31 - 1  # of protobuf
MAX_LENGTH = 2**31 - 1  # of a document, the sum of its frequencies

Chunks = Callable[[str], Iterable[tuple[Sequence[str], ImpactBatch]]]
"""Called with a stage, "terms" or "documents"; gives ids and vectors of all documents in chunks."""

M = TypeVar("M", bound=Message)


def read_ciff(path: Path) -> Iterator[VectorLine]:
    """Yield the documents of a CIFF file with their vectors, in order of their numbers.

    Memory holds the ids, one postings list and a part of the postings; the others wait in temporary
    files, 12 bytes each. Terms are strings; weights are term frequencies (impacts). Documents
    without a term are yielded too.

    Args:
        path: the file, plain or ``.gz`` or ``.zst``.

    Raises:
        InputError: the file is not CIFF, is incomplete, or breaks its own counts; a document id has
            white space or is there twice; a frequency is not above 0.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open_decompressed(path))
        header = _read(path, file, pb.Header)
        if header.version != VERSION:
            raise InputError(f"{path}: CIFF version {header.version}, readable is {VERSION}")
        count = header.num_doc_records
        if count < 0 or header.num_postings_lists < 0:
            raise InputError(f"{path}: is not CIFF: its header has a count below 0")
        vectors = stack.enter_context(Transposition(even_parts(count)))
        terms: list[str] = []
        for number in range(header.num_postings_lists):
            postings = _read(path, file, pb.PostingsList)
            documents, weights = _postings(path, postings, count)
            vectors.add(documents, number, weights)
            terms.append(postings.term)
        if len(set(terms)) < len(terms):
            raise InputError(f"{path}: has two postings lists of one term")
        ids = _document_ids(path, (_read(path, file, pb.DocRecord) for _ in range(count)))
        if file.read(1):
            raise InputError(f"{path}: goes on after the {count} documents of its header")
        columns = vectors.columns()
        for number, (identity, (names, weights)) in enumerate(zip(ids, columns, strict=True), 1):
            yield VectorLine(
                Line(path, number, ""),
                Document(identity, ""),
                [terms[name] for name in names.tolist()],
                weights.astype(np.float32),
                has_ids=False,
            )


def write_ciff(path: Path, chunks: Chunks, name: Callable[[int], str], description: str) -> int:
    """Write document vectors as a CIFF file, whole or not at all; return how many there are.

    Memory holds a chunk and a part of the postings; the others wait in temporary files, 12 bytes
    each.

    Args:
        path: the file to write.
        chunks: called twice.
        name: gives the string of a term; no two have the same.
        description: of the index, for people.

    Raises:
        InputError: the impacts of a document sum to more than CIFF can hold.
    """
    counts: Counter[int] = Counter()
    for _, impacts in chunks("terms"):
        found, lengths = np.unique(impacts.terms, return_counts=True)
        counts.update(dict(zip(found.tolist(), lengths.tolist(), strict=True)))
    ordered = sorted(counts, key=lambda term: name(term).encode())  # as Lucene orders them
    places = np.argsort(np.array(ordered, dtype=np.int64))  # in the file, of each term by its id
    known = np.array(ordered, dtype=np.int64)[places]
    parts = balanced_parts(np.array([counts[term] for term in ordered], dtype=np.int64))
    documents = total = 0
    with (
        write_aside(path, "wb") as file,
        Transposition(parts) as postings,
        SpooledTemporaryFile(SPOOL_BYTES) as records,
    ):
        for ids, impacts in chunks("documents"):
            rows = np.repeat(np.arange(documents, documents + len(ids)), np.diff(impacts.indptr))
            columns = places[np.searchsorted(known, impacts.terms)]
            postings.add(columns, rows, impacts.impacts)
            for number, (identity, length) in enumerate(_lengths(ids, impacts), documents):
                record = pb.DocRecord(docid=number, collection_docid=identity, doclength=length)
                _write(records, record)
                total += length
            documents += len(ids)
        header = pb.Header(
            version=VERSION,
            num_postings_lists=len(ordered),
            num_doc_records=documents,
            total_postings_lists=len(ordered),
            total_docs=documents,
            total_terms_in_collection=total,
            average_doclength=total / max(documents, 1),
            description=description,
        )
        _write(file, header)
        for term, (numbers, values) in zip(ordered, postings.columns(), strict=True):
            _write(file, _postings_list(name(term), numbers, values))
        records.seek(0)
        copyfileobj(records, file)
    return documents


def _lengths(ids: Sequence[str], impacts: ImpactBatch) -> Iterator[tuple[str, int]]:
    """Yield id and sum of impacts of each document."""
    lengths = np.diff(offsets(impacts.impacts)[impacts.indptr]).tolist()
    for identity, length in zip(ids, lengths, strict=True):
        if length > MAX_LENGTH:
            raise InputError(
                f"document {identity!r}: its impacts sum to {length}; CIFF holds up to "
                f"{MAX_LENGTH}; export it in another format"
            )
        yield identity, length


def _postings_list(
    word: str, numbers: NDArray[np.int32], values: NDArray[np.int32]
) -> pb.PostingsList:
    gaps = np.diff(numbers, prepend=0).tolist()
    postings = [
        pb.Posting(docid=gap, tf=value) for gap, value in zip(gaps, values.tolist(), strict=True)
    ]
    cf = int(values.sum(dtype=np.int64))
    return pb.PostingsList(term=word, df=len(postings), cf=cf, postings=postings)


def _postings(
    path: Path, postings: pb.PostingsList, documents: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return document numbers and weights of one term."""
    count = len(postings.postings)
    gaps = np.fromiter((one.docid for one in postings.postings), np.int64, count)
    weights = np.fromiter((one.tf for one in postings.postings), np.int32, count)
    numbers = np.cumsum(gaps)
    if count != postings.df:
        problem = f"has {count} postings, its document frequency is {postings.df}"
    elif count and (numbers[0] < 0 or numbers[-1] >= documents or (gaps[1:] <= 0).any()):
        problem = f"has document numbers that do not ascend below {documents}"
    elif (weights <= 0).any():
        problem = "has a term frequency that is not above 0"
    else:
        return numbers.astype(np.int32), weights
    raise InputError(f"{path}: the postings list of term {postings.term!r:.60} {problem}")


def _document_ids(path: Path, records: Iterable[pb.DocRecord]) -> list[str]:
    """Return the ids in order of the documents' numbers, which are 0 to n - 1, each once."""
    ids: list[str] = []
    numbers = array("q")
    for record in records:
        try:
            ids.append(parse_id(record.collection_docid, "document id"))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        numbers.append(record.docid)
    order = np.argsort(numbers, kind="stable")
    ascending = np.asarray(numbers)[order]
    if (wrong := np.flatnonzero(ascending != np.arange(len(ids)))).size:
        number = ascending[wrong[0]]
        raise InputError(f"{path}: document number {number} is out of range or repeated")
    if len(set(ids)) < len(ids):
        raise InputError(f"{path}: has two documents of one id")
    return [ids[place] for place in order.tolist()]


def _read(path: Path, file: BufferedIOBase, kind: type[M]) -> M:
    """Read one message with its length before it."""
    length = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 28:
            raise InputError(f"{path}: is incomplete, or not CIFF: a {kind.__name__} is missing")
        length |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
        shift += 7
    data = file.read(min(length, MAX_MESSAGE_BYTES))
    try:
        if len(data) < length:
            raise DecodeError("it is longer than the file or than 2 GiB")
        return kind.FromString(data)
    except DecodeError as error:
        raise InputError(
            f"{path}: is incomplete, or not CIFF: {kind.__name__} is broken: {error}"
        ) from None


def _write(file: IO[bytes], message: Message) -> None:
    """Write one message with its length before it."""
    length = message.ByteSize()
    head = bytearray()
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    file.write(bytes(head) + message.SerializeToString())
