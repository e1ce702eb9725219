"""Thresholds that decide where work runs, each with its unit.

Handing work to another thread or process costs about half a millisecond or more, so work that takes
less stays where it is.
"""

from __future__ import annotations

INLINE_HITS = 100
"""Hits of an answer that is completed by the thread that ranked it; more go to a pool."""

INLINE_QUERIES = 16
"""Queries of a batch whose messages are read and made on the event loop; more go to a thread."""

INLINE_POSTINGS = 1_000_000
"""Postings of an index whose searches the event loop may run itself."""

INLINE_TEXT = 500
"""Characters of a query text that the event loop may look up itself."""

INLINE_SECONDS = 0.002
"""Seconds per task, smoothed, up to which the event loop runs tasks itself."""

RETRY_SECONDS = (0.01, 10.0)
"""Bounds in seconds of the time after which a rejected caller is told to retry."""

URGENT_BATCHES = 8
"""Urgent batches that may run one after the other while other tasks are queued."""

LOOKUP_TEXT = 4_000
"""Characters of a text whose look-up runs beside searches; longer texts go to the encode worker."""
