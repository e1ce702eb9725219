"""A bare ``grpc.aio`` server that answers every search alike: the lower bound of a Python service.

``python -m csplade.loadtest.echo`` reads the answer (a SearchResponse) from standard input, prints
its port and serves until it is terminated.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager

import grpc.aio

from ..core.errors import UnavailableError
from ..v1 import retrieval_pb2 as pb
from ..v1 import retrieval_pb2_grpc as rpc


class Echo(rpc.RetrievalServiceServicer):
    """Answers and does nothing else."""

    def __init__(self, answer: pb.SearchResponse) -> None:
        self._answer = answer

    async def Search(
        self, _: pb.SearchRequest, context: grpc.aio.ServicerContext
    ) -> pb.SearchResponse:
        """Return the given answer."""
        return self._answer

    async def SearchBatch(
        self, request: pb.SearchBatchRequest, context: grpc.aio.ServicerContext
    ) -> pb.SearchBatchResponse:
        """Return the given answer once for each query."""
        outcome = pb.SearchOutcome(response=self._answer)
        return pb.SearchBatchResponse(outcomes=[outcome] * len(request.requests))

    async def SearchStream(
        self, requests: AsyncIterator[pb.SearchStreamRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.SearchStreamResponse]:
        """Return the given answer to each request."""
        async for request in requests:
            yield pb.SearchStreamResponse(sequence=request.sequence, response=self._answer)


async def serve(answer: pb.SearchResponse) -> None:
    """Serve on a free port of the loopback interface."""
    server = grpc.aio.server()
    rpc.add_RetrievalServiceServicer_to_server(Echo(answer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


@contextmanager
def running(answer: pb.SearchResponse) -> Iterator[str]:
    """Run the server in a process of its own; yield ``host:port``.

    Raises:
        UnavailableError: it does not start.
    """
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(answer.SerializeToString())
            process.stdin.close()
            port = process.stdout.readline().decode().strip()
            if not port:
                raise UnavailableError("the echo server does not start")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def answering(hits: int) -> AbstractContextManager[str]:
    """Run the server with an answer of so many hits, each with a short id."""
    answer = pb.SearchResponse(matched_documents=hits, score_scale=1.0)
    for number in range(hits):
        answer.hits.add(id=str(number), score=float(hits - number), integer_score=hits - number)
    return running(answer)


if __name__ == "__main__":
    asyncio.run(serve(pb.SearchResponse.FromString(sys.stdin.buffer.read())))
