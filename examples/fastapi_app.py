"""A coordinator in a FastAPI app: submit, ask, stream.

uvicorn examples.fastapi_app:api
"""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from headrace import Coordinator, CoordinatorConfig
from headrace.integrations.fastapi import HeadraceCoordinator

coordinator = Coordinator(CoordinatorConfig(min_workers=2), queue="web")


class Document(BaseModel):
    """What a client sends."""

    text: str


@coordinator.handler("count_words")
async def count_words(document: Document) -> dict[str, int]:
    """The work."""
    return {"words": len(document.text.split())}


@coordinator.handler("words")
async def words(text: str) -> AsyncIterator[str]:
    """Work that streams."""
    for word in text.split():
        yield word


api = FastAPI(lifespan=coordinator.lifespan)


@api.post("/documents", status_code=202)
async def create(document: Document, tasks: HeadraceCoordinator) -> dict[str, str]:
    """Submit and answer at once."""
    task = await tasks.submit_async("count_words", document.model_dump())
    return {"id": task.id}


@api.get("/documents/{task_id}")
async def read(task_id: str, tasks: HeadraceCoordinator) -> dict[str, Any]:
    """How far it is."""
    task = await tasks.get_task(task_id)
    if task is None:
        raise HTTPException(404, "unknown or expired")
    return {"status": task.status.value, "result": task.result}


@api.get("/words")
async def talk(text: str, tasks: HeadraceCoordinator) -> StreamingResponse:
    """Stream; a client that goes away cancels the task."""

    async def lines() -> AsyncIterator[str]:
        async for word in tasks.stream("words", text):
            yield word + "\n"

    return StreamingResponse(lines(), media_type="text/plain")
