"""The sparse encoder: text in, sparse vectors out."""

import os

# OpenMP's threads would else wait in a busy loop, on the very core that another process needs: with
# one busy neighbor on two cores encoding takes twice as long. torch reads this when it is loaded,
# so a program that loads torch first keeps its own setting.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from ..core.machine import cores

# OpenMP counts the machine's cores and does not know the CPU quota of a container.
if cores() < len(os.sched_getaffinity(0)):
    os.environ.setdefault("OMP_NUM_THREADS", str(cores()))

from ..core.vectors import SparseBatch
from .checkpoint.manifest import Golden, Manifest
from .encoder import Encoder
from .tokens import Encoded, Tokens

__all__ = ["Encoded", "Encoder", "Golden", "Manifest", "SparseBatch", "Tokens"]
