"""Floor 2: text in, sparse vectors out."""

import os

# OpenMP's threads would else wait in a busy loop, on the very core that another process needs: with
# one busy neighbour on two cores encoding takes twice as long. Read when torch is loaded, so
# whoever loads it before keeps their own setting.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from ..core.vectors import SparseBatch
from .checkpoint.manifest import Golden, Manifest
from .encoder import Encoded, Encoder
from .tokens import Tokens

__all__ = ["Encoded", "Encoder", "Golden", "Manifest", "SparseBatch", "Tokens"]
