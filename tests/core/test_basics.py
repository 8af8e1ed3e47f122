"""Errors, ids and state machines."""

from __future__ import annotations

import pickle
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agentcy_ray.core import errors
from agentcy_ray.core.errors import AgentcyError, NotFoundError, Terminal, Transient
from agentcy_ray.core.ids import SourceId, decode, encode, new_id, node_id
from agentcy_ray.core.states import MACHINES, ends, may, sources_of
from agentcy_ray.core.tenancy import PERMISSIONS, Principal, Role


def _tree() -> list[type[AgentcyError]]:
    return [
        found
        for found in vars(errors).values()
        if isinstance(found, type) and issubclass(found, AgentcyError)
    ]


@pytest.mark.parametrize("kind", _tree(), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling_with_code_message_and_details(
    kind: type[AgentcyError],
) -> None:
    error = pickle.loads(pickle.dumps(kind("say what to do", code="special", place=3)))
    assert (type(error), error.message, error.code, error.details) == (
        kind, "say what to do", "special", {"place": 3},
    )  # fmt: skip


@pytest.mark.parametrize("kind", _tree(), ids=lambda kind: kind.__name__)
def test_every_error_is_drawn_in_the_tree_and_has_one_mark_at_most(
    kind: type[AgentcyError],
) -> None:
    assert kind.__name__ in (errors.__doc__ or "")
    refused_but_rate_limited = kind is errors.RateLimitedError
    assert refused_but_rate_limited or not (
        issubclass(kind, Transient) and issubclass(kind, Terminal)
    )


@given(st.uuids())
def test_public_ids_are_read_back_in_any_case(value: UUID) -> None:
    text = encode("src", value)
    assert decode("src", text) == decode("src", text.lower()) == value


@pytest.mark.parametrize("text", ["", "src", "src_", "run_" + "0" * 26, "src_" + "U" * 26])
def test_a_malformed_id_is_like_an_absent_one(text: str) -> None:
    with pytest.raises(NotFoundError):
        decode("src", text)


def test_models_carry_uuids_inside_and_prefixed_text_outside() -> None:
    class Thing(BaseModel):
        id: SourceId

    thing = Thing(id=new_id())
    text = thing.model_dump(mode="json")["id"]
    assert text.startswith("src_")
    assert Thing.model_validate_json(thing.model_dump_json()) == thing


def test_new_ids_are_version_seven_and_ordered_by_time() -> None:
    assert new_id().version == 7
    ids = [new_id() for _ in range(1000)]
    fractions = [value.int >> 64 for value in ids]
    assert fractions == sorted(fractions)
    assert len(set(ids)) == 1000


@pytest.mark.requirement("CTX-15")
def test_the_same_external_key_always_gives_the_same_node_id() -> None:
    org, source = UUID(int=1), UUID(int=2)
    first = node_id(org, "development", source, "GitFile", "a.py")
    assert first == node_id(org, "development", source, "GitFile", "a.py")
    others = {
        node_id(UUID(int=3), "development", source, "GitFile", "a.py"),
        node_id(org, "data", source, "GitFile", "a.py"),
        node_id(org, "development", UUID(int=3), "GitFile", "a.py"),
        node_id(org, "development", source, "GitFil", "ea.py"),
    }
    assert first not in others
    assert len(others) == 4


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_a_machine_allows_the_listed_moves_only(name: str) -> None:
    machine = MACHINES[name]
    assert ends(machine) or name == "source"  # a source is never finished
    for state, after in machine.items():
        for target in after:
            assert may(machine, state, target)
            assert state in sources_of(machine, target)
        assert not may(machine, state, "nowhere")


def test_a_permission_outside_the_catalog_is_a_mistake_of_ours() -> None:
    principal = Principal(user_id=new_id(), org_id=new_id(), role=Role.OWNER)
    assert all(principal.grant(name) for name in PERMISSIONS)
    with pytest.raises(KeyError):
        principal.grant("source.sink")
