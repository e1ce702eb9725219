"""What all phases of training share: a trainable model, a Trainer, a schedule."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import ProgressCallback, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ...core.errors import CspladeError, InputError
from ...core.files import write_aside
from ..checkpoint.files import TABLE_FILE
from ..checkpoint.head import Head, load_head, save_head
from ..checkpoint.layout import find
from ..checkpoint.load import build_network, load_causal_lm
from ..checkpoint.manifest import Manifest
from ..checkpoint.positions import positions
from ..checkpoint.presets import measured
from ..checkpoint.tokenizer import TOKENIZER_FILES, load_tokenizer
from ..lexical import load_table
from ..network import SparseNetwork
from ..quantization import default_dtype
from .output import Output

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TRAINED_FILE = "trained.safetensors"
LOG_FILE = "log.csv"
EMPTY_BATCHES = 20
PER_TERM = ("bias", "query_weights")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast a phase learns.

    Attributes:
        steps: optimizer steps.
        rate: peak learning rate; cosine, 5 % warm-up.
        batch: rows, texts or queries per step.
        rank: LoRA rank.
        seed: of sampling and initialization.
        device: ``cpu`` or ``cuda``.
        accumulate: batches per optimizer step.
        gradient_checkpointing: compute activations again in the backward pass, for less memory.
        save_every: steps between checkpoints.
        evaluate_every: steps between looks at the dev splits.
        patience: looks without a better one before training stops; None never stops it.
    """

    steps: int
    rate: float
    batch: int
    rank: int = 64
    seed: int = 0
    device: str = "cpu"
    accumulate: int = 1
    gradient_checkpointing: bool = False
    save_every: int = 200
    evaluate_every: int = 100
    patience: int | None = None


@dataclass(frozen=True)
class Trainable:
    """A model directory opened for training.

    LoRA layers (new, or those of its adapter) and the head bias can move.

    Attributes:
        network: what runs.
        adapted: the causal LM with its LoRA layers; its body is the network's.
        manifest: of the model.
        head: as read; its bias is where the network's began.
        directory: the model.
    """

    network: SparseNetwork
    adapted: PeftModel
    manifest: Manifest
    head: Head
    directory: Path

    @classmethod
    def load(cls, model: Path, schedule: Schedule) -> Trainable:
        """Read a model directory.

        Raises:
            InputError: the directory's adapter has another rank.
        """
        manifest = Manifest.load(model)
        torch.manual_seed(schedule.seed)
        causal_lm = load_causal_lm(
            find(model, manifest).weights, manifest.layers, default_dtype(schedule.device)
        )
        if (model / "adapter_config.json").is_file():
            adapted = PeftModel.from_pretrained(causal_lm, str(model), is_trainable=True)
            found = cast(LoraConfig, adapted.peft_config["default"]).r
            if found != schedule.rank:
                raise InputError(
                    f"{model}: its adapter has rank {found}, asked for {schedule.rank}; give "
                    f"--rank {found}"
                )
        else:
            config = LoraConfig(
                r=schedule.rank,
                lora_alpha=2 * schedule.rank,
                target_modules=LORA_TARGETS,
                task_type="FEATURE_EXTRACTION",
            )
            adapted = get_peft_model(causal_lm, config)
        head = load_head(model, manifest.vocabulary_size)
        network = build_network(adapted.get_base_model(), manifest, head)
        network.bias.requires_grad_(True)
        if manifest.query_encoder == "lexical":
            table = load_table(find(model, manifest), manifest, load_tokenizer(model, manifest))
            network.query_weights = torch.nn.Parameter(torch.from_numpy(table.weights[head.terms]))
        if schedule.gradient_checkpointing:
            cast(Any, network.body).gradient_checkpointing_enable({"use_reentrant": False})
        return cls(network.to(schedule.device), adapted, manifest, head, model)

    def save(self, output: Output) -> None:
        """Write the model directory: adapter in bfloat16, head, manifest."""
        if self.manifest.base:  # found by its name and hash, not by where it lay on this machine
            self.adapted.peft_config["default"].base_model_name_or_path = self.manifest.base["name"]
        with output.write() as aside:
            # Left to itself PEFT asks the hub whether the vocabulary was changed; it never is.
            self.adapted.save_pretrained(str(aside), save_embedding_layers=False)
            (aside / "README.md").unlink(missing_ok=True)
            adapter = load_file(aside / "adapter_model.safetensors")
            save_file(
                {name: tensor.to(torch.bfloat16) for name, tensor in adapter.items()},
                aside / "adapter_model.safetensors",
            )
            save_head(
                aside, replace(self.head, bias=self.network.bias.detach().float().cpu().numpy())
            )
            if self.network.query_weights is not None:
                weights = torch.zeros(self.manifest.vocabulary_size)
                weights[torch.from_numpy(self.head.terms).long()] = (
                    torch.relu(self.network.query_weights.detach()).float().cpu()
                )
                save_file({"weight": weights}, aside / TABLE_FILE)
            for name in TOKENIZER_FILES:
                if (self.directory / name).is_file():
                    shutil.copyfile(self.directory / name, aside / name)
            manifest = replace(self.manifest, golden=())
            measured(manifest, find(aside, manifest)).save(aside)


