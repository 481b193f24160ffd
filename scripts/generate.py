"""Writes the files that are made from the code, or checks (`--check`) that they are current."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from headrace import errors
from headrace.broker.jetstream import grants
from headrace.duration import DURATION_PATTERN
from headrace_operator.api.crd import crd

ROOT = Path(__file__).parents[1]


def errors_page() -> str:
    """docs/reference/errors.md: the tree of errors with their codes, from their docstrings."""
    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.HeadraceError)
    ]
    lines = [
        "# Errors",
        "",
        "<!-- made by `make generate` from worker/headrace/errors.py -->",
        "",
        "Every error has a `code`, typed fields and a `hint` that says what to do next.",
        "",
        "| code | error | is a | what it says |",
        "|---|---|---|---|",
    ]
    for kind in sorted(classes, key=lambda kind: (kind.code, len(kind.__mro__))):
        bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
        text = " ".join((inspect.getdoc(kind) or "").split())
        lines.append(f"| {kind.code} | `{kind.__name__}` | {bases} | {text.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


class _Plain(yaml.SafeDumper):
    """Without anchors: two fields that share a schema are written out twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def definition() -> str:
    """crds/: what the API server is told of a WorkerPool."""
    text = yaml.dump(crd(), Dumper=_Plain, sort_keys=False, width=100, allow_unicode=True)
    return "# made by `make generate` from headrace.manifest and headrace_operator.api\n" + text


# --- docs/reference/manifest.md -------------------------------------------------------------------

_MANIFEST_HEAD = """\
# The manifest

<!-- made by `make generate` from headrace.manifest and headrace_operator.api -->

One file for a laptop (`headrace up -f`) and for a cluster (`kubectl apply -f`):

```yaml
apiVersion: headrace.dev/v1alpha1
kind: WorkerPool
metadata: {name: documents}
spec:
  queue: documents
  app: app:app
  maxWorkers: 8
  template: {spec: {containers: [{name: worker, image: "example/app:1"}]}}
```

A duration is text such as `90s`, `1m30s` or `500ms`: at most four numbers with h, m, s or ms. An
unknown field is refused by `headrace up`, with its line, and by kubectl's validation, which is on
unless somebody turns it off; the API server alone would drop it.

`headrace up` needs `spec.app`, does without `spec.template`, and takes `embedded:///a/folder` in
`spec.nats.url` too. On a cluster the fields below hold.
"""
_MANIFEST_SPEC = """
## `spec`

"needed" where the thing it belongs to is given; no default means absent.

| field | type | default | limits | what it says |
|---|---|---|---|---|
"""
_MANIFEST_RULES = """
## Rules

What a schema alone cannot say, the API server checks at `kubectl apply`. Its refusal names the
field and gives this message. Those on names, minimum and maximum, thresholds and times are checked
by `headrace up` too.

| field | message | rule (CEL) |
|---|---|---|
"""
_MANIFEST_STATUS = """
## `status`

The operator writes it; `headrace up` ignores it. How to read it:
[why is it not scaling](../why-is-it-not-scaling.md).

| field | type | what it says |
|---|---|---|
"""
Schema = dict[str, Any]


def manifest_page() -> str:
    """docs/reference/manifest.md: every field and rule, as the API server is told of them."""
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    parts = schema["properties"]
    spec = [
        _row(f"`{path}`", _type(node), _default(node, needed), _limits(node), _text(node))
        for path, node, needed in _fields("spec", parts["spec"])
    ]
    status = [
        _row(f"`{path}`", _type(node), _text(node))
        for path, node, _ in _fields("status", parts["status"])
    ]
    rules = [
        _row(f"`{path}{rule.get('fieldPath', '')}`", rule["message"], f"`{rule['rule']}`")
        for path, node in (
            ("metadata.name", {key: schema[key] for key in schema if key != "properties"}),
            ("spec", parts["spec"]),
            *((path, node) for path, node, _ in _fields("spec", parts["spec"])),
        )
        for rule in node.get("x-kubernetes-validations", ())
    ]
    text = _MANIFEST_HEAD + _MANIFEST_SPEC + "\n".join(spec) + "\n"
    text += _MANIFEST_RULES + "\n".join(rules) + "\n"
    return text + _MANIFEST_STATUS + "\n".join(status) + "\n"


def _fields(path: str, schema: Schema) -> Iterator[tuple[str, Schema, bool]]:
    """All fields below, parents first, and whether each is needed."""
    needed = schema.get("required", ())
    for name, node in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here, node, name in needed
        inner, at = (node["items"], f"{here}[]") if node["type"] == "array" else (node, here)
        yield from _fields(at, inner)


