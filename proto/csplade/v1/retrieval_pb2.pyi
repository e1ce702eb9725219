from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TextKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TEXT_KIND_UNSPECIFIED: _ClassVar[TextKind]
    TEXT_KIND_QUERY: _ClassVar[TextKind]
    TEXT_KIND_DOCUMENT: _ClassVar[TextKind]
TEXT_KIND_UNSPECIFIED: TextKind
TEXT_KIND_QUERY: TextKind
TEXT_KIND_DOCUMENT: TextKind

class SparseVector(_message.Message):
    __slots__ = ("indices", "values", "tokens")
    INDICES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    tokens: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, indices: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[float]] = ..., tokens: _Optional[_Iterable[str]] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("text", "vector")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    text: str
    vector: SparseVector
    def __init__(self, text: _Optional[str] = ..., vector: _Optional[_Union[SparseVector, _Mapping]] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("query", "k", "explain", "with_document", "allow_partial", "columns", "filter", "offset", "score_threshold", "with_vector", "min_generation")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    WITH_DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    ALLOW_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    WITH_VECTOR_FIELD_NUMBER: _ClassVar[int]
    MIN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    query: Query
    k: int
    explain: bool
    with_document: bool
    allow_partial: bool
    columns: bool
    filter: Filter
    offset: int
    score_threshold: float
    with_vector: bool
    min_generation: int
    def __init__(self, query: _Optional[_Union[Query, _Mapping]] = ..., k: _Optional[int] = ..., explain: _Optional[bool] = ..., with_document: _Optional[bool] = ..., allow_partial: _Optional[bool] = ..., columns: _Optional[bool] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., offset: _Optional[int] = ..., score_threshold: _Optional[float] = ..., with_vector: _Optional[bool] = ..., min_generation: _Optional[int] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("must", "should", "must_not")
    MUST_FIELD_NUMBER: _ClassVar[int]
    SHOULD_FIELD_NUMBER: _ClassVar[int]
    MUST_NOT_FIELD_NUMBER: _ClassVar[int]
    must: _containers.RepeatedCompositeFieldContainer[Condition]
    should: _containers.RepeatedCompositeFieldContainer[Condition]
    must_not: _containers.RepeatedCompositeFieldContainer[Condition]
    def __init__(self, must: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ..., should: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ..., must_not: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("field", "match", "range", "exists", "has_id", "nested")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    HAS_ID_FIELD_NUMBER: _ClassVar[int]
    NESTED_FIELD_NUMBER: _ClassVar[int]
    field: str
    match: Match
    range: Range
    exists: bool
    has_id: _containers.RepeatedScalarFieldContainer[str]
    nested: Filter
    def __init__(self, field: _Optional[str] = ..., match: _Optional[_Union[Match, _Mapping]] = ..., range: _Optional[_Union[Range, _Mapping]] = ..., exists: _Optional[bool] = ..., has_id: _Optional[_Iterable[str]] = ..., nested: _Optional[_Union[Filter, _Mapping]] = ...) -> None: ...

class Match(_message.Message):
    __slots__ = ("any",)
    ANY_FIELD_NUMBER: _ClassVar[int]
    EXCEPT_FIELD_NUMBER: _ClassVar[int]
    any: _containers.RepeatedCompositeFieldContainer[_struct_pb2.Value]
    def __init__(self, any: _Optional[_Iterable[_Union[_struct_pb2.Value, _Mapping]]] = ..., **kwargs) -> None: ...

class Range(_message.Message):
    __slots__ = ("gt", "gte", "lt", "lte")
    GT_FIELD_NUMBER: _ClassVar[int]
    GTE_FIELD_NUMBER: _ClassVar[int]
    LT_FIELD_NUMBER: _ClassVar[int]
    LTE_FIELD_NUMBER: _ClassVar[int]
    gt: _struct_pb2.Value
    gte: _struct_pb2.Value
    lt: _struct_pb2.Value
    lte: _struct_pb2.Value
    def __init__(self, gt: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., gte: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., lt: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., lte: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("hits", "matched_documents", "postings_read", "query_terms", "cut", "timings", "generation", "model_fingerprint", "score_scale", "partial", "missing_shards", "columns")
    HITS_FIELD_NUMBER: _ClassVar[int]
    MATCHED_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    POSTINGS_READ_FIELD_NUMBER: _ClassVar[int]
    QUERY_TERMS_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SCORE_SCALE_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    MISSING_SHARDS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[Hit]
    matched_documents: int
    postings_read: int
    query_terms: int
    cut: Cut
    timings: Timings
    generation: int
    model_fingerprint: str
    score_scale: float
    partial: bool
    missing_shards: _containers.RepeatedScalarFieldContainer[int]
    columns: HitColumns
    def __init__(self, hits: _Optional[_Iterable[_Union[Hit, _Mapping]]] = ..., matched_documents: _Optional[int] = ..., postings_read: _Optional[int] = ..., query_terms: _Optional[int] = ..., cut: _Optional[_Union[Cut, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., generation: _Optional[int] = ..., model_fingerprint: _Optional[str] = ..., score_scale: _Optional[float] = ..., partial: _Optional[bool] = ..., missing_shards: _Optional[_Iterable[int]] = ..., columns: _Optional[_Union[HitColumns, _Mapping]] = ...) -> None: ...

class HitColumns(_message.Message):
    __slots__ = ("ids", "integer_scores", "shards", "versions")
    IDS_FIELD_NUMBER: _ClassVar[int]
    INTEGER_SCORES_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    integer_scores: _containers.RepeatedScalarFieldContainer[int]
    shards: _containers.RepeatedScalarFieldContainer[int]
    versions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., integer_scores: _Optional[_Iterable[int]] = ..., shards: _Optional[_Iterable[int]] = ..., versions: _Optional[_Iterable[int]] = ...) -> None: ...

class Hit(_message.Message):
    __slots__ = ("id", "score", "integer_score", "shard", "document", "contributions", "version", "vector")
    ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    INTEGER_SCORE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    id: str
    score: float
    integer_score: int
    shard: int
    document: Document
    contributions: _containers.RepeatedCompositeFieldContainer[Contribution]
    version: int
    vector: SparseVector
    def __init__(self, id: _Optional[str] = ..., score: _Optional[float] = ..., integer_score: _Optional[int] = ..., shard: _Optional[int] = ..., document: _Optional[_Union[Document, _Mapping]] = ..., contributions: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ..., version: _Optional[int] = ..., vector: _Optional[_Union[SparseVector, _Mapping]] = ...) -> None: ...

class Document(_message.Message):
    __slots__ = ("title", "text", "metadata_json")
    TITLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    title: str
    text: str
    metadata_json: str
    def __init__(self, title: _Optional[str] = ..., text: _Optional[str] = ..., metadata_json: _Optional[str] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("term", "token", "query_impact", "document_impact", "product")
    TERM_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    QUERY_IMPACT_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_IMPACT_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    term: int
    token: str
    query_impact: int
    document_impact: int
    product: int
    def __init__(self, term: _Optional[int] = ..., token: _Optional[str] = ..., query_impact: _Optional[int] = ..., document_impact: _Optional[int] = ..., product: _Optional[int] = ...) -> None: ...

class Cut(_message.Message):
    __slots__ = ("tokens", "terms", "impacts")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    IMPACTS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    terms: int
    impacts: int
    def __init__(self, tokens: _Optional[int] = ..., terms: _Optional[int] = ..., impacts: _Optional[int] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue", "tokenize", "encode", "sparsify", "score", "select", "merge", "fetch", "total")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    TOKENIZE_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    SPARSIFY_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SELECT_FIELD_NUMBER: _ClassVar[int]
    MERGE_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    queue: int
    tokenize: int
    encode: int
    sparsify: int
    score: int
    select: int
    merge: int
    fetch: int
    total: int
    def __init__(self, queue: _Optional[int] = ..., tokenize: _Optional[int] = ..., encode: _Optional[int] = ..., sparsify: _Optional[int] = ..., score: _Optional[int] = ..., select: _Optional[int] = ..., merge: _Optional[int] = ..., fetch: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class SearchStreamRequest(_message.Message):
    __slots__ = ("sequence", "request")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    request: SearchRequest
    def __init__(self, sequence: _Optional[int] = ..., request: _Optional[_Union[SearchRequest, _Mapping]] = ...) -> None: ...

class SearchStreamResponse(_message.Message):
    __slots__ = ("sequence", "response", "error")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    response: SearchResponse
    error: Error
    def __init__(self, sequence: _Optional[int] = ..., response: _Optional[_Union[SearchResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class SearchBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[SearchRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[SearchRequest, _Mapping]]] = ...) -> None: ...

class SearchBatchResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[SearchOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[SearchOutcome, _Mapping]]] = ...) -> None: ...

class SearchOutcome(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: SearchResponse
    error: Error
    def __init__(self, response: _Optional[_Union[SearchResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    retry_after_ms: int
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("query", "ids", "with_document")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    WITH_DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    query: Query
    ids: _containers.RepeatedScalarFieldContainer[str]
    with_document: bool
    def __init__(self, query: _Optional[_Union[Query, _Mapping]] = ..., ids: _Optional[_Iterable[str]] = ..., with_document: _Optional[bool] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("explanations", "matched_documents", "query_terms", "cut", "timings", "generation", "score_scale")
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    MATCHED_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    QUERY_TERMS_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SCORE_SCALE_FIELD_NUMBER: _ClassVar[int]
    explanations: _containers.RepeatedCompositeFieldContainer[Explanation]
    matched_documents: int
    query_terms: int
    cut: Cut
    timings: Timings
    generation: int
    score_scale: float
    def __init__(self, explanations: _Optional[_Iterable[_Union[Explanation, _Mapping]]] = ..., matched_documents: _Optional[int] = ..., query_terms: _Optional[int] = ..., cut: _Optional[_Union[Cut, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., generation: _Optional[int] = ..., score_scale: _Optional[float] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("id", "hit", "rank")
    ID_FIELD_NUMBER: _ClassVar[int]
    HIT_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    id: str
    hit: Hit
    rank: int
    def __init__(self, id: _Optional[str] = ..., hit: _Optional[_Union[Hit, _Mapping]] = ..., rank: _Optional[int] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("texts", "kind", "decode", "attribution")
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    kind: TextKind
    decode: bool
    attribution: bool
    def __init__(self, texts: _Optional[_Iterable[str]] = ..., kind: _Optional[_Union[TextKind, str]] = ..., decode: _Optional[bool] = ..., attribution: _Optional[bool] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("encodings", "timings", "model_fingerprint")
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    encodings: _containers.RepeatedCompositeFieldContainer[Encoding]
    timings: Timings
    model_fingerprint: str
    def __init__(self, encodings: _Optional[_Iterable[_Union[Encoding, _Mapping]]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., model_fingerprint: _Optional[str] = ...) -> None: ...

class Encoding(_message.Message):
    __slots__ = ("vector", "tokens", "cut", "text_tokens", "sources")
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    TEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    vector: SparseVector
    tokens: int
    cut: Cut
    text_tokens: _containers.RepeatedScalarFieldContainer[str]
    sources: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, vector: _Optional[_Union[SparseVector, _Mapping]] = ..., tokens: _Optional[int] = ..., cut: _Optional[_Union[Cut, _Mapping]] = ..., text_tokens: _Optional[_Iterable[str]] = ..., sources: _Optional[_Iterable[int]] = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InfoResponse(_message.Message):
    __slots__ = ("version", "versions", "model", "index", "limits")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    version: str
    versions: _containers.ScalarMap[str, str]
    model: ModelInfo
    index: IndexInfo
    limits: Limits
    def __init__(self, version: _Optional[str] = ..., versions: _Optional[_Mapping[str, str]] = ..., model: _Optional[_Union[ModelInfo, _Mapping]] = ..., index: _Optional[_Union[IndexInfo, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("name", "fingerprint", "vocabulary_size", "manifest_json", "query_encoder")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    QUERY_ENCODER_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    vocabulary_size: int
    manifest_json: str
    query_encoder: str
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., manifest_json: _Optional[str] = ..., query_encoder: _Optional[str] = ...) -> None: ...

class IndexInfo(_message.Message):
    __slots__ = ("format_version", "model_fingerprint", "vocabulary_size", "document_scale", "max_impact", "generation", "documents", "postings", "bytes", "shards", "string_terms", "query_modifier", "writable", "fields")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_SCALE_FIELD_NUMBER: _ClassVar[int]
    MAX_IMPACT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    POSTINGS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    STRING_TERMS_FIELD_NUMBER: _ClassVar[int]
    QUERY_MODIFIER_FIELD_NUMBER: _ClassVar[int]
    WRITABLE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    model_fingerprint: str
    vocabulary_size: int
    document_scale: float
    max_impact: int
    generation: int
    documents: int
    postings: int
    bytes: int
    shards: _containers.RepeatedCompositeFieldContainer[ShardInfo]
    string_terms: bool
    query_modifier: str
    writable: bool
    fields: _containers.ScalarMap[str, str]
    def __init__(self, format_version: _Optional[int] = ..., model_fingerprint: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., document_scale: _Optional[float] = ..., max_impact: _Optional[int] = ..., generation: _Optional[int] = ..., documents: _Optional[int] = ..., postings: _Optional[int] = ..., bytes: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[ShardInfo, _Mapping]]] = ..., string_terms: _Optional[bool] = ..., query_modifier: _Optional[str] = ..., writable: _Optional[bool] = ..., fields: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ShardInfo(_message.Message):
    __slots__ = ("documents", "postings", "bytes")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    POSTINGS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    documents: int
    postings: int
    bytes: int
    def __init__(self, documents: _Optional[int] = ..., postings: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("k", "explain_k", "query_terms", "text_bytes", "encode_texts", "stream_in_flight", "queue", "batch_tokens", "batch_queries", "timeout_seconds", "receive_bytes", "send_bytes", "batch_searches", "documents")
    K_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_K_FIELD_NUMBER: _ClassVar[int]
    QUERY_TERMS_FIELD_NUMBER: _ClassVar[int]
    TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    ENCODE_TEXTS_FIELD_NUMBER: _ClassVar[int]
    STREAM_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    BATCH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BATCH_QUERIES_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SEND_BYTES_FIELD_NUMBER: _ClassVar[int]
    BATCH_SEARCHES_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    k: int
    explain_k: int
    query_terms: int
    text_bytes: int
    encode_texts: int
    stream_in_flight: int
    queue: int
    batch_tokens: int
    batch_queries: int
    timeout_seconds: float
    receive_bytes: int
    send_bytes: int
    batch_searches: int
    documents: int
    def __init__(self, k: _Optional[int] = ..., explain_k: _Optional[int] = ..., query_terms: _Optional[int] = ..., text_bytes: _Optional[int] = ..., encode_texts: _Optional[int] = ..., stream_in_flight: _Optional[int] = ..., queue: _Optional[int] = ..., batch_tokens: _Optional[int] = ..., batch_queries: _Optional[int] = ..., timeout_seconds: _Optional[float] = ..., receive_bytes: _Optional[int] = ..., send_bytes: _Optional[int] = ..., batch_searches: _Optional[int] = ..., documents: _Optional[int] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("query", "k", "filter")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    query: Query
    k: int
    filter: Filter
    def __init__(self, query: _Optional[_Union[Query, _Mapping]] = ..., k: _Optional[int] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("identical", "compared", "differences", "matched_documents", "reference_matched_documents", "reference_nanoseconds", "timings", "generation")
    IDENTICAL_FIELD_NUMBER: _ClassVar[int]
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    MATCHED_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_MATCHED_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_NANOSECONDS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    identical: bool
    compared: int
    differences: _containers.RepeatedCompositeFieldContainer[Difference]
    matched_documents: int
    reference_matched_documents: int
    reference_nanoseconds: int
    timings: Timings
    generation: int
    def __init__(self, identical: _Optional[bool] = ..., compared: _Optional[int] = ..., differences: _Optional[_Iterable[_Union[Difference, _Mapping]]] = ..., matched_documents: _Optional[int] = ..., reference_matched_documents: _Optional[int] = ..., reference_nanoseconds: _Optional[int] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., generation: _Optional[int] = ...) -> None: ...

class Difference(_message.Message):
    __slots__ = ("rank", "reference_id", "reference_score", "id", "score")
    RANK_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_SCORE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    rank: int
    reference_id: str
    reference_score: int
    id: str
    score: int
    def __init__(self, rank: _Optional[int] = ..., reference_id: _Optional[str] = ..., reference_score: _Optional[int] = ..., id: _Optional[str] = ..., score: _Optional[int] = ...) -> None: ...
