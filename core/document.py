"""The document that a user stores and gets back."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import InputError

TextKind = Literal["query", "document"]
"""The side of a search that a text is encoded for."""

_NOT_IN_IDS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Document:
    """A document; ``id`` is unique in an index, ``metadata`` is any JSON object."""

    id: str
    text: str
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def full_text(self) -> str:
        """What is encoded: title and text with a space between, empty parts left out."""
        return " ".join(part for part in (self.title, self.text) if part)


def parse_id(value: object, what: str = "id") -> str:
    """Return an id of a document or query as a string; an integer counts as its decimal digits.

    Args:
        value: as it stands in a JSON object or another source.
        what: names it in errors.

    Raises:
        InputError: the value is neither a string nor an integer, or is empty, or has white space or
            a control character, which a line of a TREC run cannot hold.
    """
    if type(value) is int:
        return str(value)
    if not isinstance(value, str) or not value:
        raise InputError(f"{what}: {value!r:.60} must be a string that is not empty, or an integer")
    if _NOT_IN_IDS.search(value):
        raise InputError(
            f"{what}: {value!r:.60} has white space or a control character, which a TREC run "
            "cannot hold; replace it, for example by '_'"
        )
    return value
