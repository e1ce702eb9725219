"""Model directories to networks: base, adapter, kept terms, precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
)

from ...core.errors import (
    CorruptError,
    CspladeError,
    IncompatibleError,
    InputError,
    UnavailableError,
)
from ..network import MaskedLMBody, SparseNetwork
from ..quantization import quantize_linears
from . import adapters, probe
from .files import check_fetched, first_line, read_json
from .head import Head, load_head
from .layout import Checkpoint
from .manifest import Manifest
from .positions import positions
from .quiet import quiet


def load_network(
    checkpoint: Checkpoint,
    manifest: Manifest,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantization: str = "none",
    quantize_head: bool = False,
) -> SparseNetwork:
    """Build the network of a model, its adapter merged, on a device.

    Raises:
        CorruptError: a weight file is missing, unreadable, of another size than the manifest says,
            or holds values that are not finite.
        IncompatibleError: parts that do not fit each other, or a model that does what the network
            does not.
        UnavailableError: the device cannot do the quantization.
    """
    kept = load_head(checkpoint.directory, manifest.vocabulary_size)
    longest = max(manifest.query_max_tokens, manifest.document_max_tokens)
    with quiet():
        model = load_merged(checkpoint, manifest, dtype)
        try:
            network = build_network(model, manifest, kept)
            _check_positions(network.body, longest * (2 if manifest.variant == "echo" else 1))
            quantize_linears(network.body, quantization, device)
            network.to(device).eval().requires_grad_(False)
            if quantize_head and quantization != "none":
                network.pack_head(quantization)
            network.check_attention(longest)
        except (CspladeError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            reason = first_line(error)
            if quantization == "none":
                raise IncompatibleError(
                    f"{checkpoint.directory}: {type(model).__name__} does not run on a plain text "
                    f"on {device}: {reason}"
                ) from error
            raise UnavailableError(
                f"quantization {quantization} does not run on {device}: {reason}; choose another, "
                "or none"
            ) from None
    return network


def load_merged(checkpoint: Checkpoint, manifest: Manifest, dtype: torch.dtype) -> Any:
    """Return the language model of a checkpoint as transformers knows it, its adapter merged.

    Raises:
        CorruptError: files that cannot be loaded, or values that are not finite.
        IncompatibleError: an adapter that does not fit the base.
    """
    model = _load_lm(_AUTO[manifest.architecture], checkpoint.weights, manifest.layers, dtype)
    if checkpoint.adapter is not None:
        model = adapters.merge(model, checkpoint)
    for name, parameter in model.named_parameters():
        # One pass without a copy; a minimum of NaN is NaN.
        if parameter.numel() and not bool(torch.isfinite(torch.stack(parameter.aminmax())).all()):
            raise CorruptError(
                f"{checkpoint.directory}: {name} has values that are not finite; fetch the "
                "checkpoint again, or train it anew"
            )
    return model.eval()


def build_network(model: Any, manifest: Manifest, kept: Head) -> SparseNetwork:
    """Build the network around a loaded language model.

    Raises:
        IncompatibleError: a head of another size than the manifest says, or one that is not linear
            at its end.
    """
    output = model.get_output_embeddings()
    if output is None:
        raise IncompatibleError(f"{type(model).__name__} has no output layer over the vocabulary")
    config = model.config.get_text_config()
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise IncompatibleError(
            f"{type(model).__name__} has attn_logit_softcapping {config.attn_logit_softcapping}, "
            "which the attention that runs here leaves out; it is not supported"
        )
    rows = output.weight.detach()
    if len(rows) != manifest.vocabulary_size:
        raise IncompatibleError(
            f"the head has {len(rows):,} terms, manifest vocabulary_size says "
            f"{manifest.vocabulary_size:,}"
        )
    terms = kept.terms[~np.isin(kept.terms, manifest.excluded_terms)]
    bias = torch.zeros(len(rows))
    bias[torch.from_numpy(kept.terms).long()] = torch.from_numpy(kept.bias)
    if output.bias is not None:
        bias = bias + output.bias.detach().float()
    chosen = torch.from_numpy(terms).long()
    training = model.training
    factor = probe.head_factor(model.eval(), output)
    body = _body(model, output, manifest.architecture)
    model.train(training)
    return SparseNetwork(
        body,
        rows if len(chosen) == len(rows) else rows[chosen],
        bias[chosen],
        chosen.to(torch.int32),
        torch.from_numpy(replace(kept, terms=terms).rows),
        variant=manifest.variant,
        scale=manifest.logit_scale * factor,
        shift=manifest.logit_shift,
        log_again=manifest.activation == "log1p_log1p_relu",
        prior=manifest.lexical_prior,
    )


@torch.inference_mode()
def _body(model: Any, output: nn.Module, architecture: str) -> nn.Module:
    """Return the model up to its output layer, proved by what that layer gives on a probe."""
    _own, expected = probe.logits(model, output)
    body = MaskedLMBody(model) if architecture == "masked_lm" else model.get_decoder()
    inputs = probe.probe_inputs()
    if not torch.equal(output(body(**inputs, use_cache=False).last_hidden_state), expected):
        raise IncompatibleError(
            f"{type(model).__name__} does more between its last hidden states and its output layer "
            "than is known here; it is not supported"
        )
    return body


def _check_positions(body: nn.Module, longest: int) -> None:
    """Raise IncompatibleError where texts may be longer than a model has learned positions for."""
    learned = [
        module
        for name, module in body.named_modules()
        if isinstance(module, nn.Embedding) and ("position" in name or name.endswith("wpe"))
    ]
    config: Any = body.config
    most = positions(config.to_dict()) if learned else 0
    if most and longest > most:
        raise IncompatibleError(
            f"{type(body).__name__} has {most:,} positions, the manifest's token caps need "
            f"{longest:,} (twice the cap for echo); lower query_max_tokens and document_max_tokens"
        )


def load_causal_lm(directory: Path, layers: int, dtype: torch.dtype) -> Any:
    """Load a causal LM in the given precision, its first ``layers`` layers (0: all).

    Raises:
        InputError: more layers asked for than there are.
        CorruptError: files that transformers cannot load.
    """
    return _load_lm(AutoModelForCausalLM, directory, layers, dtype)


_AUTO = {"causal_lm": AutoModelForCausalLM, "masked_lm": AutoModelForMaskedLM}


def _load_lm(auto: Any, directory: Path, layers: int, dtype: torch.dtype) -> Any:
    kind = "causal" if auto is AutoModelForCausalLM else "masked"
    _check_loadable(directory)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
            if layers:
                keep_layers(config, layers, directory)
            model, told = auto.from_pretrained(
                directory,
                config=config,
                dtype=dtype,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except CspladeError:
        raise
    except Exception as error:
        raise CorruptError(
            f"{directory}: no {kind} language model can be loaded: {first_line(error)}"
        ) from None
    # transformers fills what it does not find with random numbers.
    if missing := sorted(told["missing_keys"]):
        raise CorruptError(
            f"{directory}: has no weights for {missing[0]} and {len(missing) - 1} more"
        )
    return model


def keep_layers(config: Any, layers: int, directory: Path) -> None:
    """Shorten a configuration to the first layers.

    Raises:
        InputError: more layers than there are.
    """
    if not 1 <= layers <= config.num_hidden_layers:
        raise InputError(
            f"layers: {layers} is not possible, {directory} has {config.num_hidden_layers}; "
            f"allowed 1 to {config.num_hidden_layers}"
        )
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def _check_loadable(directory: Path) -> None:
    """Raise where a checkpoint needs what this program does not do, before anything is loaded."""
    config = read_json(directory / "config.json")
    if config.get("auto_map") and config.get("model_type") not in CONFIG_MAPPING:
        raise IncompatibleError(
            f"{directory}: its model_type {config.get('model_type')!r} needs code of its own "
            "(auto_map), which this program never runs; use a checkpoint of an architecture that "
            "transformers has"
        )
    method = (config.get("quantization_config") or {}).get("quant_method", "bitsandbytes")
    if method != "bitsandbytes":
        raise IncompatibleError(
            f"{directory}: its weights are quantized by {method}, which is not supported; take the "
            "unquantized checkpoint and quantize it here: --quantization int8 or nf4"
        )
    for pattern in ("*.safetensors", "*.bin"):
        for path in directory.glob(pattern):
            check_fetched(path)
