from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Header(_message.Message):
    __slots__ = ("version", "num_postings_lists", "num_doc_records", "total_postings_lists", "total_docs", "total_terms_in_collection", "average_doclength", "description")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NUM_POSTINGS_LISTS_FIELD_NUMBER: _ClassVar[int]
    NUM_DOC_RECORDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_POSTINGS_LISTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_DOCS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_TERMS_IN_COLLECTION_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_DOCLENGTH_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    version: int
    num_postings_lists: int
    num_doc_records: int
    total_postings_lists: int
    total_docs: int
    total_terms_in_collection: int
    average_doclength: float
    description: str
    def __init__(self, version: _Optional[int] = ..., num_postings_lists: _Optional[int] = ..., num_doc_records: _Optional[int] = ..., total_postings_lists: _Optional[int] = ..., total_docs: _Optional[int] = ..., total_terms_in_collection: _Optional[int] = ..., average_doclength: _Optional[float] = ..., description: _Optional[str] = ...) -> None: ...

class Posting(_message.Message):
    __slots__ = ("docid", "tf")
    DOCID_FIELD_NUMBER: _ClassVar[int]
    TF_FIELD_NUMBER: _ClassVar[int]
    docid: int
    tf: int
    def __init__(self, docid: _Optional[int] = ..., tf: _Optional[int] = ...) -> None: ...

class PostingsList(_message.Message):
    __slots__ = ("term", "df", "cf", "postings")
    TERM_FIELD_NUMBER: _ClassVar[int]
    DF_FIELD_NUMBER: _ClassVar[int]
    CF_FIELD_NUMBER: _ClassVar[int]
    POSTINGS_FIELD_NUMBER: _ClassVar[int]
    term: str
    df: int
    cf: int
    postings: _containers.RepeatedCompositeFieldContainer[Posting]
    def __init__(self, term: _Optional[str] = ..., df: _Optional[int] = ..., cf: _Optional[int] = ..., postings: _Optional[_Iterable[_Union[Posting, _Mapping]]] = ...) -> None: ...

class DocRecord(_message.Message):
    __slots__ = ("docid", "collection_docid", "doclength")
    DOCID_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_DOCID_FIELD_NUMBER: _ClassVar[int]
    DOCLENGTH_FIELD_NUMBER: _ClassVar[int]
    docid: int
    collection_docid: str
    doclength: int
    def __init__(self, docid: _Optional[int] = ..., collection_docid: _Optional[str] = ..., doclength: _Optional[int] = ...) -> None: ...
