"""Clients of the service; they import grpcio and protobuf alone."""
