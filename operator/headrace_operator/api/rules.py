"""What the API server itself refuses: CEL rules for what a schema alone cannot say.

They are the checks of `headrace.manifest` once more, in the words of the person who reads them at
`kubectl apply`. Two things were learned from the server: a rule on a string needs the string's
`maxLength`, or its estimated cost is over the budget; and a default is checked against the rules
before the defaults inside it are filled in.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from headrace.manifest import (
    NAME_PATTERN,
    NatsSpec,
    PoolSpec,
    ScalingSpec,
    SecretKeyRef,
    SecretRef,
    StepSpec,
    TargetWaitSpec,
)
from headrace.scaling.policy import MAX_SPAN
from headrace.task import NAME_PATTERN as TOKEN

_TOKEN = {"pattern": f"^{TOKEN}$", "maxLength": 63}
_HOURS = round(MAX_SPAN / 3600)


def _rule(rule: str, message: str, field: str | None = None) -> dict[str, str]:
    found = {"rule": rule, "message": message}
    return found if field is None else found | {"fieldPath": field}


def _ordered() -> list[dict[str, str]]:
    names = ("critical", "high", "normal", "low")
    return [
        _rule(
            f"!has(self.{first}) || !has(self.{later}) || "
            f"duration(self.{first}) <= duration(self.{later})",
            f"{first} waits longer than {later}, and is served first: "
            f"give {first} the shorter time",
            f".{first}",
        )
        for index, first in enumerate(names)
        for later in names[index + 1 :]
    ]


ROOT_RULES: Final = [
    _rule(
        f"self.metadata.name.matches('{NAME_PATTERN}')",
        "a pool's name has up to 52 of a-z, 0-9 and -, with a letter or digit at both ends",
    ),
]

RULES: Final[dict[type[BaseModel], list[dict[str, str]]]] = {
    PoolSpec: [
        _rule(
            "self.minWorkers <= self.maxWorkers",
            "minWorkers is above maxWorkers: lower the first or raise the second",
            ".minWorkers",
        ),
        _rule(
            "!has(self.replicas) || self.replicas <= self.maxWorkers",
            "replicas is above maxWorkers: lower the first or raise the second",
            ".replicas",
        ),
        _rule(
            "self.untagged != 'Leave' || size(self.tags) > 0",
            "untagged: Leave leaves nothing to serve: give the pool tags",
            ".untagged",
        ),
        _rule(
            "!has(self.template.spec.terminationGracePeriodSeconds) || "
            "self.template.spec.terminationGracePeriodSeconds >= "
            "duration(self.drain.timeout).getSeconds()",
            "terminationGracePeriodSeconds is shorter than drain.timeout, and would cut tasks: "
            "leave it out, the operator sets it",
            ".template",
        ),
    ],
    ScalingSpec: [
        _rule(
            "self.scaleDownThreshold <= self.scaleUpThreshold",
            "scaleDownThreshold is above scaleUpThreshold: lower the first or raise the second",
            ".scaleDownThreshold",
        ),
        _rule(
            f"duration(self.scaleDownWindow) <= duration('{_HOURS}h')",
            f"scaleDownWindow must be at most {_HOURS}h",
            ".scaleDownWindow",
        ),
    ],
    StepSpec: [
        _rule(
            f"duration(self.period) > duration('0s') && "
            f"duration(self.period) <= duration('{_HOURS}h')",
            f"period must be longer than 0s and at most {_HOURS}h",
            ".period",
        ),
    ],
    TargetWaitSpec: [
        *_ordered(),
        *(
            _rule(
                f"!has(self.{name}) || duration(self.{name}) > duration('0s')",
                f"{name} must be longer than 0s",
                f".{name}",
            )
            for name in ("critical", "high", "normal", "low")
        ),
    ],
}

# What a field's schema has beyond its type on the model.
EXTRA: Final[dict[tuple[type[BaseModel], str], dict[str, Any]]] = {
    (PoolSpec, "queue"): {
        **_TOKEN,
        "x-kubernetes-validations": [
            _rule("self == oldSelf", "queue cannot be changed: make a pool for the other queue")
        ],
    },
    (PoolSpec, "app"): {"pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", "maxLength": 253},
    (PoolSpec, "maxWorkers"): {"maximum": 100_000},
    (PoolSpec, "minWorkers"): {"maximum": 100_000},
    (PoolSpec, "replicas"): {"maximum": 100_000, "format": "int32"},
    (PoolSpec, "tags"): {
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", **_TOKEN},
    },
    (SecretKeyRef, "name"): {"minLength": 1, "maxLength": 253},
    (SecretKeyRef, "key"): {"pattern": r"^[-._a-zA-Z0-9]+$", "maxLength": 253},
    (SecretRef, "name"): {"minLength": 1, "maxLength": 253},
    # No user and password in an url: they would be there for all to read.
    (NatsSpec, "url"): {"pattern": r"^(nats|tls)://[^@/\s]+$", "maxLength": 512},
}

_LABELS = {
    "type": "object",
    "maxProperties": 64,
    "additionalProperties": {"type": "string", "maxLength": 4096},
}

TEMPLATE: Final[dict[str, Any]] = {
    "type": "object",
    "description": "The pods' template. The operator adds to the container named worker what makes "
    "it a worker of this pool: environment, probes, grace. All else is the owner's.",
    "required": ["spec"],
    "properties": {
        "metadata": {
            "type": "object",
            "properties": {
                "labels": _LABELS
                | {
                    "x-kubernetes-validations": [
                        _rule(
                            "self.all(key, !key.startsWith('headrace.dev/'))",
                            "labels under headrace.dev/ are the operator's",
                        )
                    ]
                },
                "annotations": _LABELS,
            },
        },
        "spec": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
            "required": ["containers"],
            "properties": {
                "containers": {
                    "type": "array",
                    "maxItems": 16,
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                        "required": ["name"],
                        "properties": {"name": {"type": "string", "maxLength": 63}},
                    },
                    "x-kubernetes-validations": [
                        _rule(
                            "self.exists_one(each, each.name == 'worker')",
                            "the template needs one container named worker",
                        )
                    ],
                },
                "restartPolicy": {"type": "string", "enum": ["Always"]},
                "terminationGracePeriodSeconds": {
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
            },
        },
    },
}
