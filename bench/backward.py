"""What the head costs in training: time and memory of forward and backward, beside the head that
holds every logit.

Each way runs in a process of its own, so that the peak of its resident memory is its own. Three
ways: this project's head, the naive one (every logit, activation of all of them, autograd's
gradient through the maximum), and the tensors alone, whose memory is what is there without any
head.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

from ..core.errors import UnavailableError
from ..core.machine import peak_bytes
from ..kernels.head.api import head
from ..kernels.head.reference import head_reference

WAYS = ("tensors", "csplade", "naive")


@dataclass(frozen=True)
class Shape:
    """``texts`` of ``tokens`` tokens, hidden size and vocabulary."""

    texts: int
    tokens: int
    hidden: int
    vocabulary: int


@dataclass(frozen=True)
class Step:
    """One way: median seconds of a step, and the megabytes (10^6 bytes) it took above the tensors."""

    name: str
    seconds: float
    megabytes: float


def run(shape: Shape, *, rounds: int = 3, seed: int = 0) -> list[Step]:
    """Measure the naive head and this project's.

    Raises:
        UnavailableError: a process was killed, most likely for want of memory.
    """
    found = {}
    for way in WAYS:
        command = [
            sys.executable,
            "-m",
            __name__,
            json.dumps({"way": way, "rounds": rounds, "seed": seed, **asdict(shape)}),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UnavailableError(
                f"the {way} head did not finish (exit {done.returncode}); choose fewer texts or "
                f"tokens: {done.stderr[-200:]!r}"
            )
        found[way] = json.loads(done.stdout)
    return [
        Step(way, found[way]["seconds"], found[way]["megabytes"] - found["tensors"]["megabytes"])
        for way in WAYS[1:]
    ]


def _one(way: str, rounds: int, seed: int, shape: Shape) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(
        shape.texts * shape.tokens, shape.hidden, generator=generator, dtype=torch.bfloat16
    )
    weight = torch.randn(shape.vocabulary, shape.hidden, generator=generator, dtype=torch.bfloat16)
    hidden.requires_grad_(True)
    offsets = torch.arange(shape.texts + 1) * shape.tokens
    gradient = torch.randn(shape.texts, shape.vocabulary, generator=generator)
    times = []
    for _ in range(rounds if way != "tensors" else 0):
        hidden.grad = None
        started = time.perf_counter()
        # A shift that leaves some 200 terms of a text active, as in a trained model.
        pooled = (head if way == "csplade" else head_reference)(
            hidden, weight, offsets, scale=0.2, shift=-0.2 * 4.0 * shape.hidden**0.5
        )
        pooled.backward(gradient)
        times.append(time.perf_counter() - started)
    return {"seconds": float(np.median(times)) if times else 0.0, "megabytes": peak_bytes() / 1e6}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    way, rounds, seed = asked.pop("way"), asked.pop("rounds"), asked.pop("seed")
    print(json.dumps(_one(way, rounds, seed, Shape(**asked))))