def _type(schema: Schema) -> str:
    if schema.get("pattern") == DURATION_PATTERN:
        return "duration"
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    if "additionalProperties" in schema:
        return "map of text"
    return {"string": "text", "integer": "whole number"}.get(schema["type"], schema["type"])


def _default(schema: Schema, needed: bool) -> str:
    if needed:
        return "needed"
    value = schema.get("default")
    if value is None or isinstance(value, dict):  # an object's default is that of its fields
        return ""
    whole = isinstance(value, float) and value.is_integer()
    return f"`{int(value) if whole else value if isinstance(value, str) else json.dumps(value)}`"


def _limits(schema: Schema) -> str:
    if schema.get("pattern") == DURATION_PATTERN:
        return ""  # its form is said once, at the top
    found = []
    if "enum" in schema:
        found.append(", ".join(f"`{each}`" for each in schema["enum"]))
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        found.append(f"{low} to {high}")
    elif low is not None:
        found.append(f"{'>' if schema.get('exclusiveMinimum') else '≥'} {low}")
    elif high is not None:
        found.append(f"≤ {high}")
    if "pattern" in schema:
        found.append(f"`{schema['pattern']}`")
    for key, unit in (("Length", "characters"), ("Items", "items"), ("Properties", "keys")):
        if most := schema.get(f"max{key}"):
            least = schema.get(f"min{key}")
            found.append(f"{least} to {most} {unit}" if least else f"≤ {most} {unit}")
    if schema.get("x-kubernetes-list-type") == "set":
        found.append("none twice")
    if keys := schema.get("x-kubernetes-list-map-keys"):
        found.append(f"no {', '.join(keys)} twice")
    items = schema.get("items", schema.get("additionalProperties", {}))
    if each := _limits(items) if items.get("type") == "string" else "":
        found.append(f"each {each}")
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        found.append("all other fields are Kubernetes' own")
    return "; ".join(found)


def _text(schema: Schema) -> str:
    return str(schema.get("description", ""))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


# --- docs/reference/nats-users.md -----------------------------------------------------------------

_USERS_HEAD = """\
# Users of NATS

<!-- made by `make generate` from worker/headrace/broker/jetstream/grants.py -->

What each role must be allowed, and no more. `headrace rights ROLE --queue NAME` prints it for your
queue in the form of the server's configuration, as JSON or as arguments of `nsc`;
`tests/contract/rights/` runs every role with exactly these. How to set users up:
[security](../security.md).

`<queue>` is the queue's name. The rights of an operator and of a dashboard may be those of all
queues (`*` in its place; a stream's name is `*` as a whole then). `_INBOX` is
`HEADRACE_NATS_INBOX`.
"""
_USERS = {
    "owner": "Makes the queue: `headrace queue create`. Can change its streams, and so read any "
    "stream of the account through them. Nothing that runs all day needs it.",
    "producer": "Submits, waits, cancels, streams; looks at its queue; replays dead letters.",
    "worker": "Runs tasks. It may not submit: a `Coordinator`, and a handler that submits, is a "
    "producer too. Answers to who asks it are allowed by `allow_responses`, once each, for a "
    "minute.",
    "operator": "The Kubernetes operator: counts, wakes, drains. No task's data.",
    "dashboard": "Reads everything of a queue, changes nothing.",
}


def users_page() -> str:
    """docs/reference/nats-users.md: every right of every role, and what it is for."""
    parts = [_USERS_HEAD]
    for role in grants.Role:
        rows = [
            _row("publish" if row.publish else "subscribe", f"`{row.subject}`", row.why)
            for row in grants.grants([role], ["QUEUE"])
        ]
        table = "\n".join(rows).replace("QUEUE", "<queue>")
        parts.append(
            f"\n## {role.value.capitalize()}\n\n{_USERS[role.value]}\n\n"
            f"| | subject | for |\n|---|---|---|\n{table}\n"
        )
    return "".join(parts)


GENERATED = {
    "docs/reference/errors.md": errors_page,
    "docs/reference/manifest.md": manifest_page,
    "docs/reference/nats-users.md": users_page,
    "crds/workerpools.headrace.dev.yaml": definition,
    "charts/headrace/files/workerpools.headrace.dev.yaml": definition,
}


def main(check: bool) -> int:
    """Write, or compare; the number of files that differ."""
    stale = 0
    for name, make in GENERATED.items():
        path, text = ROOT / name, make()
        if path.exists() and path.read_text() == text:
            continue
        if check:
            print(f"{name} is not current: run `make generate`")
            stale += 1
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {name}")
    return stale


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
