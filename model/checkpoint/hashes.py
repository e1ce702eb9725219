"""Hashes of what a model's files say, for its manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ...core.files import file_sha256
from .layout import Checkpoint
from .manifest import Manifest


def weights_hash(directory: Path, manifest: Manifest) -> str:
    """Return the SHA-256 over names and contents of a model's weight files and its base's source."""
    digest = hashlib.sha256(json.dumps(manifest.base, sort_keys=True).encode())
    for path in sorted(directory.glob("*.safetensors")):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def foreign_weights_hash(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 over names and contents of a foreign checkpoint's weight files, its base's
    included.
    """
    digest = hashlib.sha256()
    for path in checkpoint.weight_files():
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
