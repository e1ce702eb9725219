"""Model directories to networks: base, adapter, kept terms, precision."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from ..errors import CorruptError, IncompatibleError, InputError, UnavailableError
from ..files import file_sha256
from . import base
from .manifest import Manifest
from .network import SparseNetwork
from .quantization import quantize_linears

# peft asks transformers by a name that it is about to drop.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

HEAD_FILE = "head.safetensors"
EMBEDDED = Path(__file__).parent / "embedded"


def resolve(path_or_id: str | Path) -> Path:
    """The directory of a model: ``embedded``, a path, or a hub id that the local hub cache or the hub itself holds.

    Raises:
        InputError: neither a directory nor a hub id.
        UnavailableError: the hub does not answer.
    """
    if str(path_or_id) == "embedded":
        return EMBEDDED
    directory = Path(path_or_id)
    if directory.is_dir():
        return directory
    if str(path_or_id).count("/") != 1 or str(path_or_id).startswith((".", "/")):
        raise InputError(
            f"model {str(path_or_id)!r}: no such directory, and no hub id of the form owner/name"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path_or_id)))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UnavailableError(f"model {str(path_or_id)!r}: the hub does not give it: {reason}") from None


def base_of(directory: Path, manifest: Manifest) -> Path:
    """Where the base weights and the tokenizer lie.

    Raises:
        UnavailableError: an adapter whose base was not pulled yet.
        IncompatibleError: an adapter for a base that this program does not know.
    """
    adapter = directory / "adapter_config.json"
    if not manifest.base:
        return (
            resolve(json.loads(adapter.read_text())["base_model_name_or_path"])
            if adapter.is_file()
            else directory
        )
    if manifest.base.get("sha256") != base.WHEEL_SHA256:
        raise IncompatibleError(
            f"{directory}: base {manifest.base} is not the one known here, {base.NAME} {base.WHEEL_SHA256}"
        )
    if not base.base_directory().is_dir():
        raise UnavailableError(
            f"{directory}: its base {base.NAME} is not in {base.cache_directory()}; run: csplade model pull"
        )
    return base.base_directory()


def weights_hash(directory: Path, manifest: Manifest) -> str:
    """SHA-256 over the names and contents of all weight files of a model, its base's source included."""
    digest = hashlib.sha256(json.dumps(manifest.base, sort_keys=True).encode())
    for path in sorted(directory.glob("*.safetensors")):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def load_tokenizer(directory: Path, manifest: Manifest) -> PreTrainedTokenizerFast:
    """The base's tokenizer, checked against the manifest.

    Raises:
        CorruptError: no readable tokenizer there.
        IncompatibleError: the tokenizer has another vocabulary.
    """
    source = base_of(directory, manifest)
    try:
        tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(source))
    except Exception as error:
        raise CorruptError(f"{source}: no tokenizer can be loaded: {str(error).splitlines()[0]}") from None
    if manifest.vocabulary_hash and (found := vocabulary_hash(tokenizer)) != manifest.vocabulary_hash:
        raise IncompatibleError(
            f"{directory}: tokenizer vocabulary {found[:12]}, manifest says {manifest.vocabulary_hash[:12]}"
        )
    return tokenizer


def vocabulary_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 over the (token, id) pairs of a tokenizer."""
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=False).encode()).hexdigest()


def load_network(
    directory: Path,
    manifest: Manifest,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantization: str = "none",
) -> SparseNetwork:
    """Build the network of a model directory, its adapter merged, on a device.

    Raises:
        CorruptError: a weight file is missing, unreadable or of another size than the manifest says.
    """
    model = load_merged(directory, manifest, dtype)
    network = build_network(model, manifest, *load_head(directory, manifest.vocabulary_size))
    quantize_linears(network.body, quantization, device)
    network.to(device).eval().requires_grad_(False)
    if manifest.architecture == "causal_lm":
        network.check_attention()
    return network


def load_merged(directory: Path, manifest: Manifest, dtype: torch.dtype) -> Any:
    """The causal LM of a model directory as transformers knows it, its adapter merged into the weights."""
    model = load_causal_lm(base_of(directory, manifest), manifest.layers, dtype)
    if (directory / "adapter_config.json").is_file():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(directory)).merge_and_unload()
    return model.eval()


def build_network(model: Any, manifest: Manifest, terms: torch.Tensor, bias: torch.Tensor) -> SparseNetwork:
    """The network around a loaded causal LM."""
    rows = model.get_output_embeddings().weight.detach()
    if len(rows) != manifest.vocabulary_size:
        raise IncompatibleError(
            f"the head has {len(rows)} terms, manifest vocabulary_size says {manifest.vocabulary_size}"
        )
    return SparseNetwork(
        model.get_decoder(),
        rows[terms.long()].clone(),
        bias,
        terms,
        variant=manifest.variant,
        scale=manifest.logit_scale,
        shift=manifest.logit_shift,
    )


def load_head(directory: Path, vocabulary_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Kept terms int32 [Vk], ascending, and their bias float32 [Vk]; all terms and zeros where no file says otherwise."""
    path = directory / HEAD_FILE
    if not path.is_file():
        return torch.arange(vocabulary_size, dtype=torch.int32), torch.zeros(vocabulary_size)
    try:
        tensors = load_file(path)
        return tensors["terms"], tensors["bias"].float()
    except Exception as error:
        raise CorruptError(f"{path}: not readable: {error}") from None


def save_head(directory: Path, terms: torch.Tensor, bias: torch.Tensor) -> None:
    """Write ``head.safetensors``: kept terms int32 and bias float16."""
    save_file({"terms": terms.to(torch.int32), "bias": bias.to(torch.float16)}, directory / HEAD_FILE)


def load_causal_lm(directory: Path, layers: int, dtype: torch.dtype) -> Any:
    """A causal LM in the given precision, its first ``layers`` layers (0: all).

    Raises:
        InputError: more layers asked for than there are.
        CorruptError: files that transformers cannot load.
    """
    config = AutoConfig.from_pretrained(directory)
    if layers:
        if layers > config.num_hidden_layers:
            raise InputError(
                f"{directory}: manifest layers is {layers}, the base has {config.num_hidden_layers}"
            )
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    # The layers left out are reported as unexpected weights; leaving them out is the point.
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(directory, config=config, dtype=dtype)
    except (OSError, ValueError) as error:
        raise CorruptError(
            f"{directory}: no causal language model can be loaded: {str(error).splitlines()[0]}"
        ) from None
    finally:
        transformers_logging.set_verbosity(verbosity)
