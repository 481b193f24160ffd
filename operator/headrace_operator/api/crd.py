"""The CustomResourceDefinition, made from the models.

A structural schema knows neither `$ref` nor `anyOf` with null, and a default on an object must be
spelled out whole: rules over its fields are checked before the defaults inside are filled in.
"""

from __future__ import annotations

import types
from enum import Enum
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from headrace.manifest import PoolSpec
from headrace_operator.api.rules import EXTRA, ROOT_RULES, RULES, TEMPLATE
from headrace_operator.api.v1alpha1 import GROUP, KIND, PLURAL, VERSION, Condition, PoolStatus

_KEPT = (
    *("type", "enum", "pattern", "maxLength", "minLength", "minimum", "maximum"),
    *("maxItems", "items", "exclusiveMinimum"),
)


def crd() -> dict[str, Any]:
    """The definition, as it is applied."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["wp"],
                "categories": ["headrace"],
            },
            "versions": [_version()],
        },
    }


def _version() -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": "A pool of workers of one Headrace queue, sized by its depth.",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": _spec(),
                    "status": _model(PoolStatus),
                },
                "x-kubernetes-validations": ROOT_RULES,
            }
        },
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "selectableFields": [{"jsonPath": ".spec.queue"}],
        "additionalPrinterColumns": _columns(),
    }


def _spec() -> dict[str, Any]:
    schema = _model(PoolSpec)
    schema["properties"]["template"] = TEMPLATE
    schema["required"] = ["queue", "template"]
    return schema


def _columns() -> list[dict[str, Any]]:
    def column(name: str, kind: str, path: str, priority: int = 0) -> dict[str, Any]:
        found = {"name": name, "type": kind, "jsonPath": path}
        return found | ({"priority": priority} if priority else {})

    return [
        column("Desired", "integer", ".status.desiredReplicas"),
        column("Ready", "integer", ".status.readyReplicas"),
        column("Waiting", "integer", ".status.queue.pending"),
        column("Running", "integer", ".status.queue.inFlight"),
        column("Reason", "string", ".status.decision.reason"),
        column("Age", "date", ".metadata.creationTimestamp"),
        column("Queue", "string", ".spec.queue", 1),
        column("Pinned", "integer", ".spec.replicas", 1),
        column("Draining", "integer", ".status.workers.draining", 1),
        column("Message", "string", ".status.decision.message", 1),
    ]


def _model(model: type[BaseModel]) -> dict[str, Any]:
    leaves = model.model_json_schema(by_alias=True)["properties"]
    # As they are written in a manifest. A status has none: what is not there was not found yet.
    of_spec = model.__module__ == PoolSpec.__module__
    defaults = model.model_construct().model_dump(mode="json", by_alias=True, exclude_none=True)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, field in model.model_fields.items():
        alias = field.alias or name
        schema = _field(field, leaves[alias])
        if field.description:
            schema["description"] = " ".join(field.description.split())
        if of_spec and not field.is_required() and alias in defaults:
            schema["default"] = defaults[alias]
        schema |= EXTRA.get((model, alias), {})
        properties[alias] = schema
        if field.is_required():
            required.append(alias)
    found: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        found["required"] = required
    if model in RULES:
        found["x-kubernetes-validations"] = RULES[model]
    return found


def _field(field: FieldInfo, leaf: dict[str, Any]) -> dict[str, Any]:
    inner = _without_none(field.annotation)
    if get_origin(inner) is tuple and get_args(inner)[0] is Condition:
        return {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": _model(Condition),
        }
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        return _model(inner)
    if isinstance(inner, type) and issubclass(inner, Enum):
        return {"type": "string", "enum": [each.value for each in inner]}
    for option in leaf.get("anyOf", ()):
        if option.get("type") != "null":
            leaf = option
            break
    found = {key: leaf[key] for key in _KEPT if key in leaf}
    if "exclusiveMinimum" in found:
        found["minimum"], found["exclusiveMinimum"] = found["exclusiveMinimum"], True
    return found


def _without_none(annotation: Any) -> Any:
    while get_origin(annotation) in (Union, types.UnionType):
        annotation = next(each for each in get_args(annotation) if each is not types.NoneType)
    return annotation
