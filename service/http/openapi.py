"""Write the OpenAPI document of the HTTP interface from the protos, comments included:
``python -m csplade.service.http.openapi > service/http/openapi.json``.

Needs grpcio-tools, whose version pins the result; ``make proto`` runs it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

from ... import __version__
from ...v1 import retrieval_pb2
from .body import JSON, LINES
from .errors import STATUSES
from .transcode import DOCUMENTS, RETRIEVAL

Schema = dict[str, Any]
Comments = Mapping[tuple[int, ...], str]

Field = FieldDescriptorProto
NUMBERS: Mapping[int, Schema] = {
    Field.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    Field.TYPE_INT32: {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    # Numbers of 64 bits are strings in the proto3 JSON mapping.
    Field.TYPE_UINT64: {"type": "string", "format": "uint64", "pattern": "^[0-9]+$"},
    Field.TYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
    Field.TYPE_FLOAT: {"type": "number", "format": "float"},
    Field.TYPE_DOUBLE: {"type": "number", "format": "double"},
    Field.TYPE_BOOL: {"type": "boolean"},
    Field.TYPE_STRING: {"type": "string"},
}
VALUE: Schema = {"type": ["string", "number", "boolean"]}  # of google.protobuf.Value, without null
ERROR: Schema = {
    "type": "object",
    "description": "Why a request failed.",
    "required": ["code", "message"],
    "properties": {
        "code": {"type": "string", "enum": sorted(code.lower() for code in STATUSES)},
        "message": {"type": "string", "description": "One line: field, value, what is allowed."},
        "retry_after": {"type": "number", "description": "Seconds to wait before trying again."},
    },
}
HEADERS = {
    "Connect-Timeout-Ms": ("Milliseconds that the caller waits.", "^[0-9]{1,10}$"),
    "X-Timeout-Seconds": ("Seconds that the caller waits.", "^[0-9]{1,6}([.][0-9]{1,6})?$"),
    "X-Request-Id": (
        "Comes back with the response, and stands in the log.",
        "^[a-zA-Z0-9-]{1,64}$",
    ),
}
FAILURES = {
    "400": "A field breaks its rule, or encoder and index do not belong together.",
    "401": "No API key.",
    "403": "A wrong API key.",
    "413": "The body is too large.",
    "415": "The body is of another type, or compressed.",
    "429": "The server is full; retry after the time that is told.",
    "500": "The log explains the request id.",
    "501": "The service does not do this in the way it is run: writes on Ray.",
    "503": "The server is loading or draining.",
    "504": "The deadline passed.",
}


@dataclass(frozen=True)
class _Stream:
    """The path of a streaming rpc, and what each line of its bodies is."""

    rpc: str
    path: str
    request: str
    response: str


STREAMS = (
    _Stream("SearchStream", "/v1/search/stream", "SearchStreamRequest", "SearchStreamResponse"),
    _Stream("UpsertStream", "/v1/documents/upsert/stream", "UpsertItem", "WriteResult"),
)


def document(protos: Sequence[FileDescriptorProto]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of proto files with their comments."""
    messages = {message.name: message for proto in protos for message in proto.message_type}
    asked = set()
    for proto in protos:
        for service in proto.service:
            for method in service.method:
                asked |= _reachable(messages, method.input_type)
    schemas: dict[str, Schema] = {}
    paths: dict[str, Any] = {}
    for proto in protos:
        comments = _comments(proto)
        for number, message in enumerate(proto.message_type):
            schemas[message.name] = _message(message, comments, (4, number), message.name in asked)
        for number, one in enumerate(proto.enum_type):
            schemas[one.name] = _enum(one, comments, (5, number))
        for number, service in enumerate(proto.service):
            paths |= _paths(f"{proto.package}.{service.name}", service, comments, (6, number))
    paths |= {
        "/healthz": {"get": _probe("healthz", "Whether the process is alive.", ready=False)},
        "/readyz": {"get": _probe("readyz", "Whether requests are accepted.", ready=True)},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "csplade",
            "version": __version__,
            "description": "Text or sparse vectors in, exactly ranked document ids out. "
            "JSON is the proto3 JSON mapping of csplade.v1: field names in lowerCamelCase "
            "(requests may use the proto's own), numbers of 64 bits as strings.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {**schemas, "RequestError": ERROR},
        },
    }


def _comments(proto: FileDescriptorProto) -> Comments:
    return {
        tuple(one.path): " ".join(one.leading_comments.split())
        for one in proto.source_code_info.location
    }


def _paths(
    full_name: str, service: ServiceDescriptorProto, comments: Comments, path: tuple[int, ...]
) -> dict[str, Any]:
    """Return the paths of a service's rpcs."""
    unary = {rpc.name: rpc for rpc in (*RETRIEVAL, *DOCUMENTS)}
    streams = {stream.rpc: stream for stream in STREAMS}
    paths: dict[str, Any] = {}
    for number, method in enumerate(service.method):
        comment = comments[(*path, 2, number)]
        if (stream := streams.get(method.name)) is not None:
            name = stream.path.removeprefix("/v1/").replace("/", "_")
            paths[stream.path] = {"post": {"operationId": name, **_stream(comment, stream)}}
            continue
        rpc = unary[method.name]
        operation = _operation(comment, _name(method.input_type), _name(method.output_type))
        paths[f"/{full_name}/{rpc.name}"] = {"post": {"operationId": rpc.name, **operation}}
        name = rpc.path.replace("/", "_")
        alias = {"post": {"operationId": name, **operation}}
        if rpc.name == "Info":
            plain = {key: value for key, value in operation.items() if key != "requestBody"}
            alias = {"get": {"operationId": name, **plain}}
        paths[f"/v1/{rpc.path}"] = alias
    return paths


