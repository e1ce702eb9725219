"""Write the OpenAPI document of the HTTP interface from the proto, comments included:
``python -m csplade.service.http.openapi > service/http/openapi.json``.

Needs grpcio-tools, whose version pins the result; ``make proto`` runs it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from ... import __version__
from ...v1 import retrieval_pb2 as pb
from .body import JSON, LINES
from .errors import STATUSES
from .transcode import UNARY

Schema = dict[str, Any]

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
    "503": "The server is loading or draining.",
    "504": "The deadline passed.",
}


def document(proto: FileDescriptorProto) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a proto file with its comments."""
    comments = {
        tuple(one.path): " ".join(one.leading_comments.split())
        for one in proto.source_code_info.location
    }
    (service,) = proto.service
    full_name = f"{proto.package}.{service.name}"
    methods = {method.name: (number, method) for number, method in enumerate(service.method)}
    asked = set()
    for method in service.method:
        asked |= _reachable(proto, method.input_type)
    schemas = {
        message.name: _message(message, comments, (4, number), message.name in asked)
        for number, message in enumerate(proto.message_type)
    }
    schemas |= {
        one.name: _enum(one, comments, (5, number)) for number, one in enumerate(proto.enum_type)
    }
    paths: dict[str, Any] = {}
    for rpc in UNARY:
        number, method = methods[rpc.name]
        operation = _operation(
            comments[(6, 0, 2, number)], _name(method.input_type), _name(method.output_type)
        )
        paths[f"/{full_name}/{rpc.name}"] = {"post": {"operationId": rpc.name, **operation}}
        alias = {"post": {"operationId": rpc.function, **operation}}
        if rpc.name == "Info":
            plain = {key: value for key, value in operation.items() if key != "requestBody"}
            alias = {"get": {"operationId": "info", **plain}}
        paths[f"/v1/{rpc.path}"] = alias
    number, method = methods["SearchStream"]
    paths["/v1/search/stream"] = {
        "post": {"operationId": "search_stream", **_stream(comments[(6, 0, 2, number)])}
    }
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


def _stream(description: str) -> dict[str, Any]:
    line = {"type": "string", "description": "One SearchStreamRequest a line."}
    lines = {
        "type": "string",
        "description": "One SearchStreamResponse a line. An error that ends the stream is the last "
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
    comments: Mapping[tuple[int, ...], str],
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


def _enum(
    enum: EnumDescriptorProto, comments: Mapping[tuple[int, ...], str], path: tuple[int, ...]
) -> Schema:
    meanings = [
        f"{value.name}: {comments.get((*path, 2, number), '')}"
        for number, value in enumerate(enum.value)
    ]
    return {
        "type": "string",
        "description": " ".join([comments.get(path, ""), *meanings]),
        "enum": [value.name for value in enum.value],
    }


def _reachable(proto: FileDescriptorProto, type_name: str) -> set[str]:
    """Return the names of a message and of all messages in it."""
    messages = {message.name: message for message in proto.message_type}
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


def read_proto() -> FileDescriptorProto:
    """Return the proto of the service with its comments, compiled from its source."""
    from grpc_tools import protoc

    source = Path(pb.__file__).with_name("retrieval.proto")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "descriptors"
        status = protoc.main([
            "protoc", f"--proto_path={source.parent}", "--include_source_info",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--descriptor_set_out={output}", source.name,
        ])  # fmt: skip
        if status:
            sys.exit(status)
        return FileDescriptorSet.FromString(output.read_bytes()).file[0]


def render() -> str:
    """Return the document as the text of its file."""
    return json.dumps(document(read_proto()), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
