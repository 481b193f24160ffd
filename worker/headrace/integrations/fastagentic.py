"""FastAgentic: a hook that starts a coordinator with the app and stops it with it.

app = App(title="Distributed Agent", hooks=[CoordinatorHook(coordinator)])
"""

from __future__ import annotations

from typing import Any

from headrace.coordinator import Coordinator


class CoordinatorHook:
    """Starts the coordinator when the app starts, stops it gracefully when it ends."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator

    async def on_startup(self, app: Any) -> None:
        """The app starts."""
        await self.coordinator.start()

    async def on_shutdown(self, app: Any) -> None:
        """The app ends."""
        await self.coordinator.stop()
