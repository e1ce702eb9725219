"""The encoding benchmark on masked-LM weights: the encoder beside SparseEncoder.

The checkpoint is made on the fly: a configuration of known size, random weights, and a WordPiece
vocabulary trained on the texts; the head keeps BERT's 30,522 terms. Speed does not depend on what
the weights have learnt, except that random vectors are dense: both encoders keep the same number
of largest terms, so both have the same selection to make.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import InputError, UnavailableError
from ..model import Encoder
from ..model.checkpoint import presets
from ..model.quantization import default_dtype
from .encode import ROUNDS, Encode, EncodeReport, hardware_line, measure

VOCABULARY = 30_522
MAX_TERMS = 256  # that both encoders keep of a text
COMPARED_PASSAGES = 16  # whose vectors are compared
QUERY_WORDS = 8
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"dim": 128, "n_layers": 2, "n_heads": 2, "hidden_dim": 512},
    "distilbert": {"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072},
    "bert-base": {"dim": 768, "n_layers": 12, "n_heads": 12, "hidden_dim": 3072},
}
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def compare_with_sparse_encoder(
    size: str,
    texts: Sequence[str],
    tokens: int,
    passages: int,
    *,
    threads: int,
    rounds: int = ROUNDS,
) -> EncodeReport:
    """Encode the same passages, cut at ``tokens`` tokens, and single queries, in turns.

    Args:
        size: one of :data:`SIZES`.
        texts: passages.
        tokens: token cap of a passage, special tokens included.
        passages: number of passages at most.
        threads: threads of torch.
        rounds: turns of each encoder.

    Raises:
        InputError: the size is unknown, or there are no texts.
        UnavailableError: sentence-transformers is not installed.
    """
    if size not in SIZES:
        raise InputError(f"masked-lm: {size!r} is unknown; must be one of {', '.join(SIZES)}")
    chosen = [text for text in texts if text.strip()][:passages]
    if not chosen:
        raise InputError("corpus: it has no texts; at least one is needed")
    try:
        from sentence_transformers import SparseEncoder
    except ImportError as error:
        raise UnavailableError(
            f"sentence-transformers: {error}; install it: pip install 'csplade[bench]'"
        ) from None
    dtype = default_dtype("cpu")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        _write_checkpoint(directory, size, texts, tokens)
        manifest = replace(presets.read(directory).manifest, document_max_terms=MAX_TERMS)
        ours = Encoder.from_pretrained(
            directory,
            device="cpu",
            dtype=dtype,
            threads=threads,
            manifest=manifest,
            self_test=False,
        )
        theirs = SparseEncoder(folder, device="cpu", model_kwargs={"dtype": dtype})
    # Both encode queries as documents: SparseEncoder has one set of weights for both sides.
    contenders: dict[str, Encode] = {
        "csplade": lambda some, _: ours.encode(some, "document").vectors,
        "SparseEncoder": lambda some, _: theirs.encode_document(some, max_active_dims=MAX_TERMS),
    }
    query = [" ".join(chosen[0].split()[:QUERY_WORDS])]
    vectors = [encode(chosen[:COMPARED_PASSAGES], "document") for encode in contenders.values()]
    return EncodeReport(
        f"random {size}, {VOCABULARY:,} terms",
        len(chosen),
        tokens,
        len(ours.tokenize(query, "query").ids[0]),
        threads,
        hardware_line(),
        _smallest_cosine(vectors[0], vectors[1].to_dense().float().numpy()),
        measure(contenders, chosen, query, rounds),
    )


def _write_checkpoint(directory: Path, size: str, texts: Sequence[str], tokens: int) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import DistilBertConfig, DistilBertForMaskedLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=8000, special_tokens=list(_SPECIAL), show_progress=False
    )
    words.train_from_iterator(texts, trainer)
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(
        zip(
            ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"),
            _SPECIAL,
            strict=True,
        )
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=tokens, **names
    ).save_pretrained(directory)
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(SIZES[size])
    config = DistilBertConfig(vocab_size=VOCABULARY, max_position_embeddings=512, **sizes)
    DistilBertForMaskedLM(config).save_pretrained(directory)


def _smallest_cosine(ours: Any, theirs: Any) -> float:
    found = []
    for row, (terms, weights) in zip(theirs, ours, strict=False):
        norm = float(np.linalg.norm(row) * np.linalg.norm(weights))
        found.append(float(row[terms] @ weights) / norm if norm else 0.0)
    return min(found)
