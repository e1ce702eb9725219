"""Fixtures of all test folders; what only some machines have is imported inside them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from csplade.core.document import Document
from csplade.core.vectors import SparseBatch
from csplade.index import BuildOptions, Index, IndexBuilder

if TYPE_CHECKING:
    from csplade.service.settings import Settings

# Without a GPU, Triton kernels are interpreted on the CPU; kernels/runtime/launch.py tells why this
# stands before anything imports triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

WORDS = [
    "a search engine finds documents for a question and says which words made each hit",
    "what does the river need to work well, and where is the engine of the old harbour?",
    "rain falls on the mountains; the glacier feeds a river that reaches the sea near the town",
    "bread rises when yeast turns sugar into gas, and the oven sets the dough",
    "the term weights of a text are kept as integers, one impact for each posting in a block",
]


@pytest.fixture(autouse=True)
def no_server_left() -> Iterator[None]:
    """Fail a test that leaves its server running: gRPC would hang when it is collected."""
    before = set(threading.enumerate())
    yield
    left = [one for one in threading.enumerate() if one.name == "csplade-batching"]
    assert set(left) <= before, "close the server or the backend that this test has started"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random causal LM of two layers with tokenizer, manifest and golden vectors, made in a
    second.
    """
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a fresh tiny model with manifest values of one's own; the directory is the test's to
    spoil.
    """
    return lambda **values: make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", **values)


def make_tiny_model(directory: Path, **manifest_values: object) -> Path:
    from dataclasses import replace

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from csplade.model import Manifest
    from csplade.model.certify import certify
    from csplade.model.checkpoint.hashes import weights_hash
    from csplade.model.checkpoint.layout import find
    from csplade.model.checkpoint.tokenizer import read_tokenizer, vocabulary_hash
    from csplade.model.golden import TEXTS

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([*(text for _, text in TEXTS), *WORDS], trainer)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.08,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    wrapped.save_pretrained(directory)
    manifest = Manifest(
        **{
            "variant": "bidirectional",
            "logit_scale": 0.5,
            "logit_shift": 0.0,
            "lowercase": True,
            "query_max_tokens": 32,
            "document_max_tokens": 64,
            "query_max_terms": 256,
            "document_max_terms": 400,
            "vocabulary_size": len(wrapped),
            "vocabulary_hash": vocabulary_hash(read_tokenizer(directory)),
            **manifest_values,
        }
    )
    replace(manifest, weights_hash=weights_hash(find(directory, manifest), manifest)).save(
        directory
    )
    certify(directory)
    return directory


TOPICS = ["rivers", "hash", "energy", "sunlight", "birds", "maps", "iron", "kilometres"]
TIMES = ["winter", "summer", "night", "day", "sea", "stone"]
TEXTS = [
    f"Document {i}: {topic} in {time}"
    for i, (topic, time) in enumerate((a, b) for a in TOPICS for b in TIMES)
]
VOCABULARY = 500


@pytest.fixture(scope="session")
def encoder(tiny_model):
    from csplade.model import Encoder

    return Encoder.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="session")
def text_index(text_index_of) -> Path:
    """48 texts in two shards, encoded by the tiny model; the field "number" is declared."""
    return text_index_of(fields={"number": "integer"})


@pytest.fixture(scope="session")
def text_index_of(encoder, tiny_model, tmp_path_factory) -> Callable[..., Path]:
    """Makes ``text_index`` with build options of one's own."""

    def make(**values: object) -> Path:
        path = tmp_path_factory.mktemp("text-index") / "index"
        identity = {"fingerprint": encoder.fingerprint, "model": str(tiny_model), "manifest": {}}
        options = BuildOptions(encoder.vocabulary_size, identity, shards=2, **values)
        builder = IndexBuilder.create(path, options)
        documents = [
            Document(f"d{i}", text, f"Title {i}", {"number": i}) for i, text in enumerate(TEXTS)
        ]
        builder.add(documents, encoder.encode_document(TEXTS))
        builder.finish()
        return path

    return make