class TrainingError(CspladeError):
    """Training that cannot come to anything: it collapsed or blew up."""


class EncoderTrainer(Trainer):
    """A Trainer with small checkpoints, whose values per term learn faster than the body.

    Adam moves a parameter by about the learning rate per step; biases and query weights live on the
    scale of raw logits (tens), LoRA factors on that of weights (hundredths), hence ``bias_factor``.
    """

    bias_factor = 30.0
    empty_batches = 0
    model: Any

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Make an AdamW with the values per term in their own group."""
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        bias = [p for n, p in trained if n in PER_TERM]
        body = [p for n, p in trained if n not in PER_TERM]
        rate = self.args.learning_rate
        self.optimizer = torch.optim.AdamW(
            [{"params": body, "lr": rate}, {"params": bias, "lr": rate * self.bias_factor}],
            weight_decay=0.0,
        )
        return self.optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run a step.

        Raises:
            TrainingError: the loss is not finite.
        """
        loss = super().training_step(*args, **kwargs)
        if not bool(torch.isfinite(loss)):
            self.stop(f"the loss is {loss.item()}: training blew up")
        return loss

    def stop(self, what: str) -> NoReturn:
        """Raise TrainingError with the step and the remedy."""
        raise TrainingError(
            f"step {self.state.global_step}: {what}; start again with a lower --rate and another "
            f"--out ({self.args.output_dir} keeps the log and the last checkpoints)"
        )

    def watch_activity(self, active: Tensor) -> None:
        """Note the weights of a batch, [n, Vk], and stop when they have all been 0 for long.

        A weight of 0 has no gradient, so a model whose vectors are all empty stays as it is.

        Raises:
            TrainingError: every vector was empty for ``EMPTY_BATCHES`` batches.
        """
        self.empty_batches = 0 if bool((active > 0).any()) else self.empty_batches + 1
        if self.empty_batches >= EMPTY_BATCHES:
            self.stop(
                "every vector is empty: the model collapsed, and an empty vector learns nothing"
            )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and write the history as CSV rows (step, name, value) beside the checkpoints."""
        super().log(logs, *args, **kwargs)
        work = Path(self.args.output_dir or ".")
        work.mkdir(parents=True, exist_ok=True)
        with write_aside(work / LOG_FILE) as file:
            file.write("step,name,value\n")
            for entry in self.state.log_history:
                for name, value in entry.items():
                    if name not in ("step", "epoch"):
                        file.write(f"{entry['step']},{name},{value}\n")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        directory = Path(output_dir or self.args.output_dir or ".")
        directory.mkdir(parents=True, exist_ok=True)
        trained = {
            n: p.detach().contiguous() for n, p in self.model.named_parameters() if p.requires_grad
        }
        save_file(trained, directory / TRAINED_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        missing = self.model.load_state_dict(
            load_file(Path(resume_from_checkpoint) / TRAINED_FILE), strict=False
        )
        if missing.unexpected_keys:
            raise InputError(
                f"{resume_from_checkpoint}: is of another model ({missing.unexpected_keys[0]})"
            )


def arguments(output: Output, schedule: Schedule, **more: Any) -> TrainingArguments:
    """Return the settings of a phase; bfloat16 autocast, checkpoints in ``OUT.work``."""
    return TrainingArguments(
        output_dir=str(output.work),
        max_steps=schedule.steps,
        learning_rate=schedule.rate,
        warmup_steps=max(1, schedule.steps // 20),
        lr_scheduler_type="cosine",
        max_grad_norm=1.0,
        bf16=default_dtype(schedule.device) is torch.bfloat16,
        use_cpu=schedule.device == "cpu",
        save_steps=schedule.save_every,
        gradient_accumulation_steps=schedule.accumulate,
        save_total_limit=2,
        logging_steps=10,
        disable_tqdm=False,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        report_to=[],
        seed=schedule.seed,
        **more,
    )


class _Bar(ProgressCallback):
    """Shows what was logged last behind its bar: standard output is for results."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.training_bar is not None:
            self.training_bar.set_postfix(
                {name: f"{value:.3g}" for name, value in list(logs.items())[:4]}
            )


def check_length(length: int, trainable: Trainable) -> None:
    """Raise InputError where rows are longer than the model has positions for."""
    most = positions(cast(Any, trainable.network.body).config.to_dict())
    wanted = length * (2 if trainable.manifest.variant == "echo" else 1)
    if most and wanted > most:
        raise InputError(
            f"length: {length} needs {wanted:,} positions, the model has {most:,}; give a smaller "
            "--length"
        )


def run(trainer: Trainer, output: Output) -> None:
    """Train, from the last checkpoint if there is one."""
    output.open_work()
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_Bar())
    trainer.train(resume_from_checkpoint=get_last_checkpoint(trainer.args.output_dir))
