"""FastAPI: the coordinator or client of the app as a parameter of its routes.

api = FastAPI(lifespan=coordinator.lifespan)

@api.post("/thumbs", status_code=202)
async def create(job: Resize, tasks: HeadraceCoordinator) -> dict:
    task = await tasks.submit_async("resize", job.model_dump())
    return {"id": task.id}
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from headrace.coordinator import Coordinator
from headrace.errors import NotRunning


def coordinator_of(connection: HTTPConnection) -> Coordinator:
    """The coordinator that the app's lifespan started. Raises `NotRunning`."""
    found = getattr(connection.state, "headrace", None)
    if not isinstance(found, Coordinator):
        raise NotRunning(
            "the app has no coordinator", hint="Make it with FastAPI(lifespan=coordinator.lifespan)"
        )
    return found


HeadraceCoordinator = Annotated[Coordinator, Depends(coordinator_of)]
"""Annotate a route's parameter with it."""
