"""Query encodings, recorded by size, so that one launch replays a whole network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..kernels.runtime.graph import Recorder, Recording
from ..kernels.runtime.transfer import Download, Packed, pack, refill
from .tensors import EncodedTensors
from .tokens import Tokens

# Queries take the smallest recorded size that holds them. With more tokens in all, the products
# take longer than their launches.
BATCHES = (1, 2, 4, 8, 16, 32, 64)
LENGTHS = (16, 32, 64, 128)
MAX_TOKENS = 2048


@dataclass(frozen=True, order=True)
class TextSize:
    """What a recorded encoding holds at most.

    Attributes:
        texts: texts of the batch.
        tokens: tokens of each text.
    """

    texts: int
    tokens: int


def text_sizes(longest: int) -> list[TextSize]:
    """Return the sizes to record for texts of at most ``longest`` tokens."""
    lengths = [length for length in LENGTHS if length < longest]
    lengths += [min(longest, LENGTHS[-1])]
    return [
        TextSize(texts, tokens)
        for texts in BATCHES
        for tokens in lengths
        if texts * tokens <= MAX_TOKENS
    ]


class RecordedEncodings:
    """Encodings of queries recorded by size.

    Args:
        encode: Makes the vectors of ids int32 [n, S] and lengths int64 [n], without waiting for the
            device.
        further: Work on the vectors that is recorded with them; gives tensors to download too.
        device: That the network is on.
        recorder: Of that device.
    """

    def __init__(
        self,
        encode: Callable[[Tensor, Tensor], EncodedTensors],
        further: Callable[[EncodedTensors], tuple[Tensor, ...]],
        device: torch.device,
        recorder: Recorder,
    ) -> None:
        self._encode, self._further = encode, further
        self._device, self._recorder = device, recorder
        self._inputs: dict[TextSize, Tensor] = {}
        self._recordings: dict[TextSize, Recording[Packed]] = {}

    def record(self, sizes: Iterable[TextSize]) -> None:
        """Record encodings, the largest first, so that the others fit into its memory."""
        for size in sorted(set(sizes), reverse=True):
            # One row a text: its length, then its tokens.
            self._inputs[size] = torch.zeros(
                (size.texts, size.tokens + 1), dtype=torch.int32, device=self._device
            )
            self._recordings[size] = self._recorder.record(partial(self._answer, size))

    def _answer(self, size: TextSize) -> Packed:
        inputs = self._inputs[size]
        made = self._encode(inputs[:, 1:], inputs[:, 0].long())
        return pack(
            made.terms,
            made.weights,
            made.counts,
            made.positive,
            made.nonfinite,
            *self._further(made),
        )

    def size(self, tokens: Tokens) -> TextSize | None:
        """Return the recorded size that texts take; None where none holds them."""
        longest = int(tokens.lengths.max(initial=0))
        batch = min((texts for texts in BATCHES if texts >= len(tokens)), default=None)
        return min(
            (size for size in self._recordings if size.texts == batch and size.tokens >= longest),
            default=None,
        )

    def replay(self, size: TextSize, tokens: Tokens) -> Download:
        """Enqueue a recorded encoding of texts, and the download of what it makes.

        Downloaded are terms, weights, counts, positive and nonfinite as in
        :class:`.tensors.EncodedTensors`, then the tensors of the further work; rows beyond the
        texts are to be left out.
        """
        content = np.zeros((size.texts, size.tokens + 1), np.int32)
        for row, ids in zip(content, tokens.ids, strict=False):
            row[0], row[1 : len(ids) + 1] = len(ids), ids
        refill(self._inputs[size], content)
        recording = self._recordings[size]
        recording.replay()
        return recording.outputs.download()
