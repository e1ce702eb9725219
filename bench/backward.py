"""Measure what the head costs in training: time and memory of a forward and backward pass.

Each variant runs in a process of its own, so that the peak of its resident memory is its own:
this project's head, the naive head (every logit, the activation of all of them, autograd's
gradient through the maximum), and the tensors alone, whose memory is the baseline.
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

VARIANTS = ("tensors", "csplade", "naive")


@dataclass(frozen=True)
class BatchShape:
    """The sizes of a training batch.

    Attributes:
        texts: number of texts.
        tokens: tokens of each text.
        hidden: hidden size.
        vocabulary: number of terms.
    """

    texts: int
    tokens: int
    hidden: int
    vocabulary: int


@dataclass(frozen=True)
class TrainingStep:
    """The cost of a training step through one head.

    Attributes:
        name: of the head.
        seconds: median time.
        megabytes: peak memory above the tensors' own, in 10^6 bytes.
    """

    name: str
    seconds: float
    megabytes: float


def compare_heads(shape: BatchShape, *, rounds: int = 3, seed: int = 0) -> list[TrainingStep]:
    """Measure a training step through this project's head and through the naive one.

    Raises:
        UnavailableError: a process failed, most likely out of memory.
    """
    found = {}
    for variant in VARIANTS:
        command = [
            sys.executable,
            "-m",
            __name__,
            json.dumps({"variant": variant, "rounds": rounds, "seed": seed, **asdict(shape)}),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UnavailableError(
                f"the {variant} head failed with exit code {done.returncode}; choose fewer texts "
                f"or tokens: {done.stderr[-200:]!r}"
            )
        found[variant] = json.loads(done.stdout)
    return [
        TrainingStep(
            variant,
            found[variant]["seconds"],
            found[variant]["megabytes"] - found["tensors"]["megabytes"],
        )
        for variant in VARIANTS[1:]
    ]


def _measure(variant: str, rounds: int, seed: int, shape: BatchShape) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(
        shape.texts * shape.tokens, shape.hidden, generator=generator, dtype=torch.bfloat16
    )
    weight = torch.randn(shape.vocabulary, shape.hidden, generator=generator, dtype=torch.bfloat16)
    hidden.requires_grad_(True)
    offsets = torch.arange(shape.texts + 1) * shape.tokens
    gradient = torch.randn(shape.texts, shape.vocabulary, generator=generator)
    times = []
    for _ in range(rounds if variant != "tensors" else 0):
        hidden.grad = None
        started = time.perf_counter()
        # This shift leaves some 200 active terms per text, as in a trained model.
        pooled = (head if variant == "csplade" else head_reference)(
            hidden, weight, offsets, scale=0.2, shift=-0.2 * 4.0 * shape.hidden**0.5
        )
        pooled.backward(gradient)
        times.append(time.perf_counter() - started)
    return {"seconds": float(np.median(times)) if times else 0.0, "megabytes": peak_bytes() / 1e6}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    variant, rounds, seed = given.pop("variant"), given.pop("rounds"), given.pop("seed")
    print(json.dumps(_measure(variant, rounds, seed, BatchShape(**given))))
