"""Dataclasses from JSON: every value is of its declared type."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from csplade.core.errors import MAX_CHARACTERS, InputError
from csplade.core.typed import load


@dataclass(frozen=True)
class Example:
    count: int
    share: float = 0.5
    name: str | None = None
    kind: Literal["one", "two"] = "one"
    flag: bool = False
    numbers: tuple[int, ...] = ()
    words: list[str] = field(default_factory=list)
    table: dict[str, float] = field(default_factory=dict)
    rest: Any = None


def test_values_of_their_types_are_taken():
    values = {
        "count": 3, "share": 1, "name": "x", "kind": "two", "flag": True, "numbers": [1, 2],
        "words": ["a"], "table": {"a": 1, "b": 0.5}, "rest": [None],
    }  # fmt: skip
    assert load(Example, values) == Example(**values | {"numbers": (1, 2)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", 1.0), ("count", True), ("count", "1"), ("count", None), ("share", "1"),
        ("share", False), ("name", 1), ("kind", "three"), ("kind", ["one"]), ("flag", 1),
        ("numbers", [1, "2"]), ("numbers", [True]), ("numbers", 1), ("words", "a"),
        ("words", [1]), ("table", {"a": "1"}), ("table", [1]), ("unknown", 1),
    ],
)  # fmt: skip
def test_others_are_rejected_by_name(name, value):
    with pytest.raises(TypeError, match=name):
        load(Example, {"count": 1, name: value})


@pytest.mark.parametrize("content", [None, [], "x", {}])
def test_what_is_no_whole_object_is_rejected(content):
    with pytest.raises(TypeError):
        load(Example, content)


def test_the_text_of_an_error_is_one_line_of_bounded_length():
    assert str(InputError("one\ntwo   three")) == "one two three"
    assert len(str(InputError("x" * 10_000))) == MAX_CHARACTERS
