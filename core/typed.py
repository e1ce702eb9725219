"""Dataclasses from JSON of which nothing is known: each value is of its declared type, or an error.

Type annotations alone check nothing, and a file may come from a stranger.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def load(cls: type[T], content: Mapping[str, Any]) -> T:
    """Return a dataclass of these fields, each of its declared type.

    Integers stand for floats as well; lists stand for tuples, which they become.

    Raises:
        TypeError: ``content`` is not a mapping; a field is missing, unknown or of another type.
    """
    if not isinstance(content, Mapping):
        raise TypeError(f"{cls.__name__} is {type(content).__name__}, must be an object")
    hints = _hints(cls)  # type: ignore[arg-type]
    values = {}
    for name, value in content.items():
        if name not in hints:
            raise TypeError(f"{name!r:.80} is not a field of {cls.__name__}")
        if not _fits(value, hints[name]):
            raise TypeError(f"{name} is {value!r:.80}, which is not {_named(hints[name])}")
        values[name] = tuple(value) if get_origin(hints[name]) is tuple else value
    return cls(**values)


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return get_type_hints(cls)


def _fits(value: Any, wanted: Any) -> bool:
    origin, arguments = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return True
    if origin is UnionType:
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple:
        return isinstance(value, list | tuple) and _all_fit(value, arguments[0])
    if origin is list:
        return isinstance(value, list) and _all_fit(value, arguments[0])
    if origin is dict:
        keys, values = arguments
        return (
            isinstance(value, dict)
            and _all_fit(value.keys(), keys)
            and _all_fit(value.values(), values)
        )
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, int | float if wanted is float else wanted)


def _all_fit(values: Collection[Any], wanted: Any) -> bool:
    # A vocabulary has a quarter of a million strings: types are compared together first.
    return set(map(type, values)) <= {wanted} or all(_fits(one, wanted) for one in values)


def _named(wanted: Any) -> str:
    return wanted.__name__ if isinstance(wanted, type) else str(wanted)
