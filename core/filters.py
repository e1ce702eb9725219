"""Filters: which documents may be hits, told by the declared fields of their metadata.

A filter is a JSON object::

    {"must": [{"field": "language", "match": {"any": ["en", "de"]}},
              {"field": "year", "range": {"gte": 2000, "lt": 2010}}],
     "should": [{"field": "isbn", "exists": true}, {"has_id": ["a", "b"]}],
     "must_not": [{"nested": {"must": [...]}}]}

It holds for a document if every condition of ``must`` holds, at least one of ``should`` if there
are any, and none of ``must_not``. A list of values satisfies ``match`` or ``range`` if one of its
values does; a document without the field satisfies neither.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeVar

from .errors import InputError
from .fields import EXACT_FLOAT, FieldKind, Fields, FieldValue, canonical, describe

T = TypeVar("T")

MAX_DEPTH = 8  # filters inside each other
MAX_CONDITIONS = 256
MAX_VALUES = 16_384  # of match and has_id together

RANGED: tuple[FieldKind, ...] = ("integer", "float", "datetime")
BOUNDS = ("gt", "gte", "lt", "lte")
KINDS = ("match", "range", "exists", "has_id", "nested")
CLAUSES = ("must", "should", "must_not")

_WHOLE = re.compile(r"[+-]?[0-9]{1,19}")


@dataclass(frozen=True)
class Match:
    """One of the field's values is in ``values``, or with ``excluded`` one is not."""

    field: str
    values: tuple[FieldValue, ...]
    excluded: bool = False


@dataclass(frozen=True)
class Range:
    """One of the field's values lies within all bounds that are not None."""

    field: str
    gt: FieldValue | None = None
    gte: FieldValue | None = None
    lt: FieldValue | None = None
    lte: FieldValue | None = None


@dataclass(frozen=True)
class Exists:
    """The document has a value of the field, or with ``exists`` False none."""

    field: str
    exists: bool = True


@dataclass(frozen=True)
class HasId:
    """The document's id is one of ``ids``."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class Filter:
    """Conditions that documents meet; without any, every document does.

    Equal filters of :meth:`resolve` are the same key, however their conditions were ordered.
    """

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.must, self.should, self.must_not))

    def __bool__(self) -> bool:
        return bool(self.must or self.should or self.must_not)

    def __getstate__(self) -> dict[str, Any]:
        # Hashes of strings differ between processes.
        return {name: getattr(self, name) for name in CLAUSES}

    @classmethod
    def parse(cls, value: object, path: str = "filter") -> Self:
        """Return the filter of a JSON object.

        Args:
            value: The object, in plain Python values.
            path: Names it in errors.

        Raises:
            InputError: an unknown key, a value of another type, or filters too deep.
        """
        return _parse_filter(cls, value, path, 1)

    def resolve(self, fields: Fields) -> Self:
        """Return the filter in the one form of all that differ in order and notation alone.

        Args:
            fields: Declared fields of the index.

        Raises:
            InputError: a field that is not declared, a value of another type, or too many
                conditions or values.
        """
        conditions = list(self._conditions("filter", 1))
        if len(conditions) > MAX_CONDITIONS:
            raise InputError(
                f"filter: {len(conditions)} conditions are too many; at most {MAX_CONDITIONS} are "
                "allowed; match several values by one condition"
            )
        values = sum(
            len(one.values) if isinstance(one, Match) else len(one.ids)
            for one in conditions
            if isinstance(one, Match | HasId)
        )
        if values > MAX_VALUES:
            raise InputError(
                f"filter: {values} values are too many; at most {MAX_VALUES} are allowed; declare "
                "a field that tells these documents apart"
            )
        return self._resolved(fields)

    def _resolved(self, fields: Fields) -> Self:
        clauses = (getattr(self, clause) for clause in CLAUSES)
        return type(self)(
            *(_ordered(_resolve(one, fields) for one in conditions) for conditions in clauses)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that :meth:`parse` takes; integers beyond 2^53 are strings."""
        return {
            clause: [_condition_json(one) for one in conditions]
            for clause in CLAUSES
            if (conditions := getattr(self, clause))
        }

    def _conditions(self, path: str, depth: int) -> Iterator[Condition]:
        """Yield all conditions, nested ones included."""
        _check_depth(path, depth)
        for clause in CLAUSES:
            for number, one in enumerate(getattr(self, clause)):
                yield one
                if isinstance(one, Filter):
                    yield from one._conditions(f"{path}.{clause}[{number}].nested", depth + 1)


Condition = Match | Range | Exists | HasId | Filter


def _parse_filter(cls: type[T], value: object, path: str, depth: int) -> T:
    _check_depth(path, depth)
    clauses = _object(value, path, CLAUSES)
    parsed = {}
    for clause, conditions in clauses.items():
        if not isinstance(conditions, list | tuple):
            raise InputError(
                f"{path}.{clause}: {conditions!r:.60} is not a list; a list of conditions is needed"
            )
        parsed[clause] = tuple(
            _parse_condition(one, f"{path}.{clause}[{number}]", depth)
            for number, one in enumerate(conditions)
        )
    return cls(**parsed)


