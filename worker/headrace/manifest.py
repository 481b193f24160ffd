"""The `WorkerPool` manifest: the one file that sizes a pool on a laptop and on a cluster.

    apiVersion: headrace.dev/v1alpha1
    kind: WorkerPool
    metadata: {name: documents}
    spec:
      queue: documents
      app: app:coordinator
      concurrency: 4
      minWorkers: 1
      maxWorkers: 8

`load` reads the pools of a file; what cannot be right is an `InvalidManifest` that names the file,
the line, the field and what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from headrace.duration import Duration
from headrace.errors import HeadraceError, InvalidManifest
from headrace.invalid_manifest import translated
from headrace.scaling.policy import MAX_SPAN, Pause, Policy, Step, WaitTargets
from headrace.task import check_tag
from headrace.wire import QueueNames

GROUP = "headrace.dev"
API_VERSION = f"{GROUP}/v1alpha1"
KIND = "WorkerPool"
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$"
"""Names of pools: a label of DNS, short enough for what Kubernetes appends to it."""

_APP_PATTERN = r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"


Count = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Part(BaseModel):
    """A part of the manifest: camelCase in the file, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        validate_default=False,
        use_attribute_docstrings=True,  # they are the fields' descriptions in the cluster too
    )


class StepSpec(_Part):
    """`scaling.step`: at most so many workers more or fewer within a period."""

    period: Duration = 10.0
    """The time that the numbers below are for."""
    max_up: Annotated[Count, Field(ge=1)] | None = None
    """At most so many workers more within a period; absent: no limit."""
    max_down: Annotated[Count, Field(ge=1)] | None = None
    """At most so many workers fewer within a period; absent: no limit."""

    @field_validator("period")
    @classmethod
    def _in_reach(cls, period: float) -> float:
        return _span("period", period, least=0.001)


class TargetWaitSpec(_Part):
    """`scaling.targetWait`: within what time a waiting task of each level should start."""

    critical: Duration | None = None
    """For tasks of priority critical."""
    high: Duration | None = None
    """For tasks of priority high."""
    normal: Duration | None = None
    """For tasks of priority normal."""
    low: Duration | None = None
    """For tasks of priority low."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        before: tuple[str, float] | None = None
        for name in ("critical", "high", "normal", "low"):
            value = getattr(self, name)
            if value is None:
                continue
            if value <= 0:
                raise _problem(f"{name} must be longer than 0s")
            if before is not None and value < before[1]:
                raise _problem(
                    f"{before[0]} waits longer than {name}, and is served first: "
                    f"give {before[0]} the shorter time"
                )
            before = (name, value)
        return self


class ScalingSpec(_Part):
    """`scaling`: the numbers of the law and its limits."""

    scale_up_threshold: Annotated[Number, Field(gt=0)] = 10
    """Tasks per worker, waiting and running, above which the pool grows. Below `concurrency` it
    counts as `concurrency`."""
    scale_down_threshold: Annotated[Number, Field(ge=0)] = 2
    """Tasks per worker below which the pool shrinks, as far as no running task is in the way."""
    scale_down_window: Duration = 60.0
    """Shrink only to the largest size that was wanted within this time."""
    pause: Pause = Pause.NONE
    """Which changes of the size are held back: None, In (no fewer), Out (no more) or Both."""
    step: StepSpec | None = None
    """A limit of how fast the size may change; absent: at once to what is needed."""
    target_wait: TargetWaitSpec = TargetWaitSpec()
    """Within what time a waiting task should start, for each priority."""

    @field_validator("scale_down_window")
    @classmethod
    def _in_reach(cls, window: float) -> float:
        return _span("scaleDownWindow", window)

    @model_validator(mode="after")
    def _band(self) -> Self:
        if self.scale_down_threshold > self.scale_up_threshold:
            raise _problem(
                f"scaleDownThreshold ({self.scale_down_threshold:g}) is above scaleUpThreshold "
                f"({self.scale_up_threshold:g}): lower the first or raise the second"
            )
        return self


class DrainSpec(_Part):
    """`drain`: how long a worker may finish what it runs."""

    timeout: Duration = 600.0
    """A task that ends within this time is never cut by scale-in, a rollout or an eviction."""


class SecretKeyRef(_Part):
    """A key of a Secret; for the cluster."""

    name: str
    """The Secret, in the pool's namespace."""
    key: str | None = None
    """The key in it; absent: user.creds for credentials, ca.crt for TLS."""


