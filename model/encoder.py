"""The encoder: texts in, sparse vectors out, by the rules of its manifest.

Queries that are looked up in a table need neither torch nor transformers, so a model of that kind
loads its network only when a document comes. What runs is compared with the golden vectors first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..core.device import find_device
from ..core.errors import InputError
from ..core.vectors import SparseBatch
from ..kernels.runtime.memory import WORKING_MEMORY, WorkingMemory
from . import golden
from .checkpoint import presets
from .checkpoint.head import load_head
from .checkpoint.layout import EMBEDDED
from .checkpoint.manifest import Manifest
from .lexical import QueryTable, load_table
from .tokens import Encoded, Kind, Tokens, tokenize

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..kernels.runtime.graph import Recorder
    from .network import SparseNetwork
    from .recorded import RecordedEncodings, TextSize
    from .tensors import EncodedTensors, Progress, QueryRules

log = logging.getLogger(__name__)

QUANTIZATIONS = ("none", "int8", "nf4", "fp4")


class Encoder:
    """A sparse encoder. Make one with :meth:`from_pretrained`; several threads may use it at once.

    Attributes:
        name: ``embedded``, or what the model was loaded by.
        manifest: the rules.
        preset: ``csplade.json``, ``given``, or the name of a preset.
        fingerprint: of the manifest; vectors of one fingerprint are comparable.
        vocabulary_size: V.
        device: where the network runs: ``cpu``, ``cuda:0`` ...
        query_encoder: what makes queries: ``lexical`` (a table), ``model``, or ``both``.
    """

    def __init__(
        self,
        name: str,
        known: presets.Known,
        *,
        device: str,
        quantization: str,
        quantize_head: bool,
        dtype: torch.dtype | None,
        self_test: bool,
        query_encoder: str = "auto",
        memory: WorkingMemory = WORKING_MEMORY,
        reserved_bytes: int = 0,
    ) -> None:
        self.name, self.manifest, self.preset = name, known.manifest, known.preset
        self.fingerprint = self.manifest.fingerprint
        self.vocabulary_size = self.manifest.vocabulary_size
        self._checkpoint = known.checkpoint
        self._query_tokenizer, self._tokenizer = known.query_tokenizer, known.tokenizer
        self.device, self._quantization = device, quantization
        self._quantize_head, self._dtype, self._self_test = quantize_head, dtype, self_test
        self._memory, self._reserved_bytes = memory, reserved_bytes
        self.query_encoder = self._choose(query_encoder)
        self._table: QueryTable | None = None
        if self.manifest.query_encoder == "lexical":
            self._table = load_table(self._checkpoint, self.manifest, self._query_tokenizer)
        self._loaded: SparseNetwork | None = None
        self._loading = Lock()
        self._recorded: RecordedEncodings | None = None
        # Whoever enqueues work of the network takes the memory for activations.
        self.enqueueing = Lock()

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path = "embedded",
        *,
        device: str = "auto",
        quantization: str = "auto",
        quantize_head: bool = False,
        dtype: torch.dtype | None = None,
        manifest: Manifest | None = None,
        preset: str | None = None,
        tokenizer: str | Path | None = None,
        base: str | Path | None = None,
        query_encoder: str = "auto",
        threads: int | None = None,
        self_test: bool = True,
        memory: WorkingMemory = WORKING_MEMORY,
        reserved_bytes: int = 0,
    ) -> Encoder:
        """Load a model and compare its golden vectors.

        Where queries are looked up in a table, the network and its golden vectors wait until a
        document comes or :meth:`load_network` is called; they raise the same errors then.

        Args:
            path_or_id: ``embedded``, a directory, or a hub id.
            device: ``auto`` takes CUDA where there is one; else ``cpu``, ``cuda``, ``cuda:1`` ...
            quantization: ``auto``, ``none``, ``int8``, ``nf4`` or ``fp4``; auto is nf4 on CUDA
                where the weights do not fit well into free memory, else none.
            quantize_head: pack the LM head too, which saves memory and costs time and quality.
            dtype: of the unquantized weights; None for the one that is fast on the device.
            manifest: how to use a checkpoint that has no ``csplade.json`` of its own; an error
                where it has one.
            preset: a family's conventions instead of a manifest, see :data:`.presets.PRESETS`; None
                for the one that the checkpoint's files select.
            tokenizer: directory or hub id of a tokenizer, for a checkpoint that has none of its
                own.
            base: directory or hub id of an adapter's base, instead of what its files name.
            query_encoder: ``lexical``, ``model`` or ``both``, where the model holds both; ``auto``
                for its manifest's.
            threads: of torch on the CPU; process-wide.
            self_test: compare with the golden vectors.
            memory: on a GPU, what is left for requests; activations and recordings take their
                shares.
            reserved_bytes: on a GPU, what others need beside that, such as an index.

        Raises:
            InputError: no such model, an unknown option, a manifest given twice or missing.
            IncompatibleError: the golden texts do not give their vectors, or tokenizer, base or
                adapter are other ones.
            CorruptError: files that cannot be read.
            UnavailableError: the base or the hub is out of reach, or the device cannot do the
                quantization.
        """
        if quantization not in ("auto", *QUANTIZATIONS):
            raise InputError(
                f"quantization is {quantization!r}, must be auto or one of "
                f"{', '.join(QUANTIZATIONS)}"
            )
        if threads is not None:
            if threads < 1:
                raise InputError(f"threads is {threads}, must be at least 1")
            import torch

            torch.set_num_threads(threads)
        device = find_device(device)
        known = presets.read(
            path_or_id,
            manifest=manifest,
            preset=preset,
            tokenizer=tokenizer,
            base=base,
            certified=self_test,
        )
        encoder = cls(
            "embedded" if known.checkpoint.directory == EMBEDDED else str(path_or_id),
            known,
            device=device,
            quantization=quantization,
            quantize_head=quantize_head,
            dtype=dtype,
            self_test=self_test,
            query_encoder=query_encoder,
            memory=memory,
            reserved_bytes=reserved_bytes,
        )
        if self_test:
            encoder._check_tokens()
        if self_test and encoder._table is not None:
            encoder._check_table()
        if not encoder.looks_up("query"):
            encoder.load_network()
        if self_test and not encoder.manifest.golden:
            log.warning(
                "%s: preset %s, no golden vectors to test it by: run csplade model certify %s",
                *(encoder.name, known.preset, known.checkpoint.directory),
            )
        return encoder

    def with_query_encoder(self, name: str) -> Encoder:
        """Return an encoder that makes queries another way and shares the network.

        Raises:
            InputError: the model was not made for it.
        """
        self.load_network()
        other = copy(self)
        other.query_encoder = self._choose(name)
        other._recorded = None
        return other

    def _choose(self, query_encoder: str) -> str:
        allowed = self.manifest.query_encoders
        if query_encoder not in ("auto", *allowed):
            raise InputError(
                f"query_encoder: {query_encoder!r} is not what {self.name} was made for; allowed "
                f"auto, {', '.join(allowed)}"
            )
        return allowed[0] if query_encoder == "auto" else query_encoder

    def load_network(self) -> SparseNetwork:
        """Load the network unless it is there, and compare its golden vectors.

        Raises:
            IncompatibleError, CorruptError, UnavailableError: as :meth:`from_pretrained`.
        """
        with self._loading:
            if self._loaded is None:
                from .checkpoint.load import load_network
                from .quantization import default_dtype

                network = load_network(
                    self._checkpoint,
                    self.manifest,
                    device=self.device,
                    dtype=self._dtype or default_dtype(self.device),
                    quantization=self.quantization,
                    quantize_head=self._quantize_head,
                )
                if self._self_test:
                    self._check_network(network)
                self._loaded = network
            return self._loaded

    @property
    def network(self) -> SparseNetwork:
        """The network, loaded when it is first needed."""
        return self._loaded or self.load_network()

    @cached_property
    def quantization(self) -> str:
        """Of the network's weights: ``none``, ``int8``, ``nf4`` or ``fp4``."""
        if self._quantization != "auto":
            return self._quantization
        from .quantization import choose_quantization

        reserved = self._memory.total + self._reserved_bytes
        return choose_quantization(self._checkpoint, self.device, reserved)

    @property
    def weight_bytes(self) -> int:
        """Bytes that the network's weights take in memory."""
        from .quantization import weight_bytes

        return weight_bytes(self.network)

    def looks_up(self, kind: Kind) -> bool:
        """Return whether texts of this kind are looked up in a table, without a network."""
        return kind == "query" and self.query_encoder == "lexical"

    def encode_query(self, texts: Sequence[str]) -> SparseBatch:
        """Return the vectors of queries."""
        return self.encode(texts, "query").vectors

    def encode_document(
        self, texts: Sequence[str], *, progress: Progress | None = None
    ) -> SparseBatch:
        """Return the vectors of documents."""
        return self.encode(texts, "document", progress=progress).vectors

    def encode(
        self, texts: Sequence[str], kind: Kind, *, progress: Progress | None = None
    ) -> Encoded:
        """Tokenize and encode; ``progress`` is called with the number of texts of each batch."""
        started = time.perf_counter_ns()
        tokens = self.tokenize(texts, kind)
        spent = time.perf_counter_ns() - started
        encoded = self.encode_tokens(tokens, kind, progress=progress)
        return replace(encoded, timings={"tokenize": spent, **encoded.timings})

    def tokenize(self, texts: Sequence[str], kind: Kind) -> Tokens:
        """Return token ids by the manifest's rules; cheap and safe to call from any thread."""
        if isinstance(texts, str):
            raise InputError("texts is one string, must be a list of strings")
        tokenizer = self._query_tokenizer if kind == "query" else self._tokenizer
        return tokenize(tokenizer, self.manifest, texts, kind)

    def encode_tokens(
        self,
        tokens: Tokens,
        kind: Kind,
        *,
        batch_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> Encoded:
        """Return the vectors of token ids, see :func:`.tensors.encode_tensors`."""
        if self._table is not None and self.looks_up(kind):
            encoded = self._table.encode(tokens)
            if progress is not None:
                progress(len(tokens))
            return encoded
        if kind == "query" and self._recorded and (size := self._recorded.size(tokens)):
            return self._replayed(self._recorded, size, tokens)
        made = self.encode_tensors(tokens, kind, batch_tokens=batch_tokens, progress=progress)
        return made.fetch(tokens)

    def sources(self, tokens: Tokens, kind: Kind, vectors: SparseBatch) -> list[NDArray[np.int32]]:
        """Return for each text which of its tokens gave each term its weight.

        In a table it is the first token that stands for the term, in a network the token whose
        logit is the maximum that was pooled.

        Args:
            tokens: Of the texts.
            kind: The side that the texts are on.
            vectors: What :meth:`encode_tokens` made of them.

        Returns:
            int32 [terms of the vector] for each text: positions in its tokens, from 0.
        """
        table = self._table if self.looks_up(kind) else None
        find = self.network.sources if table is None else table.sources
        pairs = zip(tokens.ids, vectors, strict=True)
        none = np.empty(0, dtype=np.int32)
        return [find(ids, terms) if len(terms) else none for ids, (terms, _) in pairs]

    def encode_tensors(
        self,
        tokens: Tokens,
        kind: Kind,
        *,
        impact_scale: float | None = None,
        batch_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> EncodedTensors:
        """Return the vectors of token ids on the device, see :func:`.tensors.encode_tensors`.

        With ``impact_scale`` there are impacts up to 4,095 in steps of that weight, the numbers of
        ``SparseBatch.quantize``.
        """
        from . import tensors

        if self._table is not None and self.looks_up(kind):
            vectors, positive = self._table.look_up(tokens)
            made = tensors.upload_vectors(
                vectors, positive, device=self.device, impact_scale=impact_scale
            )
            if progress is not None:
                progress(len(tokens))
            return made
        with self.enqueueing if self.device != "cpu" else nullcontext():
            return tensors.encode_tensors(
                self.network,
                tokens,
                self._term_cap(kind),
                device=self.device,
                normalize=self.manifest.normalize,
                query=self._query_rules() if kind == "query" else None,
                impact_scale=impact_scale,
                batch_tokens=batch_tokens,
                batch_bytes=self._memory.activations,
                progress=progress,
            )

    def prepare(self) -> None:
        """Compile every kernel that encoding can launch, if the network is loaded."""
        if self._loaded is not None:
            self._loaded.warm_up()

    def record(
        self,
        recorder: Recorder,
        further: Callable[[EncodedTensors], tuple[Tensor, ...]] | None = None,
    ) -> RecordedEncodings | None:
        """Record the encoding of queries by size; None where queries are looked up in a table.

        Args:
            recorder: of the network's device.
            further: work on the vectors that is recorded with them and gives more tensors; the
                caller replays the recordings then, under :attr:`enqueueing`. None: the encoder
                replays them whenever it encodes queries that fit.
        """
        import torch

        from . import tensors
        from .recorded import RecordedEncodings, text_sizes

        if self.query_encoder != "model":
            return None
        encode = partial(
            tensors.padded_vectors,
            self.network,
            cap=self.manifest.query_max_terms,
            normalize=self.manifest.normalize,
        )
        recorded = RecordedEncodings(
            encode, further or (lambda made: ()), torch.device(self.device), recorder
        )
        room, network = self._memory.recorded, self.network
        recorded.record(
            size
            for size in text_sizes(self.manifest.query_max_tokens)
            if network.batch_bytes(size.texts * size.tokens, size.texts) <= room
        )
        if further is None:
            self._recorded = recorded
        return recorded

    def _replayed(self, recorded: RecordedEncodings, size: TextSize, tokens: Tokens) -> Encoded:
        from ..kernels.runtime.transfer import Clock, wait
        from .tensors import encoded

        clock = Clock(self.device)
        with self.enqueueing:
            download = recorded.replay(size, tokens)
            clock.mark("encode")
        (arrays,) = wait(download)
        return encoded(tokens, *(one[: len(tokens)] for one in arrays), timings=clock.read())

    def decode(
        self, vectors: SparseBatch, top_k: int | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return each row as (token, weight), largest weight first, at most ``top_k``."""
        decoded = []
        for terms, weights in vectors:
            order = np.lexsort((terms, -weights))[:top_k]
            decoded.append([(self.token(int(terms[i])), float(weights[i])) for i in order])
        return decoded

    def token(self, term: int) -> str:
        """Return how the tokenizer writes a term; ``<term>`` for an id that it does not name."""
        if not 0 <= term < self.vocabulary_size:
            raise InputError(f"term is {term}, must be 0 to {self.vocabulary_size - 1}")
        return self._tokenizer.token(term) or f"<{term}>"

    def tokens(self) -> list[str]:
        """Return :meth:`token` of every term, in order."""
        names = [f"<{term}>" for term in range(self.vocabulary_size)]
        for token, term in self._tokenizer.vocabulary().items():
            names[term] = token or names[term]
        return names

    def terms(self) -> NDArray[np.int32]:
        """Return the ids of the terms that a document's vector may hold, ascending."""
        kept = load_head(self._checkpoint.directory, self.vocabulary_size).terms
        return kept[~np.isin(kept, self.manifest.excluded_terms)]

    def vocabulary(self) -> dict[str, int]:
        """Return the term id of each token string."""
        return self._tokenizer.vocabulary()

    def _query_rules(self) -> QueryRules:
        from .tensors import QueryRules

        table = self._table if self.query_encoder == "both" else None
        return QueryRules(table, self.manifest.query_expansion)

    def _term_cap(self, kind: Kind) -> int:
        manifest = self.manifest
        return manifest.query_max_terms if kind == "query" else manifest.document_max_terms

    def _check_tokens(self) -> None:
        for text in self.manifest.golden:
            found = self.tokenize([text.text], text.kind)
            golden.compare_tokens(text, found.ids[0].tolist(), model=self.name)

    def _check_table(self) -> None:
        assert self._table is not None
        for text in self.manifest.golden:
            if text.kind == "query":
                found = self._table.encode(self.tokenize([text.text], "query")).vectors
                golden.compare(text, found, model=self.name, quantization="none")

    def _check_network(self, network: SparseNetwork) -> None:
        from .tensors import encode_tensors

        for text in self.manifest.golden:
            if text.kind == "document" or self._table is None:
                tokens = self.tokenize([text.text], text.kind)
                made = encode_tensors(
                    network,
                    tokens,
                    self._term_cap(text.kind),
                    device=self.device,
                    normalize=self.manifest.normalize,
                    query=self._query_rules() if text.kind == "query" else None,
                )
                golden.compare(
                    text,
                    made.fetch(tokens).vectors,
                    model=self.name,
                    quantization=self.quantization,
                )
