"""Queries that are looked up in a table are encoded in the ingress: a message takes far longer."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ...core.errors import CspladeError
from ...core.results import Cut, Encoding
from ...engine.backend import EncoderInfo
from ...engine.observer import Observer

if TYPE_CHECKING:
    from ...model import Encoder

log = logging.getLogger(__name__)


class LookUp:
    """The query side of an encoder whose queries need no network.

    Args:
        encoder: Never makes a document's vector, so it loads no network.
        observer: Receives durations and counts.
    """

    def __init__(self, encoder: Encoder, observer: Observer) -> None:
        self._encoder, self._observer = encoder, observer

    @classmethod
    def load(cls, info: EncoderInfo, observer: Observer) -> LookUp | None:
        """Load the query side of the encoder that replicas hold.

        Returns:
            None if a network makes its queries, or if the same encoder cannot be loaded here.
        """
        if info.query_encoder != "lexical":
            return None
        from ...model import Encoder

        try:
            encoder = Encoder.from_pretrained(info.name, device="cpu", query_encoder="lexical")
        except CspladeError as error:
            log.warning("queries go to the encoder's replicas, the ingress has no model: %s", error)
            return None
        if encoder.fingerprint != info.fingerprint:
            log.warning("queries go to the encoder's replicas, the ingress finds another model")
            return None
        return cls(encoder, observer)

    def encode(self, text: str) -> Encoding:
        """Return the vector of a query."""
        encoded = self._encoder.encode([text], "query")
        terms, weights = encoded.vectors.row(0)
        cut = Cut(int(encoded.dropped_tokens[0]), int(encoded.dropped_terms[0]))
        self._observer.stages(encoded.timings)
        self._observer.cut(cut)
        return Encoding(
            terms,  # type: ignore[arg-type]
            weights,  # type: ignore[arg-type]
            tokens_read=int(encoded.tokens[0]),
            cut=cut,
            timings=encoded.timings,
        )
