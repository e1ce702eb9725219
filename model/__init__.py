"""Floor 2: text in, sparse vectors out."""

from ..kernels.sparse import SparseBatch
from .encoder import Encoded, Encoder
from .manifest import Golden, Manifest
from .tokens import Tokens

__all__ = ["Encoded", "Encoder", "Golden", "Manifest", "SparseBatch", "Tokens"]
