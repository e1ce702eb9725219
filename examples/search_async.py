"""Search from asyncio, many queries at once, and handle a rejected one.

A service whose queue is full rejects a query and says when to try again. Needs a running service,
see ``search_service.py``.
"""

import asyncio
import sys

from csplade import AsyncClient, ServiceError

QUESTIONS = (
    "why do cats purr",
    "hottest planet in the solar system",
    "bread did not rise, what went wrong",
    "deadly toxin in preserved food",
)


async def best(client: AsyncClient, question: str) -> str:
    """Return the title of the best passage; wait and try again while the service is full."""
    while True:
        try:
            answer = await client.search(question, k=1, with_document=True)
        except ServiceError as error:
            if error.retry_after is None:
                raise
            await asyncio.sleep(error.retry_after)
        else:
            return answer.hits[0].document.title if answer.hits else "nothing"


async def main(target: str = "localhost:50051") -> None:
    """Print the best passage of each question."""
    async with AsyncClient(target) as client:
        titles = await asyncio.gather(*(best(client, question) for question in QUESTIONS))
    for question, title in zip(QUESTIONS, titles, strict=True):
        print(f"{question}: {title}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