class SecretRef(_Part):
    """A whole Secret; for the cluster."""

    name: str
    """The Secret, in the pool's namespace."""


class NatsSpec(_Part):
    """`nats`: the server, and on a cluster where its credentials are."""

    url: str | None = None
    """`nats://host:4222` or `tls://host:4222`; absent: the operator's default, where it allows the
    queue. On one machine `embedded:///a/folder` too."""
    credentials_secret_ref: SecretKeyRef | None = None
    """The NATS credentials file of the workers, which the operator reads the depth with too."""
    tls_secret_ref: SecretKeyRef | None = None
    """The certificate authority that the server's certificate is checked with."""
    client_certificate_secret_ref: SecretRef | None = None
    """The client's certificate and key, tls.crt and tls.key, for a server that asks for one: a
    Secret of type kubernetes.io/tls."""

    @field_validator("url")
    @classmethod
    def _known(cls, url: str | None) -> str | None:
        if url is not None and not re.match(r"(nats|tls|embedded)://", url):
            raise _problem(
                "is not the url of a server that workers can share: "
                "write nats://host:4222, tls://host:4222 or embedded:///a/folder"
            )
        return url


class Untagged(StrEnum):
    """Whether the pool's workers take tasks without a tag."""

    SERVE = "Serve"
    LEAVE = "Leave"


