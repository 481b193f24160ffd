"""The custom resource's definition: structural, and of one mind with the Python model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.errors import InvalidManifest
from headrace.manifest import WorkerPoolManifest, parse
from headrace_operator.api.crd import crd
from headrace_operator.api.rules import RULES
from headrace_operator.core.conditions import TYPES

CRD = crd()
VERSION: dict[str, Any] = CRD["spec"]["versions"][0]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]
SPEC: dict[str, Any] = SCHEMA["properties"]["spec"]
KEEPS = "x-kubernetes-preserve-unknown-fields"
_OF_TYPE: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def nodes(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each schema in this one, with where it is."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), Mapping):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


ALL = dict(nodes(SCHEMA))


def manifest(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": "documents"},
        "spec": {"queue": "documents"} | spec,
    }


def defaulted(value: Any, schema: Mapping[str, Any]) -> Any:
    """What the API server makes of it: defaults where nothing is given, from the outside in."""
    if not isinstance(value, dict):
        return value
    found = dict(value)
    for name, inner in schema.get("properties", {}).items():
        if name not in found and "default" in inner:
            found[name] = copy.deepcopy(inner["default"])
        if name in found:
            found[name] = defaulted(found[name], inner)
    return found


# --- structural ---


@pytest.mark.parametrize("path", ALL)
def test_each_node_has_a_type_that_a_structural_schema_knows(path: str) -> None:
    node = ALL[path]
    assert node.get("type") in _OF_TYPE or node.get(KEEPS), node
    foreign = {"$ref", "$defs", "definitions", "anyOf", "oneOf", "allOf", "not", "nullable"}
    assert not foreign & set(node)
    assert not {"title", "const", "uniqueItems", "patternProperties", "examples"} & set(node)


@pytest.mark.parametrize("path", ALL)
def test_what_is_said_of_a_node_fits_its_type(path: str) -> None:
    node = ALL[path]
    kind = node.get("type")
    assert ("items" in node) == (kind == "array")
    if "properties" in node:
        assert kind == "object"
        assert "additionalProperties" not in node
        assert set(node.get("required", ())) <= set(node["properties"])
    if {"pattern", "maxLength", "minLength"} & set(node):
        assert kind == "string"
    if {"minimum", "maximum"} & set(node):
        assert kind in ("integer", "number")
    if "exclusiveMinimum" in node:
        assert node["exclusiveMinimum"] is True  # a number in JSON Schema, a flag here
        assert "minimum" in node


def test_lists_that_are_maps_have_their_keys_and_require_them() -> None:
    for path, node in ALL.items():
        for key in node.get("x-kubernetes-list-map-keys", ()):
            assert node["x-kubernetes-list-type"] == "map"
            assert key in node["items"]["properties"], path
            assert key in node["items"]["required"], path


def test_defaults_are_of_their_type() -> None:
    found = 0
    for path, node in ALL.items():
        if "default" not in node:
            continue
        found += path.startswith(".spec.")
        default = node["default"]
        assert isinstance(default, _OF_TYPE[node["type"]]), path
        assert not isinstance(default, bool) or node["type"] == "boolean"
        assert default in node.get("enum", [default])
        if node["type"] in ("integer", "number"):
            assert node.get("minimum", default) <= default <= node.get("maximum", default)
    assert found >= 10


def test_a_default_of_an_object_is_whole_as_rules_see_it_before_those_inside() -> None:
    for path, node in ALL.items():
        if node.get("type") == "object" and "default" in node:
            assert node["default"] == defaulted(node["default"], node), path


def test_strings_that_rules_look_at_have_an_end() -> None:
    # Without one the estimated cost is over the server's budget.
    for path, node in ALL.items():
        if path.startswith(".spec.") and node.get("type") == "string" and "enum" not in node:
            assert "maxLength" in node, path


def test_everything_in_the_spec_is_described() -> None:
    for path, node in ALL.items():
        if not path.startswith(".spec.") or path.startswith(".spec.template."):
            continue
        if path.endswith("[]"):
            continue
        assert len(node.get("description", "")) > 10, path
        assert "\n" not in node["description"]
        assert "`headrace.scaling" not in node["description"]


def test_only_the_template_keeps_what_it_does_not_know() -> None:
    keeping = [path for path, node in ALL.items() if node.get(KEEPS)]
    assert keeping == [".spec.template.spec", ".spec.template.spec.containers[]"]


def test_the_file_is_what_the_code_makes() -> None:
    file = Path(__file__).parents[3] / "crds" / "workerpools.headrace.dev.yaml"
    assert yaml.safe_load(file.read_text()) == CRD


# --- what else the definition says ---


def test_scale_and_status_are_subresources() -> None:
    assert VERSION["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }


def test_every_path_that_is_named_exists() -> None:
    scale = VERSION["subresources"]["scale"].values()
    columns = [each["jsonPath"] for each in VERSION["additionalPrinterColumns"]]
    selectable = [each["jsonPath"] for each in VERSION["selectableFields"]]
    for path in (*scale, *columns, *selectable):
        assert path in ALL or path == ".metadata.creationTimestamp"
    for column in VERSION["additionalPrinterColumns"]:
        if column["type"] != "date":
            assert ALL[column["jsonPath"]]["type"] == column["type"]


def test_a_size_is_absent_by_default() -> None:
    assert "default" not in SPEC["properties"]["replicas"]


def test_conditions_are_as_the_api_conventions_want_them() -> None:
    node = ALL[".status.conditions"]
    assert node["x-kubernetes-list-map-keys"] == ["type"]
    item = node["items"]
    assert item["properties"]["status"]["enum"] == ["True", "False", "Unknown"]
    assert {"type", "status", "reason"} <= set(item["required"])
    assert len(set(TYPES)) == len(TYPES)


def test_the_status_has_no_defaults_and_requires_nothing() -> None:
    assert "required" not in ALL[".status"]


def test_rules_name_fields_that_exist() -> None:
    found = 0
    for path, node in ALL.items():
        for rule in node.get("x-kubernetes-validations", ()):
            found += 1
            assert set(rule) <= {"rule", "message", "fieldPath"}
            assert "\n" not in rule["message"]
            if "fieldPath" in rule:
                assert rule["fieldPath"][1:] in node["properties"], path
    assert found >= sum(len(each) for each in RULES.values())


# --- one mind with the manifest ---


def test_a_manifest_means_the_same_with_and_without_the_servers_defaults() -> None:
    minimal = manifest()
    full = minimal | {"spec": defaulted(minimal["spec"], SPEC)}
    assert set(full["spec"]) > {"queue", "scaling", "drain", "minWorkers"}
    assert parse(full) == parse(minimal)
    assert parse(full).to_policy() == parse(minimal).to_policy()


@pytest.mark.parametrize(
    "spec",
    [
        {"scaling": {}},
        {"scaling": {"scaleUpThreshold": 20}},
        {"scaling": {"step": {}}},
        {"scaling": {"step": {"maxUp": 2}, "targetWait": {"high": "1s"}}},
        {"drain": {}},
        {"nats": {}},
        {"nats": {"credentialsSecretRef": {"name": "x"}}},
    ],
    ids=str,
)
def test_a_part_that_is_given_gets_the_same_defaults_inside(spec: dict[str, Any]) -> None:
    given = manifest(**spec)
    assert parse(given | {"spec": defaulted(given["spec"], SPEC)}) == parse(given)


def test_the_spec_has_the_fields_of_the_manifest_and_no_others() -> None:
    for path, model in _models(WorkerPoolManifest.model_fields["spec"].annotation, ".spec"):
        fields = {field.alias or name for name, field in model.model_fields.items()}
        assert set(ALL[path]["properties"]) == fields, path


def _models(model: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, model
    for name, field in model.model_fields.items():
        for option in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(option, "model_fields"):
                yield from _models(option, f"{path}.{field.alias or name}")


_LEVELS = ("critical", "high", "normal", "low")
# One for each rule and pattern of the definition that the model has too.
BAD: dict[str, dict[str, Any]] = {
    "minWorkers above maxWorkers": {"minWorkers": 3, "maxWorkers": 2},
    "minWorkers below 0": {"minWorkers": -1},
    "maxWorkers 0": {"maxWorkers": 0},
    "replicas below 0": {"replicas": -1},
    "concurrency 0": {"concurrency": 0},
    "concurrency too large": {"concurrency": 10_001},
    "untagged Leave without tags": {"untagged": "Leave"},
    "untagged else": {"untagged": "Sometimes"},
    "a tag twice": {"tags": ["a", "a"]},
    "a tag that cannot be in a subject": {"tags": ["a.b"]},
    "too many tags": {"tags": [f"t{number}" for number in range(17)]},
    "a queue that cannot be in a subject": {"queue": "a.b"},
    "a queue's name that is too long": {"queue": "q" * 64},
    "an app without an attribute": {"app": "shop"},
    "down above up": {"scaling": {"scaleUpThreshold": 2, "scaleDownThreshold": 3}},
    "up 0": {"scaling": {"scaleUpThreshold": 0, "scaleDownThreshold": 0}},
    "down below 0": {"scaling": {"scaleDownThreshold": -1}},
    "a window over an hour": {"scaling": {"scaleDownWindow": "61m"}},
    "a pause that is none": {"scaling": {"pause": "Yes"}},
    "a step in no time": {"scaling": {"step": {"period": "0s"}}},
    "a step over an hour": {"scaling": {"step": {"period": "2h"}}},
    "a step of nothing": {"scaling": {"step": {"maxUp": 0}}},
    "a number without a unit": {"drain": {"timeout": 90}},
    "a unit that is none": {"drain": {"timeout": "2w"}},
    "five parts": {"drain": {"timeout": "1h1m1s1ms1ms"}},
    "no part": {"drain": {"timeout": ""}},
    "another scheme": {"nats": {"url": "http://nats"}},
    "a field that is none": {"wokers": 3},
}
BAD |= {f"{name} within no time": {"scaling": {"targetWait": {name: "0s"}}} for name in _LEVELS}
BAD |= {
    f"{first} after {later}": {"scaling": {"targetWait": {first: "2s", later: "1s"}}}
    for number, first in enumerate(_LEVELS)
    for later in _LEVELS[number + 1 :]
}


@pytest.mark.parametrize("name", BAD)
def test_the_model_refuses_what_the_server_refuses(name: str) -> None:
    with pytest.raises(InvalidManifest):
        parse(manifest(**BAD[name]))


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a_b", "a" * 53])
def test_the_model_refuses_names_that_the_server_refuses(name: str) -> None:
    with pytest.raises(InvalidManifest):
        parse(manifest() | {"metadata": {"name": name}})


@pytest.mark.parametrize(
    "spec",
    [
        {"minWorkers": 2, "maxWorkers": 2},
        {"replicas": 0, "minWorkers": 1},
        {"untagged": "Leave", "tags": ["gpu"]},
        {"scaling": {"scaleUpThreshold": 2, "scaleDownThreshold": 2}},
        {"scaling": {"scaleDownWindow": "1h"}},
        {"scaling": {"scaleDownWindow": "0s"}},
        {"scaling": {"step": {"period": "1ms"}}},
        {"scaling": {"targetWait": {"critical": "1s", "low": "1s"}}},
        {"drain": {"timeout": "1h1m1s1ms"}},
    ],
    ids=str,
)
def test_the_model_takes_what_is_just_right(spec: dict[str, Any]) -> None:
    assert parse(manifest(**spec)).name == "documents"
