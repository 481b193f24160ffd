"""A coordinator in a FastAgentic app (the real package).

The page of the original shows `@app.on_startup`, `@app.on_shutdown` and `@app.agent_endpoint`.
`fastagentic` 1.2 on PyPI has none of the three: its app takes hooks and FastAPI's routes, so that
is what this file uses. The coordinator's part is as on the page.
"""

from typing import Any

from fastagentic import App

from headrace import Coordinator, CoordinatorConfig
from headrace.integrations.fastagentic import CoordinatorHook

coordinator = Coordinator(config=CoordinatorConfig(min_workers=4), queue="agents")


@coordinator.handler("agent_task")
async def agent_task(data: dict[str, Any]) -> dict[str, Any]:
    """Run agent logic."""
    return {"answer": data["question"].upper()}


app = App(title="Distributed Agent", hooks=[CoordinatorHook(coordinator)])


@app.fastapi.post("/run")
async def run_endpoint(request: dict[str, Any]) -> Any:
    """Submit and wait."""
    return await coordinator.submit("agent_task", request)
