"""Thresholds that decide where work runs, each with its unit.

Handing work to another thread or process costs up to half a millisecond, so work that takes less
stays where it is. Python that runs in another thread keeps the event loop waiting for up to 5 ms
(``sys.getswitchinterval``), so that a thread gains nothing where less is done.
"""

from __future__ import annotations

INLINE_HITS = 1_000
"""Hits of answers without documents that stay in the thread that ranked them; more go to a pool."""

INLINE_DOCUMENTS = 100
"""Hits with documents of an answer whose message the event loop makes itself."""

INLINE_QUERIES = 64
"""Queries of a batch whose messages the event loop checks itself; more go to a thread."""

INLINE_POSTINGS = 8_000_000
"""Postings of an index whose searches the event loop may run itself, all read in some 8 ms."""

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

DOCUMENT_SHARE = 0.25
"""Share of the encode queue that documents to write may take, so that queries find room."""

ENCODED_TOGETHER = 64
"""Documents of a write that are encoded before they are committed, so that progress is kept."""

DELETED_TOGETHER = 1000
"""Documents of a filter that are deleted at once."""

OVERLOADED_SECONDS = 1.0
"""Seconds after which a write is to be retried where too many texts wait for the encoder."""

WRITE_THREADS = 16
"""Calls of the index's writer at once; it commits together what they bring."""

GENERATION_WAIT = (5.0, 0.8)
"""Seconds, and share of the time until its deadline, that a search waits for a generation."""
