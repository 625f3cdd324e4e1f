"""What a first call would pay for, paid before it: imports, name lookup, TLS, connections."""

from __future__ import annotations

import asyncio

from lorry.options import resolve
from lorry.session import Session


async def warm_up(session: Session, *, connections: int) -> None:
    """Open at least `connections` connections to each server, by as many questions for `/health`.

    Any answer will do. All questions are asked before the first is answered, so that none takes
    over the connection of another.
    """
    if connections < 0:
        raise ValueError(f"connections is {connections}; it must not be negative")
    _ = session.transport  # imports its library
    options = resolve({}, timeout=session.config.timeout)
    exchanges = [
        session.at(url).exchange("GET", "/health", options=options, takes_any_status=True)
        for url in session.endpoints
        for _ in range(connections)
    ]
    try:
        async with asyncio.TaskGroup() as questions:
            for exchange in exchanges:
                questions.create_task(exchange.open())
        async with asyncio.TaskGroup() as answers:
            for exchange in exchanges:
                answers.create_task(exchange.read_all())
    except BaseExceptionGroup as failures:
        # one is as good as all; a group of one would only be in the way
        raise failures.exceptions[0] from None
    finally:
        for exchange in exchanges:
            await exchange.close()
