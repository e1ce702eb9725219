"""Declared fields: entries of documents' metadata that filters may name, each of one type."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from .errors import InputError

FieldKind = Literal["keyword", "bool", "integer", "float", "datetime"]
FIELD_KINDS: tuple[FieldKind, ...] = get_args(FieldKind)

FieldValue = str | bool | int | float
"""A value of a field as it is compared; a datetime is microseconds since 1970 in UTC."""

Fields = Mapping[str, FieldKind]
"""The declared fields of an index by name."""

MAX_FIELDS = 64
MAX_NAME = 100  # characters

_ALLOWED = {
    "keyword": "a string",
    "bool": "true or false",
    "integer": "a whole number of 64 bits",
    "float": "a finite number",
    "datetime": "a string of ISO 8601, as 2024-05-31 or 2024-05-31T12:00:00Z",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EXACT_FLOAT = 2**53  # whole numbers up to it are exact in float64


def parse_fields(texts: Iterable[str]) -> dict[str, FieldKind]:
    """Return the fields that are declared as ``name:type``.

    Raises:
        InputError: a text of another form, or a name that comes again.
    """
    fields: dict[str, Any] = {}
    for text in texts:
        name, _, kind = text.rpartition(":")
        check_field(name, kind)
        if name in fields:
            raise InputError(f"field {name}: is declared twice; declare it once")
        fields[name] = kind
    check_fields(fields)
    return fields


def check_field(name: object, kind: object) -> None:
    """Check the declaration of a field; raises InputError."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
        raise InputError(
            f"field: name {name!r:.120} is out of range; 1 to {MAX_NAME} characters are allowed, "
            "declare it as name:type"
        )
    if kind not in FIELD_KINDS:
        raise InputError(
            f"field {name}: type {kind!r:.60} is unknown; allowed are {', '.join(FIELD_KINDS)}"
        )


def check_fields(fields: Mapping[str, Any]) -> None:
    """Check the declarations of an index's fields; raises InputError."""
    if len(fields) > MAX_FIELDS:
        raise InputError(f"fields: {len(fields)} are too many; at most {MAX_FIELDS} are allowed")
    for name, kind in fields.items():
        check_field(name, kind)


def convert(kind: FieldKind, value: object) -> Any:
    """Return a JSON value as a value of a field; None if it is of another type."""
    if kind == "keyword":
        return value if isinstance(value, str) else None
    if kind == "bool":
        return value if isinstance(value, bool) else None
    if kind == "datetime":
        return _microseconds(value) if isinstance(value, str) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return _whole(value) if kind == "integer" else _finite(value)


def canonical(kind: FieldKind, value: object) -> FieldValue | None:
    """Return a JSON value in the one form of all that are equal to it; None as :func:`convert`."""
    converted: FieldValue | None = convert(kind, value)
    if kind == "datetime" and isinstance(converted, int):
        return (_EPOCH + timedelta(microseconds=converted)).isoformat()
    return converted


def values_of(
    metadata: Mapping[str, Any], name: str, kind: FieldKind, document: str
) -> list[FieldValue]:
    """Return the values of a document's field; none if it is absent, null or an empty list.

    Args:
        metadata: Of the document.
        name, kind: The field.
        document: Id of the document, for errors.

    Raises:
        InputError: a value of another type.
    """
    held = metadata.get(name)
    if held is None:
        return []
    values = []
    for value in held if isinstance(held, list) else [held]:
        converted = convert(kind, value)
        if converted is None:
            raise InputError(
                f"document {document!r}: field {name}: {value!r:.60} is not {kind}; allowed is "
                f"{describe(kind)}, or a list of such"
            )
        values.append(converted)
    return values


def check_document(metadata: Mapping[str, Any], fields: Fields, document: str) -> None:
    """Check the declared fields of a document; raises InputError as :func:`values_of`."""
    for name, kind in fields.items():
        values_of(metadata, name, kind, document)


def describe(kind: FieldKind) -> str:
    """Return what a field's values are, for errors."""
    return _ALLOWED[kind]


def _whole(value: float) -> int | None:
    if isinstance(value, float) and (abs(value) > EXACT_FLOAT or not value.is_integer()):
        return None
    return int(value) if -(2**63) <= value < 2**63 else None


def _finite(value: float) -> float | None:
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _microseconds(text: str) -> int | None:
    """Return a date or time in microseconds since 1970; without a zone it is in UTC."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):  # no date, or in UTC before year 1 or after year 9999
        return None
