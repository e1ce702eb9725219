"""What both training phases share: the trainable network, a Trainer with small checkpoints, saving a model directory."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ...errors import InputError
from ..load import base_of, build_network, load_causal_lm, load_head, save_head, weights_hash
from ..manifest import Manifest
from ..network import SparseNetwork
from ..quantization import default_dtype

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TRAINED_FILE = "trained.safetensors"


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
    """

    steps: int
    rate: float
    batch: int
    rank: int = 64
    seed: int = 0
    device: str = "cpu"


def trainable_network(
    model: Path, manifest: Manifest, *, rank: int, device: str
) -> tuple[SparseNetwork, PeftModel]:
    """The network of a model directory with LoRA layers (new, or those of its adapter) and the head bias trainable.

    Raises:
        InputError: the directory's adapter has another rank.
    """
    causal_lm = load_causal_lm(base_of(model, manifest), manifest.layers, default_dtype(device))
    if (model / "adapter_config.json").is_file():
        adapted = PeftModel.from_pretrained(causal_lm, str(model), is_trainable=True)
        found = cast(LoraConfig, adapted.peft_config["default"]).r
        if found != rank:
            raise InputError(f"{model}: its adapter has rank {found}, asked for {rank}; give --rank {found}")
    else:
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS, task_type="FEATURE_EXTRACTION"
        )
        adapted = get_peft_model(causal_lm, config)
    network = build_network(adapted.get_base_model(), manifest, *load_head(model, manifest.vocabulary_size))
    network.bias.requires_grad_(True)
    return network.to(device), adapted


def save_model(out: Path, network: SparseNetwork, adapted: PeftModel, manifest: Manifest) -> None:
    """Write a model directory (adapter in bfloat16, head, manifest) whole or not at all; an older one is replaced."""
    if manifest.base:  # found by its name and hash, not by where it lay on this machine
        adapted.peft_config["default"].base_model_name_or_path = manifest.base["name"]
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    adapted.save_pretrained(str(aside))
    (aside / "README.md").unlink(missing_ok=True)
    adapter = load_file(aside / "adapter_model.safetensors")
    save_file(
        {name: tensor.to(torch.bfloat16) for name, tensor in adapter.items()},
        aside / "adapter_model.safetensors",
    )
    save_head(aside, network.terms, network.bias.detach())
    replace(manifest, weights_hash=weights_hash(aside, manifest), golden=()).save(aside)
    if out.exists():
        shutil.rmtree(out)
    aside.rename(out)


class EncoderTrainer(Trainer):
    """A Trainer whose checkpoints hold only what is trained, and whose head bias learns faster than the body.

    Adam moves a parameter by about the learning rate per step; biases live on the scale of raw logits (tens), LoRA factors on
    that of weights (hundredths), hence ``bias_factor``.
    """

    bias_factor = 30.0
    model: Any

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """AdamW with the bias in its own group."""
        bias = [self.model.bias]
        body = [p for n, p in self.model.named_parameters() if p.requires_grad and n != "bias"]
        rate = self.args.learning_rate
        self.optimizer = torch.optim.AdamW(
            [{"params": body, "lr": rate}, {"params": bias, "lr": rate * self.bias_factor}], weight_decay=0.0
        )
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        directory = Path(output_dir or self.args.output_dir or ".")
        directory.mkdir(parents=True, exist_ok=True)
        trained = {n: p.detach().contiguous() for n, p in self.model.named_parameters() if p.requires_grad}
        save_file(trained, directory / TRAINED_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        missing = self.model.load_state_dict(
            load_file(Path(resume_from_checkpoint) / TRAINED_FILE), strict=False
        )
        if missing.unexpected_keys:
            raise InputError(f"{resume_from_checkpoint}: is of another model ({missing.unexpected_keys[0]})")


def arguments(out: Path, schedule: Schedule, **more: Any) -> TrainingArguments:
    """Settings of a phase that writes ``out``; bfloat16 autocast, a checkpoint every 200 steps in ``OUT.work``."""
    return TrainingArguments(
        output_dir=str(out.with_name(out.name + ".work")),
        max_steps=schedule.steps,
        learning_rate=schedule.rate,
        warmup_steps=max(1, schedule.steps // 20),
        lr_scheduler_type="cosine",
        max_grad_norm=1.0,
        bf16=default_dtype(schedule.device) is torch.bfloat16,
        use_cpu=schedule.device == "cpu",
        save_steps=200,
        save_total_limit=2,
        logging_steps=10,
        remove_unused_columns=False,
        report_to=[],
        seed=schedule.seed,
        **more,
    )


def run(trainer: Trainer) -> None:
    """Train, from the last checkpoint if there is one."""
    trainer.train(resume_from_checkpoint=get_last_checkpoint(trainer.args.output_dir))