def random_rows(count: int, terms: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [
        (
            np.sort(random.choice(VOCABULARY, terms, replace=False)),
            random.uniform(0.05, 3.0, terms).astype(np.float32),
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="session")
def random_queries() -> list[dict[int, float]]:
    return [
        dict(zip(terms.tolist(), weights.tolist(), strict=True))
        for terms, weights in random_rows(50, 12, seed=2)
    ]


@pytest.fixture(scope="session")
def vector_index(tmp_path_factory) -> Path:
    """300 random vectors in three shards, no encoder."""
    return make_vector_index(tmp_path_factory.mktemp("vector-index") / "index")


@pytest.fixture(scope="session")
def idf_index(tmp_path_factory) -> Path:
    """The same as ``vector_index``, with queries weighed by the collection's IDF."""
    path = tmp_path_factory.mktemp("idf-index") / "index"
    return make_vector_index(path, query_modifier="idf")


def make_vector_index(path: Path, **options: object) -> Path:
    builder = IndexBuilder.create(path, BuildOptions(VOCABULARY, shards=3, **options))
    builder.add(
        [Document(f"v{i}", "") for i in range(300)],
        SparseBatch.from_rows(random_rows(300, 40, seed=1)),
    )
    builder.finish()
    return path


@pytest.fixture(scope="session")
def string_index(tmp_path_factory) -> Path:
    """Two documents keyed by token strings."""
    path = tmp_path_factory.mktemp("string-index") / "index"
    vocabulary = ["iron", "river", "sun"]
    builder = IndexBuilder.create(path, BuildOptions(3, document_scale=0.02, vocabulary=vocabulary))
    builder.add(
        [Document("a", ""), Document("b", "")],
        SparseBatch.from_rows([([0, 1], [1.0, 2.0]), ([2], [1.0])]),
    )
    builder.finish()
    return path


@pytest.fixture(scope="session")
def settings() -> Callable[..., Settings]:
    """Settings for an index on free ports; dotted keys with __ for the dot."""
    from csplade.service.settings import load

    def make(index: Path | None = None, **values: object) -> Settings:
        flags = {"index": index, "server.port": 0, "metrics.port": 0, "metrics.enabled": False}
        return load(None, flags | {key.replace("__", "."): value for key, value in values.items()})

    return make


class HeldIndex:
    """An index whose searches wait until they are let go, and are counted."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.entered, self.release = threading.Event(), threading.Event()
        self.searched: list[int] = []  # queries of each batch
        self.failure: Exception | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._index, name)

    @property
    def snapshot(self):
        return self

    def search(self, queries, k, mask=None, **options):
        self.searched.append(len(queries))
        self.entered.set()
        assert self.release.wait(30)
        if self.failure is not None:
            raise self.failure
        return self._index.search(queries, k, mask, **options)


@pytest.fixture
def held(vector_index):
    """A held index and an opener that serves it."""
    from csplade.engine.collection import Collection

    class Unprepared(Collection):
        def prepare(self, **_):
            """Search nothing: it would be held."""

    index = HeldIndex(Index.open(vector_index, threads=1))
    yield SimpleNamespace(index=index, opener=lambda settings: Unprepared(index))
    index.release.set()


@pytest.fixture(scope="session")
def open_collector():
    """Opens a collector of spans on a loopback port: its address is ``endpoint``."""
    import grpc

    pytest.importorskip(
        "opentelemetry.exporter.otlp.proto.grpc", reason="csplade[tracing] is not installed"
    )
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc

    class Collector(rpc.TraceServiceServicer):
        def __init__(self):
            self.spans, self.resources, self._came = [], [], threading.Condition()

        def Export(self, request, context):
            with self._came:
                for group in request.resource_spans:
                    facts = group.resource.attributes
                    self.resources.append({one.key: one.value.string_value for one in facts})
                    self.spans += [span for scope in group.scope_spans for span in scope.spans]
                self._came.notify_all()
            return pb.ExportTraceServiceResponse()

        def named(self, name):
            return [span for span in self.spans if span.name == name]

        def below(self, parent):
            children = [span for span in self.spans if span.parent_span_id == parent.span_id]
            return sorted(children, key=lambda span: span.start_time_unix_nano)

        def wait_for(self, name, trace, seconds=60):
            """The span of that name in a trace, once it and, sent before it, those below it have
            come.
            """
            with self._came:
                found = self._came.wait_for(
                    lambda: [one for one in self.named(name) if one.trace_id.hex() == trace],
                    seconds,
                )
            assert found, f"no span {name} of {trace} in {seconds} s"
            return found[0]

    @contextmanager
    def open_collector():
        collector, server = Collector(), grpc.server(ThreadPoolExecutor(1))
        rpc.add_TraceServiceServicer_to_server(collector, server)
        collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield collector
        server.stop(0)

    return open_collector


@pytest.fixture(scope="session")
def ray_cluster(settings):
    """The address of a Ray cluster on this machine, for all tests that need one."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from csplade.service.ray.cluster import cluster

    with cluster(settings().server) as address:
        yield address


@pytest.fixture
def beir_folder(tmp_path):
    """Writes a BEIR-format folder of three documents and two judged queries; its files are open to
    change.
    """

    def write(**changes: str) -> Path:
        folder = tmp_path / "small"
        files = {
            "corpus.jsonl": (
                '{"_id": "d1", "title": "Tea", "text": "leaves in hot water"}\n'
                '{"_id": "d2", "title": "", "text": "coffee beans ground and brewed"}\n'
                '{"_id": "d3", "text": "a river of cold water"}\n'
            ),
            "queries.jsonl": (
                '{"_id": "q1", "text": "hot tea"}\n'
                '{"_id": "q2", "text": "cold water"}\n'
                '{"_id": "q3", "text": "never judged"}\n'
            ),
            "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td3\t1\nq2\td3\t1\n",
        }
        for name, text in (files | changes).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return folder

    return write


@pytest.fixture
def real_collections():
    """The folder of real collections beside the repository, or CSPLADE_DATA."""
    folder = Path(os.environ.get("CSPLADE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "scifact" / "corpus.jsonl").is_file():
        pytest.skip(f"no real collections in {folder}; set CSPLADE_DATA to their folder")
    return folder