def _operation(description: str, request: str, response: str) -> dict[str, Any]:
    return {
        "description": description,
        "parameters": _parameters(),
        "requestBody": {"required": True, "content": {JSON: {"schema": _reference(request)}}},
        "responses": {
            "200": {
                "description": "The answer.",
                "content": {JSON: {"schema": _reference(response)}},
            },
            **_failures(),
        },
    }


def _stream(description: str, stream: _Stream) -> dict[str, Any]:
    line = {"type": "string", "description": f"One {stream.request} a line."}
    lines = {
        "type": "string",
        "description": f"One {stream.response} a line. An error that ends the stream is the last "
        'line, {"error": RequestError}.',
    }
    return {
        "description": description,
        "parameters": _parameters(),
        "requestBody": {"required": True, "content": {LINES: {"schema": line}}},
        "responses": {
            "200": {"description": "The answers.", "content": {LINES: {"schema": lines}}},
            **_failures(),
        },
    }


def _probe(name: str, description: str, *, ready: bool) -> dict[str, Any]:
    status = {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"type": "string", "enum": ["ready" if ready else "alive"]}},
    }
    responses: dict[str, Any] = {
        "200": {"description": "Yes.", "content": {JSON: {"schema": status}}}
    }
    if ready:
        responses["503"] = _failures()["503"]
    return {"operationId": name, "description": description, "security": [], "responses": responses}


def _parameters() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "header",
            "description": description,
            "schema": {"type": "string", "pattern": pattern},
        }
        for name, (description, pattern) in HEADERS.items()
    ]


def _failures() -> dict[str, Any]:
    return {
        status: {
            "description": description,
            "content": {JSON: {"schema": _reference("RequestError")}},
        }
        for status, description in FAILURES.items()
    }


def _message(
    message: DescriptorProto,
    comments: Comments,
    path: tuple[int, ...],
    in_requests: bool,
) -> Schema:
    maps = {one.name: one for one in message.nested_type if one.options.map_entry}
    properties, always = {}, []
    choices: dict[int, list[str]] = {}
    for number, field in enumerate(message.field):
        schema = _field(field, maps)
        if comment := comments.get((*path, 2, number)):
            schema = {"description": comment, **schema}
        properties[field.json_name] = schema
        if field.HasField("oneof_index") and not field.proto3_optional:
            choices.setdefault(field.oneof_index, []).append(field.json_name)
        elif not field.proto3_optional and (
            field.label == Field.LABEL_REPEATED or field.type != Field.TYPE_MESSAGE
        ):
            always.append(field.json_name)
    schema = {
        "type": "object",
        "description": comments.get(path, ""),
        "properties": properties,
        "additionalProperties": False,
    }
    if not in_requests and always:  # responses hold values of 0 as well
        schema["required"] = always
    for names in choices.values():
        schema["oneOf"] = [{"required": [name]} for name in names]
    return schema


def _field(field: FieldDescriptorProto, maps: Mapping[str, DescriptorProto]) -> Schema:
    if field.type == Field.TYPE_MESSAGE and (entry := maps.get(_name(field.type_name))):
        return {"type": "object", "additionalProperties": _field(entry.field[1], {})}
    if field.type_name == ".google.protobuf.Value":
        one = VALUE
    elif field.type in (Field.TYPE_MESSAGE, Field.TYPE_ENUM):
        one = _reference(_name(field.type_name))
    else:
        one = dict(NUMBERS[field.type])
    return {"type": "array", "items": one} if field.label == Field.LABEL_REPEATED else one


def _enum(enum: EnumDescriptorProto, comments: Comments, path: tuple[int, ...]) -> Schema:
    meanings = [
        f"{value.name}: {comments.get((*path, 2, number), '')}"
        for number, value in enumerate(enum.value)
    ]
    return {
        "type": "string",
        "description": " ".join([comments.get(path, ""), *meanings]),
        "enum": [value.name for value in enum.value],
    }


def _reachable(messages: Mapping[str, DescriptorProto], type_name: str) -> set[str]:
    """Return the names of a message and of all messages in it."""
    found: set[str] = set()
    waiting = [_name(type_name)]
    while waiting:
        name = waiting.pop()
        if name in found or name not in messages:
            continue
        found.add(name)
        waiting += (_name(field.type_name) for field in messages[name].field if field.type_name)
    return found


def _name(type_name: str) -> str:
    return type_name.rpartition(".")[2]


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def read_protos() -> list[FileDescriptorProto]:
    """Return the protos of the services with their comments, compiled from their sources."""
    from grpc_tools import protoc

    folder = Path(retrieval_pb2.__file__).parent
    root = folder.parents[1]
    sources = [
        str((folder / name).relative_to(root)) for name in ("retrieval.proto", "documents.proto")
    ]
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "descriptors"
        status = protoc.main([
            "protoc", f"--proto_path={root}", "--include_source_info",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--descriptor_set_out={output}", *sources,
        ])  # fmt: skip
        if status:
            sys.exit(status)
        return list(FileDescriptorSet.FromString(output.read_bytes()).file)


def render() -> str:
    """Return the document as the text of its file."""
    return json.dumps(document(read_protos()), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