class PoolSpec(_Part):
    """`spec`: the pool."""

    queue: str
    """The queue that the pool serves. Cannot be changed later."""
    app: str | None = None
    """`module:attribute` of what has the handlers. `headrace up` needs it; on a cluster it becomes
    the worker container's arguments where the template gives it none."""
    concurrency: Annotated[Count, Field(ge=1, le=10_000)] = 4
    """Slots of one process of a worker: tasks that it runs at once."""
    processes: Annotated[Count, Field(ge=1, le=128)] = 1
    """Processes of a worker, to use more than one core: it has `processes` times `concurrency`
    slots."""
    min_workers: Annotated[Count, Field(ge=0)] = 0
    """The pool is never smaller by itself."""
    max_workers: Annotated[Count, Field(ge=1)] = 50
    """The pool is never larger."""
    replicas: Annotated[Count, Field(ge=0)] | None = None
    """A size set by hand, as `kubectl scale` does; absent: automatic."""
    tags: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """Tags whose tasks the pool serves."""
    untagged: Untagged = Untagged.SERVE
    """Whether it also serves tasks without a tag: Serve or Leave."""
    scaling: ScalingSpec = ScalingSpec()
    """The numbers of the law and its limits."""
    drain: DrainSpec = DrainSpec()
    """How workers leave."""
    nats: NatsSpec = NatsSpec()
    """The server, where it is not the default one."""
    template: dict[str, Any] | None = None
    """The pods' template on a cluster, with one container named worker; not looked at by
    `headrace up`."""

    @property
    def slots(self) -> int:
        """Tasks that a worker runs at once."""
        return self.processes * self.concurrency

    @field_validator("queue")
    @classmethod
    def _queue(cls, queue: str) -> str:
        return str(_checked(lambda: QueueNames(queue).queue))

    @field_validator("tags")
    @classmethod
    def _tags(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        for tag in tags:
            _checked(lambda tag=tag: check_tag(tag))
        if len(set(tags)) < len(tags):
            raise _problem("names a tag twice: leave one out")
        return tags

    @field_validator("app")
    @classmethod
    def _app(cls, app: str | None) -> str | None:
        if app is not None and not re.fullmatch(_APP_PATTERN, app):
            raise _problem(f"{app!r} is not module:attribute, such as app:coordinator")
        return app

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.min_workers > self.max_workers:
            raise _problem(
                f"minWorkers ({self.min_workers}) is above maxWorkers ({self.max_workers}): "
                "lower the first or raise the second"
            )
        if self.untagged is Untagged.LEAVE and not self.tags:
            raise _problem("untagged: Leave leaves nothing to serve: give the pool tags")
        return self


class Metadata(_Part):
    """`metadata`: the name; the rest is the cluster's."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    namespace: str | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not re.fullmatch(NAME_PATTERN, name):
            raise _problem(
                f"{name!r} is not a pool's name: use up to 52 of a-z, 0-9 and -, "
                "with a letter or digit at both ends"
            )
        return name


class WorkerPoolManifest(_Part):
    """One pool, as its owner describes it."""

    api_version: Literal["headrace.dev/v1alpha1"] = "headrace.dev/v1alpha1"
    kind: Literal["WorkerPool"] = "WorkerPool"
    metadata: Metadata
    spec: PoolSpec
    status: dict[str, Any] | None = None
    """What the operator wrote there; ignored, so that `kubectl get -o yaml` can be read."""

    @property
    def name(self) -> str:
        """The pool's name."""
        return self.metadata.name

    def to_policy(self, *, period: float = 1.0) -> Policy:
        """The same for the scaling core, asked every `period` seconds."""
        spec, scaling = self.spec, self.spec.scaling
        step = scaling.step
        return Policy(
            min_workers=spec.min_workers,
            max_workers=spec.max_workers,
            slots=spec.slots,
            scale_up_threshold=scaling.scale_up_threshold,
            scale_down_threshold=scaling.scale_down_threshold,
            targets=WaitTargets(**scaling.target_wait.model_dump()),
            window=scaling.scale_down_window,
            step=None if step is None else Step(step.period, step.max_up, step.max_down),
            pause=scaling.pause,
            pin=spec.replicas,
            tags=spec.tags,
            serve_untagged=spec.untagged is Untagged.SERVE,
            period=period,
            drain_timeout=spec.drain.timeout,
        )


def load(path: str | Path) -> list[WorkerPoolManifest]:
    """The pools of a YAML file, at least one; documents of other kinds in it are left alone.

    Raises `InvalidManifest`.
    """
    import yaml

    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidManifest(
            str(path), f"cannot be read: {reason}", hint="Give a manifest with -f pool.yaml"
        ) from None
    pools: list[WorkerPoolManifest] = []
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            document = loader.construct_document(node)
            if document is not None and not _is_foreign(document):
                pools.append(parse(document, str(path), node))
    except yaml.YAMLError as error:
        raise _not_yaml(str(path), error) from None
    finally:
        loader.dispose()
    _check_names(str(path), pools)
    return pools


def parse(document: Any, source: str = "manifest", node: Any = None) -> WorkerPoolManifest:
    """The pool in a document that was read before; `node` is where it stands, for line numbers.

    Raises `InvalidManifest`.
    """
    if not isinstance(document, Mapping):
        raise InvalidManifest(source, "is not a mapping", hint=_BEGIN)
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if field not in document:
            raise InvalidManifest(f"{source}: {field}", "is missing", hint=_BEGIN)
        if document[field] != wanted:
            raise InvalidManifest(
                f"{source}: {field}", f"is {document[field]!r}", hint=f"Write {field}: {wanted}"
            )
    try:
        return WorkerPoolManifest.model_validate(document)
    except ValidationError as error:
        raise translated(error, source, node, WorkerPoolManifest) from None


_BEGIN = f"A manifest begins with apiVersion: {API_VERSION} and kind: {KIND}"


def _is_foreign(document: Any) -> bool:
    """Whether it is an object of somebody else's: files often hold a whole deployment."""
    if not isinstance(document, Mapping):
        return False
    version = document.get("apiVersion")
    return isinstance(version, str) and "kind" in document and not version.startswith(f"{GROUP}/")


def _not_yaml(source: str, error: Any) -> InvalidManifest:
    mark = getattr(error, "problem_mark", None)
    where = f"{source}:{mark.line + 1}" if mark is not None else source
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    return InvalidManifest(where, f"is not YAML: {problem}", hint="Mind indentation and quotes")


def _check_names(source: str, pools: Sequence[WorkerPoolManifest]) -> None:
    if not pools:
        raise InvalidManifest(source, "holds no WorkerPool", hint=_BEGIN)
    seen: set[tuple[str | None, str]] = set()
    for pool in pools:
        key = (pool.metadata.namespace, pool.name)
        if key in seen:
            raise InvalidManifest(
                f"{source}: metadata.name", f"{pool.name!r} is there twice", hint="Rename one"
            )
        seen.add(key)


# --- pydantic's findings in our words -------------------------------------------------------------


def _problem(text: str) -> PydanticCustomError:
    return PydanticCustomError("manifest", "{text}", {"text": text})


def _checked(check: Any) -> Any:
    try:
        return check()
    except HeadraceError as error:
        raise _problem(f"{error.message}; {error.hint}") from None


def _span(name: str, seconds: float, least: float = 0.0) -> float:
    if not least <= seconds <= MAX_SPAN:
        raise _problem(f"{name} must be between {least:g}s and {MAX_SPAN / 3600:g}h")
    return seconds
