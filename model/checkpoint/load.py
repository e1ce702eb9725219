"""Model directories to networks: base, adapter, kept terms, precision."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.utils import logging as transformers_logging

from ...core.errors import CorruptError, IncompatibleError, InputError, UnavailableError
from ..network import MaskedLMBody, SparseNetwork
from ..quantization import quantize_linears
from .head import Head, load_head
from .layout import find, first_line
from .manifest import Manifest

# peft asks transformers by a name that it is about to drop.
warnings.filterwarnings(
    "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
)


def base_of(directory: Path, manifest: Manifest) -> Path:
    """Where the whole weights lie, those of the base for an adapter; raises as
    :func:`.checkpoint.find`.
    """
    return find(directory, manifest).weights


def load_network(
    directory: Path,
    manifest: Manifest,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantization: str = "none",
    quantize_head: bool = False,
) -> SparseNetwork:
    """Build the network of a model directory, its adapter merged, on a device.

    Raises:
        CorruptError: a weight file is missing, unreadable or of another size than the manifest
            says.
    """
    model = load_merged(directory, manifest, dtype)
    network = build_network(model, manifest, load_head(directory, manifest.vocabulary_size))
    longest = max(manifest.query_max_tokens, manifest.document_max_tokens)
    try:
        quantize_linears(network.body, quantization, device)
        network.to(device).eval().requires_grad_(False)
        if quantize_head and quantization != "none":
            network.pack_head(quantization)
        network.check_attention(longest)
    except (RuntimeError, NotImplementedError, AttributeError, AssertionError) as error:
        if quantization == "none":
            raise
        raise UnavailableError(
            f"quantization {quantization} does not run on {device}: {first_line(error)}; choose "
            "another, or none"
        ) from None
    return network


def load_merged(directory: Path, manifest: Manifest, dtype: torch.dtype) -> Any:
    """The language model of a directory as transformers knows it, its adapter merged into the
    weights.

    Raises:
        CorruptError: files that cannot be loaded.
        IncompatibleError: an adapter that does not fit the base.
    """
    checkpoint = find(directory, manifest)
    model = _load_lm(_AUTO[manifest.architecture], checkpoint.weights, manifest.layers, dtype)
    if checkpoint.adapter is not None:
        model = _merge(model, checkpoint.adapter, checkpoint.weights)
    return model.eval()


def _merge(model: Any, adapter: Path, weights: Path) -> Any:
    from peft import PeftModel

    try:
        # PEFT leaves out what has no place in the model and only warns.
        with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
            for key in file.keys():  # noqa: SIM118, safe_open is no dict
                place = key.removeprefix("base_model.model.").rpartition(".lora_")[0]
                if place and place not in dict(model.named_modules()):
                    raise ValueError(f"it has {place}, the base has not")
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except FileNotFoundError:
        raise CorruptError(
            f"{adapter}: has adapter_config.json but no adapter_model.safetensors"
        ) from None
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise IncompatibleError(
            f"{adapter}: its adapter does not fit the base {weights}: {reason[:200]}; is it for "
            "another base?"
        ) from None
    except SafetensorError as error:
        raise CorruptError(
            f"{adapter}: adapter_model.safetensors is not readable: {error}"
        ) from None


def build_network(model: Any, manifest: Manifest, kept: Head) -> SparseNetwork:
    """The network around a loaded language model.

    Raises:
        IncompatibleError: a head of another size than the manifest says, or one that is not linear
            at its end.
    """
    output = model.get_output_embeddings()
    config = model.config.get_text_config()
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        if getattr(config, name, None) is not None:
            raise IncompatibleError(
                f"{type(model).__name__} has {name} {getattr(config, name)}, which is not supported"
            )
    rows = output.weight.detach()
    if len(rows) != manifest.vocabulary_size:
        raise IncompatibleError(
            f"the head has {len(rows)} terms, manifest vocabulary_size says "
            f"{manifest.vocabulary_size}"
        )
    terms = kept.terms[~np.isin(kept.terms, manifest.excluded_terms)]
    bias = torch.zeros(len(rows))
    bias[torch.from_numpy(kept.terms).long()] = torch.from_numpy(kept.bias)
    if output.bias is not None:
        bias = bias + output.bias.detach().float()
    chosen = torch.from_numpy(terms).long()
    body = (
        _masked_body(model, output) if manifest.architecture == "masked_lm" else model.get_decoder()
    )
    return SparseNetwork(
        body,
        rows if len(chosen) == len(rows) else rows[chosen],
        bias[chosen],
        chosen.to(torch.int32),
        torch.from_numpy(replace(kept, terms=terms).rows),
        variant=manifest.variant,
        scale=manifest.logit_scale,
        shift=manifest.logit_shift,
        log_again=manifest.activation == "log1p_log1p_relu",
        prior=manifest.lexical_prior,
    )


@torch.inference_mode()
def _masked_body(model: Any, output: torch.nn.Linear) -> MaskedLMBody:
    """The masked LM up to its output layer, proved by the logits of a probe."""
    probe = {
        "input_ids": torch.tensor([[1, 2, 3, 4]]),
        "attention_mask": torch.ones(1, 4, dtype=torch.int64),
    }
    expected = model.eval()(**probe).logits
    body = MaskedLMBody(model)
    if not torch.equal(output(body(**probe).last_hidden_state), expected):
        raise IncompatibleError(
            f"the head of {type(model).__name__} does more after its output layer than is known "
            "here"
        )
    return body


def load_causal_lm(directory: Path, layers: int, dtype: torch.dtype) -> Any:
    """A causal LM in the given precision, its first ``layers`` layers (0: all).

    Raises:
        InputError: more layers asked for than there are.
        CorruptError: files that transformers cannot load.
    """
    return _load_lm(AutoModelForCausalLM, directory, layers, dtype)


_AUTO = {"causal_lm": AutoModelForCausalLM, "masked_lm": AutoModelForMaskedLM}


def _load_lm(auto: Any, directory: Path, layers: int, dtype: torch.dtype) -> Any:
    # The layers left out are reported as unexpected weights; leaving them out is the point.
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(directory)
        if layers:
            if layers > config.num_hidden_layers:
                raise InputError(
                    f"{directory}: manifest layers is {layers}, the base has "
                    f"{config.num_hidden_layers}"
                )
            config.num_hidden_layers = layers
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[:layers]
        model, told = auto.from_pretrained(
            directory, config=config, dtype=dtype, output_loading_info=True
        )
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        kind = "causal" if auto is AutoModelForCausalLM else "masked"
        raise CorruptError(
            f"{directory}: no {kind} language model can be loaded: {first_line(error)}"
        ) from None
    finally:
        transformers_logging.set_verbosity(verbosity)
    # transformers fills what it does not find with random numbers.
    if missing := sorted(told["missing_keys"]):
        raise CorruptError(
            f"{directory}: has no weights for {missing[0]} and {len(missing) - 1} more"
        )
    return model
