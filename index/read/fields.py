"""Columns of declared fields: their values in memory, derived from the documents' metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...core.fields import FieldKind, Fields, FieldValue, convert, values_of
from ..storage.ids import ResidentIds

_DTYPES: dict[FieldKind, str] = {
    "bool": "?", "integer": "<i8", "float": "<f8", "datetime": "<i8",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Column:
    """The values of one field in n documents.

    Attributes:
        kind: The field's type.
        documents: n.
        values: [v], of all documents one after the other: uint32 codes of a keyword, bool, int64
            of an integer or of a datetime in microseconds since 1970, float64.
        owners: uint32 [v], the position of each value's document, ascending; None if every
            document has exactly one value.
        codes: Code of each string of a keyword.
    """

    kind: FieldKind
    documents: int
    values: NDArray[Any]
    owners: NDArray[np.uint32] | None
    codes: Mapping[str, int] | None = None

    @classmethod
    def of(cls, kind: FieldKind, documents: Sequence[Sequence[FieldValue]]) -> Self:
        """Make the column of documents with these values."""
        counts = np.fromiter(map(len, documents), np.int64, len(documents))
        owners = None
        if (counts != 1).any():
            owners = np.repeat(np.arange(len(documents), dtype=np.uint32), counts)
        flat = (value for values in documents for value in values)
        if kind != "keyword":
            values = np.fromiter(flat, _DTYPES[kind], int(counts.sum()))
            return cls(kind, len(documents), values, owners)
        codes: dict[str, int] = {}
        values = np.fromiter(
            (codes.setdefault(str(value), len(codes)) for value in flat),
            np.uint32,
            int(counts.sum()),
        )
        return cls(kind, len(documents), values, owners, codes)

    @classmethod
    def join(cls, parts: Sequence[tuple[Column, NDArray[np.bool_]]]) -> Column:
        """Return the column of some documents of others, in order.

        Args:
            parts: Columns of one kind, at least one, each with bool [n], the documents to take.
        """
        first = parts[0][0]
        codes: dict[str, int] | None = None if first.codes is None else {}
        values: list[NDArray[Any]] = []
        owners: list[NDArray[np.int64]] = []
        documents = 0
        for column, kept in parts:
            place = np.arange(column.documents) if column.owners is None else column.owners
            chosen = kept[place]
            taken = column.values[chosen]
            if codes is not None and column.codes is not None:
                used = np.zeros(len(column.codes), dtype=np.bool_)
                used[taken] = True
                table = np.zeros(len(column.codes), dtype=np.uint32)
                for text, code in column.codes.items():
                    if used[code]:
                        table[code] = codes.setdefault(text, len(codes))
                taken = table[taken]
            values.append(taken)
            owners.append((np.cumsum(kept) - 1)[place[chosen]] + documents)
            documents += int(np.count_nonzero(kept))
        place = np.concatenate(owners)
        single = len(place) == documents and bool((place == np.arange(documents)).all())
        return cls(
            first.kind,
            documents,
            np.concatenate(values),
            None if single else place.astype(np.uint32),
            codes,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.values.nbytes + (0 if self.owners is None else self.owners.nbytes)

    def match(self, wanted: Sequence[FieldValue], excluded: bool) -> NDArray[np.bool_]:
        """Return which documents have a value that is wanted, or one that is not: bool [n]."""
        if self.codes is not None:
            table = np.zeros(len(self.codes), dtype=np.bool_)
            known = [self.codes[one] for one in map(str, wanted) if one in self.codes]
            table[known] = True
            found = table[self.values]
        else:
            values = [convert(self.kind, one) for one in wanted]
            found = np.isin(self.values, np.array(values, dtype=self.values.dtype))
        return self._owned(~found if excluded else found)

    def within(
        self,
        gt: FieldValue | None,
        gte: FieldValue | None,
        lt: FieldValue | None,
        lte: FieldValue | None,
    ) -> NDArray[np.bool_]:
        """Return which documents have a value within the bounds that are not None: bool [n]."""
        found = np.ones(len(self.values), dtype=np.bool_)
        for bound, compare in (
            (gt, np.greater),
            (gte, np.greater_equal),
            (lt, np.less),
            (lte, np.less_equal),
        ):
            if bound is not None:
                found &= compare(self.values, convert(self.kind, bound))
        return self._owned(found)

    def exists(self) -> NDArray[np.bool_]:
        """Return which documents have a value: bool [n]."""
        return self._owned(np.ones(len(self.values), dtype=np.bool_))

    def _owned(self, found: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which documents own a value that was found."""
        if self.owners is None:
            return found
        documents = np.zeros(self.documents, dtype=np.bool_)
        documents[self.owners[found]] = True
        return documents


@dataclass(frozen=True, eq=False)
class FieldColumns:
    """What filters read of n documents of a shard. Immutable.

    Attributes:
        documents: n.
        columns: Of each declared field, by name.
        ids: Of the documents.
    """

    documents: int
    columns: Mapping[str, Column]
    ids: ResidentIds

    @classmethod
    def of(
        cls,
        metadata: Iterable[tuple[str, Mapping[str, Any]]],
        fields: Fields,
        ids: ResidentIds,
    ) -> Self:
        """Derive the columns of documents.

        Args:
            metadata: Id and metadata of each document, in order of position.
            fields: Declared fields.
            ids: Of the documents.

        Raises:
            InputError: a value of another type than its field's.
        """
        values: dict[str, list[list[FieldValue]]] = {name: [] for name in fields}
        count = 0
        for id, held in metadata:
            count += 1
            for name, kind in fields.items():
                values[name].append(values_of(held, name, kind, id))
        columns = {name: Column.of(kind, values[name]) for name, kind in fields.items()}
        return cls(count, columns, ids)

    @classmethod
    def join(
        cls, parts: Sequence[tuple[FieldColumns, NDArray[np.bool_]]], ids: ResidentIds
    ) -> FieldColumns:
        """Return the columns of some documents of others, in order.

        Args:
            parts: Of the same fields, at least one, each with bool [n], the documents to take.
            ids: Of the documents that are taken, from position 0 on.
        """
        columns = {
            name: Column.join([(part.columns[name], kept) for part, kept in parts])
            for name in parts[0][0].columns
        }
        return cls(sum(int(np.count_nonzero(kept)) for _, kept in parts), columns, ids)

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in self.columns.values())

    def have_id(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Return which documents have one of the ids: bool [n]."""
        found = np.zeros(self.documents, dtype=np.bool_)
        found[self.ids.find(ids)] = True
        return found