def _parse_condition(value: object, path: str, depth: int) -> Condition:
    content = _object(value, path, ("field", *KINDS))
    kinds = [kind for kind in KINDS if kind in content]
    if len(kinds) != 1:
        raise InputError(
            f"{path}: has {', '.join(kinds) or 'no condition'}; exactly one of {', '.join(KINDS)} "
            "is needed"
        )
    (kind,) = kinds
    asked = content[kind]
    place = f"{path}.{kind}"
    if kind in ("has_id", "nested"):
        if "field" in content:
            raise InputError(f"{path}.field: {content['field']!r:.60} goes without {kind}")
        if kind == "nested":
            return _parse_filter(Filter, asked, place, depth + 1)
        ids = _list(asked, place)
        for number, id in enumerate(ids):
            if not isinstance(id, str):
                raise InputError(f"{place}[{number}]: {id!r:.60} is not a string; ids are strings")
        return HasId(tuple(ids))
    field = content.get("field")
    if not isinstance(field, str) or not field:
        raise InputError(f"{path}.field: {field!r:.60} is not a name; {kind} needs a field's name")
    if kind == "exists":
        if not isinstance(asked, bool):
            raise InputError(f"{place}: {asked!r:.60} is not true or false")
        return Exists(field, asked)
    if kind == "range":
        bounds = _object(asked, place, BOUNDS)
        if not bounds:
            raise InputError(f"{place}: has no bound; one or more of {', '.join(BOUNDS)} needed")
        parsed = {name: _scalar(one, f"{place}.{name}") for name, one in bounds.items()}
        return Range(field, **parsed)
    sets = _object(asked, place, ("any", "except"))
    if len(sets) != 1:
        found = ", ".join(sets) or "nothing"
        raise InputError(f"{place}: has {found}; exactly one of any, except is needed")
    ((name, values),) = sets.items()
    place = f"{place}.{name}"
    return Match(
        field,
        tuple(_scalar(one, f"{place}[{i}]") for i, one in enumerate(_list(values, place))),
        name == "except",
    )


def _check_depth(path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InputError(
            f"{path}: {depth} filters inside each other are too many; at most {MAX_DEPTH} are "
            "allowed; flatten it"
        )


def _object(value: object, path: str, allowed: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(
            f"{path}: {value!r:.60} is not an object; an object with {', '.join(allowed)} is needed"
        )
    for name in value:
        if name not in allowed:
            raise InputError(
                f"{path}: key {name!r:.60} is unknown; allowed are {', '.join(allowed)}"
            )
    return value


def _list(value: object, path: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{path}: {value!r:.60} is not a list of values; at least one is needed")
    return value


def _scalar(value: object, path: str) -> FieldValue:
    if not isinstance(value, str | bool | int | float):
        raise InputError(f"{path}: {value!r:.60} is not a string, a number, true or false")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path}: {value!r} is not finite")
    return value


def _resolve(condition: Condition, fields: Fields) -> Condition:
    if isinstance(condition, Filter):
        return condition._resolved(fields)
    if isinstance(condition, HasId):
        return HasId(tuple(sorted(set(condition.ids))))
    name = condition.field
    if (kind := fields.get(name)) is None:
        raise InputError(
            f"filter: field {name!r:.60} is not declared; declared are "
            f"{', '.join(fields) or 'none'}; declare it with `csplade index declare DIR "
            f"{name:.60}:TYPE`"
        )
    if isinstance(condition, Match):
        values = {_typed(name, kind, value) for value in condition.values}
        return Match(name, tuple(sorted(values)), condition.excluded)
    if isinstance(condition, Range):
        if kind not in RANGED:
            raise InputError(
                f"filter: field {name} is {kind}, which has no range; ranges are of "
                f"{', '.join(RANGED)}; use match"
            )
        bounds = {bound: getattr(condition, bound) for bound in BOUNDS}
        return Range(
            name,
            **{
                bound: None if value is None else _typed(name, kind, value)
                for bound, value in bounds.items()
            },
        )
    return condition


def _typed(name: str, kind: FieldKind, value: FieldValue) -> Any:
    # Not every reader of JSON keeps whole numbers of 64 bits exactly, so they may be strings.
    if kind == "integer" and isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    found = canonical(kind, value)
    if found is None:
        raise InputError(
            f"filter: field {name}: {value!r:.60} is not {kind}; allowed is {describe(kind)}"
        )
    return found


def _ordered(conditions: Iterator[Condition]) -> tuple[Condition, ...]:
    return tuple(sorted(dict.fromkeys(conditions), key=repr))


def _condition_json(condition: Condition) -> dict[str, Any]:
    match condition:
        case Filter():
            return {"nested": condition.to_json()}
        case HasId(ids):
            return {"has_id": list(ids)}
        case Exists(field, exists):
            return {"field": field, "exists": exists}
        case Match(field, values, excluded):
            plain = [_exact(one) for one in values]
            return {"field": field, "match": {"except" if excluded else "any": plain}}
        case Range(field):
            bounds = {name: getattr(condition, name) for name in BOUNDS}
            return {
                "field": field,
                "range": {name: _exact(one) for name, one in bounds.items() if one is not None},
            }


def _exact(value: FieldValue) -> FieldValue:
    """Return a value that every reader of JSON keeps as it is."""
    return str(value) if isinstance(value, int) and abs(value) > EXACT_FLOAT else value
