"""The operator's settings, from its environment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from headrace_operator.settings import Settings


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("HEADRACE_OPERATOR_")]:
        monkeypatch.delenv(name)


def read(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"HEADRACE_OPERATOR_{name.upper()}", value)
    return Settings()


def test_without_an_environment_all_namespaces_and_no_default_server() -> None:
    found = Settings()
    assert (found.watch_namespaces, found.default_nats_namespaces) == ((), ())
    assert (found.nats_url, found.allowed_nats_hosts) == ("", ())
    assert found.log_format == "json"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("a", ("a",)),
        ("a,b", ("a", "b")),
        (" a , ,b, ", ("a", "b")),
        (",", ()),
    ],
)
def test_names_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, text: str, names: tuple[str, ...]
) -> None:
    found = read(monkeypatch, watch_namespaces=text, allowed_nats_hosts=text)
    assert found.watch_namespaces == names
    assert found.allowed_nats_hosts == names


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", ()),
        ("a=a-*", (("a", "a-*"),)),
        ("a=a-*, b=*", (("a", "a-*"), ("b", "*"))),
        ("a=b=c", (("a", "b=c"),)),
        ("a=x,a=y", (("a", "x"), ("a", "y"))),
    ],
)
def test_who_may_use_the_default_server(
    monkeypatch: pytest.MonkeyPatch, text: str, pairs: tuple[tuple[str, str], ...]
) -> None:
    assert read(monkeypatch, default_nats_namespaces=text).default_nats_namespaces == pairs


@pytest.mark.parametrize("text", ["a", "a=", "=b", "=", "a=b,c"])
def test_a_pair_that_is_none_is_refused_with_an_example(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    with pytest.raises(ValidationError, match="is not namespace=queues, such as team-a=team-a-"):
        read(monkeypatch, default_nats_namespaces=text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_workers_per_pool", "0"),
        ("max_workers_per_pool", "many"),
        ("lease_seconds", "0.5"),
        ("lease_seconds", "soon"),
        ("log_format", "xml"),
        ("read_secrets", "perhaps"),
        ("metrics_port", "http"),
    ],
)
def test_bad_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(monkeypatch, **{name: value})
    (row,) = caught.value.errors()
    assert row["loc"] == (name,)


def test_what_was_read_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().nats_url = "nats://else"  # type: ignore[misc]


def test_the_default_server_is_for_those_who_are_named() -> None:
    found = Settings(default_nats_namespaces=(("team-*", "team-*"), ("ops", "*")))
    assert found.may_use_default("team-a", "team-b-documents")
    assert found.may_use_default("ops", "anything")
    assert not found.may_use_default("team-a", "documents")
    assert not found.may_use_default("Ops", "anything")
    assert not Settings().may_use_default("default", "documents")


def test_without_a_list_any_host_may_be_named() -> None:
    assert Settings().may_use_host("anywhere")
    few = Settings(allowed_nats_hosts=("nats.example", "*.nats.svc"))
    assert few.may_use_host("nats.example")
    assert few.may_use_host("a.nats.svc")
    assert not few.may_use_host("nats.example.evil")
    assert not few.may_use_host("")
