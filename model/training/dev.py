"""Watch judged queries while training: nDCG@10 of dev splits, early stopping, best weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from .data import Collection
from .output import digest

BEST_FILE = "best.safetensors"

Encode = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class DevSplit:
    """A sample of a collection's judged queries and passages, with all relevant ones.

    Attributes:
        name: of the collection.
        queries: texts.
        passages: texts.
        relevant: bool [queries, passages].
    """

    name: str
    queries: list[str]
    passages: list[str]
    relevant: NDArray[np.bool_]

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        split: str = "dev",
        queries: int = 100,
        passages: int = 400,
        seed: int = 0,
    ) -> DevSplit:
        """Draw a sample by ``seed``; raises as :meth:`Collection.load`."""
        collection = Collection.load(directory, split)
        random = np.random.default_rng(seed)
        asked = random.permutation(list(collection.positives))[:queries].tolist()
        needed = {passage for query in asked for passage in collection.positives[query]}
        others = [
            passage
            for passage in random.permutation(list(collection.passages))
            if passage not in needed
        ]
        pool = sorted(needed) + others[: max(0, passages - len(needed))]
        place = {passage: column for column, passage in enumerate(pool)}
        relevant = np.zeros((len(asked), len(pool)), dtype=np.bool_)
        for row, query in enumerate(asked):
            relevant[row, [place[passage] for passage in collection.positives[query]]] = True
        return cls(
            collection.name,
            [collection.queries[query] for query in asked],
            [collection.passages[passage] for passage in pool],
            relevant,
        )

    def digest(self) -> str:
        """Return a hash of the sample."""
        return digest([self.name, *self.queries, *self.passages, self.relevant.tobytes().hex()])

    def ndcg(self, scores: NDArray[np.float32]) -> float:
        """Return the mean nDCG@10 of scores [queries, passages].

        Every relevant passage has gain 1; of equal scores the earlier passage ranks first.
        """
        order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        found = np.take_along_axis(self.relevant & (scores > 0), order, axis=1)
        discounts = 1 / np.log2(np.arange(2, 12))[: found.shape[1]]
        best = np.arange(found.shape[1]) < self.relevant.sum(1, keepdims=True)
        return float(((found @ discounts) / (best @ discounts)).mean())


class WatchDev(TrainerCallback):
    """Evaluates while training, keeps the best weights and stops when they get no better.

    Args:
        splits: what to watch.
        queries, passages: encode texts to vectors [n, d].
        network: whose trained parameters are kept.
        every: steps between evaluations.
        patience: evaluations without a better one before it stops; None never stops.
    """

    def __init__(
        self,
        splits: Sequence[DevSplit],
        queries: Encode,
        passages: Encode,
        network: torch.nn.Module,
        every: int,
        patience: int | None,
    ) -> None:
        self.splits, self.queries, self.passages = splits, queries, passages
        self.network, self.every, self.patience = network, every, patience

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Evaluate every ``every`` steps.

        The log is the only state, so a resumed run continues as it would have.
        """
        if state.global_step % self.every and state.global_step != state.max_steps:
            return control
        with torch.inference_mode():
            found = {
                f"dev_{split.name}": split.ndcg(
                    (self.queries(split.queries) @ self.passages(split.passages).T)
                    .float()
                    .cpu()
                    .numpy()
                )
                for split in self.splits
            }
        mean = float(np.mean(list(found.values())))
        earlier = [entry["dev"] for entry in state.log_history if "dev" in entry]
        state.log_history.append({"step": state.global_step, "dev": mean, **found})
        if mean > max(earlier, default=-1.0):
            trained = {
                n: p.detach().contiguous()
                for n, p in self.network.named_parameters()
                if p.requires_grad
            }
            save_file(trained, Path(args.output_dir) / BEST_FILE)
        since_best = len(earlier) - int(np.argmax([*earlier, mean])) if earlier else 0
        if self.patience is not None and since_best >= self.patience:
            control.should_training_stop = True
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Load the best weights."""
        best = Path(args.output_dir) / BEST_FILE
        if best.is_file():
            self.network.load_state_dict(load_file(best), strict=False)
