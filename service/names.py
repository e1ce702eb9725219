"""Full names of the gRPC services."""

from ..v1 import documents_pb2, retrieval_pb2

RETRIEVAL = retrieval_pb2.DESCRIPTOR.services_by_name["RetrievalService"].full_name
DOCUMENTS = documents_pb2.DESCRIPTOR.services_by_name["DocumentService"].full_name
SERVICE_NAMES = (RETRIEVAL, DOCUMENTS)

_OF_DOCUMENTS = {
    method.name for method in documents_pb2.DESCRIPTOR.services_by_name["DocumentService"].methods
}


def service_of(method: str) -> str:
    """Return the full name of the service that has a method."""
    return DOCUMENTS if method in _OF_DOCUMENTS else RETRIEVAL
