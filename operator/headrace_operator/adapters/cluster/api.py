"""Requests to the API server: plain JSON in and out, errors as the operator's own.

The client's models cost 40 KiB a pod and its typed calls lose what a new version adds; its
configuration, authentication and connection pool are what is used of it here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

from headrace_operator.errors import Conflict, Denied, NotFound, OperatorError, Refused, Unreachable

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
APPLY_MANAGER = "headrace-operator"
SCALE_MANAGER = "headrace-scale"
_TIMEOUT = 10.0  # seconds a request may take
Observer = Callable[[str, int], None]


class KubeApi:
    """One connection pool to the API server."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._client: client.ApiClient | None = None

    async def open(self) -> None:
        """Find the cluster: from inside a pod, else by KUBECONFIG. Raises `Unreachable`."""
        settings = client.Configuration()
        try:
            try:
                config.load_incluster_config(client_configuration=settings)
            except config.ConfigException:
                await config.load_kube_config(client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            raise Unreachable(f"no cluster is configured: {error}") from error
        self._client = client.ApiClient(configuration=settings)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
        timeout: float = _TIMEOUT,
    ) -> dict[str, Any]:
        """One request; its answer. Raises an `OperatorError`."""
        api = self._client
        if api is None:
            raise Unreachable("the client is not open")
        status = 0
        try:
            arguments = await api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await api.call_api(*arguments, _request_timeout=timeout)
            data = await response.read()
            status = int(response.status)
        except ApiException as error:
            status = int(error.status or 0)
            raise _translated(status, error.body) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            text = str(error) or type(error).__name__
            raise Unreachable(f"the API server does not answer: {text}") from error
        finally:
            self._observe(method, status)
        if not 200 <= status < 300:
            raise _translated(status, data)
        found: dict[str, Any] = json.loads(data) if data else {}
        return found


def _translated(status: int, body: Any) -> OperatorError:
    try:
        text = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        text = str(body or "")[:300] or f"status {status}"
    if status == 404:
        return NotFound(text)
    if status == 409:
        return Conflict(text)
    if status in (401, 403):
        # A quota's refusal is a 403 too, and is about the object, not about a right.
        return Refused(text) if "exceeded quota" in text else Denied(text)
    if status in (400, 422):
        return Refused(text)
    return Unreachable(f"the API server answers {status}: {text}")
