"""Where a driver's computations run: beside the event loop, so that links stay alive meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

# runs a computation and gives what it gives; one at a time is asked of it
Compute: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]


async def in_thread(work: Callable[[], Any]) -> Any:
    """In a thread of its own: for a process that has links to keep alive."""
    return await asyncio.to_thread(work)


async def in_place(work: Callable[[], Any]) -> Any:
    """Here and now: for devices and server in one process, which share a model's parts."""
    return work()
