from csplade.v1 import retrieval_pb2 as _retrieval_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WriteStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WRITE_STATUS_UNSPECIFIED: _ClassVar[WriteStatus]
    WRITE_STATUS_CREATED: _ClassVar[WriteStatus]
    WRITE_STATUS_UPDATED: _ClassVar[WriteStatus]
    WRITE_STATUS_UNCHANGED: _ClassVar[WriteStatus]
    WRITE_STATUS_DELETED: _ClassVar[WriteStatus]
    WRITE_STATUS_NOT_FOUND: _ClassVar[WriteStatus]
    WRITE_STATUS_FAILED: _ClassVar[WriteStatus]
WRITE_STATUS_UNSPECIFIED: WriteStatus
WRITE_STATUS_CREATED: WriteStatus
WRITE_STATUS_UPDATED: WriteStatus
WRITE_STATUS_UNCHANGED: WriteStatus
WRITE_STATUS_DELETED: WriteStatus
WRITE_STATUS_NOT_FOUND: WriteStatus
WRITE_STATUS_FAILED: WriteStatus

class UpsertItem(_message.Message):
    __slots__ = ("id", "document", "vector", "if_version")
    ID_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    IF_VERSION_FIELD_NUMBER: _ClassVar[int]
    id: str
    document: _retrieval_pb2.Document
    vector: _retrieval_pb2.SparseVector
    if_version: int
    def __init__(self, id: _Optional[str] = ..., document: _Optional[_Union[_retrieval_pb2.Document, _Mapping]] = ..., vector: _Optional[_Union[_retrieval_pb2.SparseVector, _Mapping]] = ..., if_version: _Optional[int] = ...) -> None: ...

class UpsertRequest(_message.Message):
    __slots__ = ("documents",)
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    documents: _containers.RepeatedCompositeFieldContainer[UpsertItem]
    def __init__(self, documents: _Optional[_Iterable[_Union[UpsertItem, _Mapping]]] = ...) -> None: ...

class UpsertResponse(_message.Message):
    __slots__ = ("results", "generation")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[WriteResult]
    generation: int
    def __init__(self, results: _Optional[_Iterable[_Union[WriteResult, _Mapping]]] = ..., generation: _Optional[int] = ...) -> None: ...

class UpsertStreamResponse(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: UpsertResponse
    error: _retrieval_pb2.Error
    def __init__(self, response: _Optional[_Union[UpsertResponse, _Mapping]] = ..., error: _Optional[_Union[_retrieval_pb2.Error, _Mapping]] = ...) -> None: ...

class WriteResult(_message.Message):
    __slots__ = ("id", "status", "version", "cut", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    status: WriteStatus
    version: int
    cut: _retrieval_pb2.Cut
    error: _retrieval_pb2.Error
    def __init__(self, id: _Optional[str] = ..., status: _Optional[_Union[WriteStatus, str]] = ..., version: _Optional[int] = ..., cut: _Optional[_Union[_retrieval_pb2.Cut, _Mapping]] = ..., error: _Optional[_Union[_retrieval_pb2.Error, _Mapping]] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("ids", "if_version", "filter")
    IDS_FIELD_NUMBER: _ClassVar[int]
    IF_VERSION_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    if_version: int
    filter: _retrieval_pb2.Filter
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., if_version: _Optional[int] = ..., filter: _Optional[_Union[_retrieval_pb2.Filter, _Mapping]] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("results", "generation", "deleted")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[WriteResult]
    generation: int
    deleted: int
    def __init__(self, results: _Optional[_Iterable[_Union[WriteResult, _Mapping]]] = ..., generation: _Optional[int] = ..., deleted: _Optional[int] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("ids", "with_vector")
    IDS_FIELD_NUMBER: _ClassVar[int]
    WITH_VECTOR_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    with_vector: bool
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., with_vector: _Optional[bool] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("documents", "generation")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    documents: _containers.RepeatedCompositeFieldContainer[StoredDocument]
    generation: int
    def __init__(self, documents: _Optional[_Iterable[_Union[StoredDocument, _Mapping]]] = ..., generation: _Optional[int] = ...) -> None: ...

class StoredDocument(_message.Message):
    __slots__ = ("id", "version", "document", "vector")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    id: str
    version: int
    document: _retrieval_pb2.Document
    vector: _retrieval_pb2.SparseVector
    def __init__(self, id: _Optional[str] = ..., version: _Optional[int] = ..., document: _Optional[_Union[_retrieval_pb2.Document, _Mapping]] = ..., vector: _Optional[_Union[_retrieval_pb2.SparseVector, _Mapping]] = ...) -> None: ...

class ScrollRequest(_message.Message):
    __slots__ = ("limit", "cursor", "with_vector", "filter")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    WITH_VECTOR_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    limit: int
    cursor: str
    with_vector: bool
    filter: _retrieval_pb2.Filter
    def __init__(self, limit: _Optional[int] = ..., cursor: _Optional[str] = ..., with_vector: _Optional[bool] = ..., filter: _Optional[_Union[_retrieval_pb2.Filter, _Mapping]] = ...) -> None: ...

class ScrollResponse(_message.Message):
    __slots__ = ("documents", "next_cursor", "generation")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_CURSOR_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    documents: _containers.RepeatedCompositeFieldContainer[StoredDocument]
    next_cursor: str
    generation: int
    def __init__(self, documents: _Optional[_Iterable[_Union[StoredDocument, _Mapping]]] = ..., next_cursor: _Optional[str] = ..., generation: _Optional[int] = ...) -> None: ...

class CountRequest(_message.Message):
    __slots__ = ("filter",)
    FILTER_FIELD_NUMBER: _ClassVar[int]
    filter: _retrieval_pb2.Filter
    def __init__(self, filter: _Optional[_Union[_retrieval_pb2.Filter, _Mapping]] = ...) -> None: ...

class CountResponse(_message.Message):
    __slots__ = ("documents", "generation")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    documents: int
    generation: int
    def __init__(self, documents: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...
