"""The example apps, served as a server would: lifespan, requests, end."""

from __future__ import annotations

import warnings

import httpx
import pytest


async def test_a_fastapi_app_submits_asks_and_streams() -> None:
    from examples.fastapi_app import api, coordinator

    async with api.router.lifespan_context(api) as state:
        for name, value in (state or {}).items():
            setattr(api.state, name, value)
        transport = httpx.ASGITransport(app=_with_state(api, state))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post("/documents", json={"text": "one two three"})
            assert answer.status_code == 202
            task_id = answer.json()["id"]
            await coordinator.wait_for(task_id, timeout=10)
            found = (await client.get(f"/documents/{task_id}")).json()
            assert found == {"status": "completed", "result": {"words": 3}}
            assert (await client.get("/documents/task-unknown")).status_code == 404
            assert (await client.get("/words", params={"text": "a b"})).text == "a\nb\n"
    assert not coordinator.is_running


def _with_state(api, state):  # type: ignore[no-untyped-def]
    """What a server does with the lifespan's state."""

    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        await api({**scope, "state": dict(state or {})}, receive, send)

    return app


@pytest.mark.filterwarnings("ignore")  # the package's own
async def test_a_fastagentic_app_runs_its_work_on_headrace() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from examples.fastagentic_app import app, coordinator

    api = app.fastapi
    async with api.router.lifespan_context(api):
        assert coordinator.is_running
        transport = httpx.ASGITransport(app=api)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post("/run", json={"question": "why"})
            assert answer.json() == {"answer": "WHY"}
    assert not coordinator.is_running
