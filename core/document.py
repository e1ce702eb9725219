"""The document: what a user stores and gets back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Document:
    """What a user stores and gets back; ``id`` is unique in an index, ``metadata`` any JSON object."""

    id: str
    text: str
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
