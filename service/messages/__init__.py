"""The messages of ``csplade.v1``, checked on their way in and made on their way out."""
