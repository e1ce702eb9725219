"""The gRPC server of one process."""
