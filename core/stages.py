"""The stages of a request, in the order in which they happen; durations are nanoseconds."""

from __future__ import annotations

STAGES = ("queue", "tokenize", "encode", "sparsify", "score", "select", "merge", "fetch")
