import pytest

from agentcy_ray.policy.engine import PolicyText, compile_policies
from agentcy_ray.policy.input import PolicyInput
from agentcy_ray.policy.shipped import starters

ROLES = ("owner", "admin", "member", "viewer")
OPEN = {"tz": "Europe/Zurich", "days": ["mon", "tue", "wed", "thu", "fri"]}


def engine(**settings):
    texts = [PolicyText(name, name, rego) for name, rego in sorted(starters().items())]
    return compile_policies(texts, settings, 1000)


def asked(
    action="chat.tool.execute", role="member", effect="read", tool="git.log", builtin=False,
    now="2026-04-24T12:00:00.000Z", user="usr_1", request="req_1",
) -> PolicyInput:  # fmt: skip
    is_tool = action == "chat.tool.execute"
    return PolicyInput(
        subject={"user_id": user, "role": role},
        action=action,
        resource={"type": "tool", "tool": tool, "tool_effect": effect, "builtin": builtin}
        if is_tool
        else {"type": "request"},
        context={"request_id": request, "approval_granted": False},
        env={"now": now},
    )


@pytest.mark.requirement("POL-13")
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("effect", ["read", "write", "destructive"])
@pytest.mark.parametrize("builtin", [False, True])
def test_the_effect_of_a_tool_decides_by_role(role, effect, builtin):
    found = engine().evaluate(asked(role=role, effect=effect, builtin=builtin))
    free = builtin or role in {"owner", "admin"}
    assert found.allowed == (free or effect != "destructive")
    assert found.requires_approval == (not free and effect == "write")


@pytest.mark.requirement("POL-13")
@pytest.mark.parametrize("missing", ["user", "request"])
@pytest.mark.parametrize("value", [None, ""])
def test_an_action_without_its_person_or_its_request_is_denied(missing, value):
    found = engine().evaluate(asked("source.read", **{missing: value}))
    assert not found.allowed
    assert found.rule == "data.agentcy.deny"


@pytest.mark.requirement("POL-13")
def test_a_viewer_reaches_no_dangerous_tool_and_the_list_may_be_replaced():
    shipped = ["kubernetes.delete_pod", "remote_execution.exec_command", "github.merge_pull",
               "aws.ec2_stop_instance"]  # fmt: skip
    for tool in shipped:
        assert not engine().evaluate(asked(role="viewer", tool=tool)).allowed
        assert engine().evaluate(asked(role="member", tool=tool)).allowed
        assert engine(dangerous_tools=["x.y"]).evaluate(asked(role="viewer", tool=tool)).allowed
    assert not engine(dangerous_tools=["x.y"]).evaluate(asked(role="viewer", tool="x.y")).allowed


@pytest.mark.requirement("POL-13")
@pytest.mark.parametrize(
    "action", ["org.write", "org.read", "user.write", "policy.write", "engine.migrate"]
)
@pytest.mark.parametrize("role", ROLES)
def test_reserved_actions_take_an_owner_or_an_admin(action, role):
    assert engine().evaluate(asked(action, role)).allowed == (role in {"owner", "admin"})


@pytest.mark.requirement("POL-13")
@pytest.mark.parametrize(
    ("hours", "now", "allowed"),
    [
        (None, "2026-04-26T03:00:00.000Z", True),
        (OPEN | {"from": "08:00", "to": "14:00"}, "2026-04-24T11:59:59.000Z", True),
        (OPEN | {"from": "08:00", "to": "14:00"}, "2026-04-24T12:00:00.000Z", False),
        (OPEN | {"from": "08:00", "to": "18:00"}, "2026-04-25T12:00:00.000Z", False),
        (OPEN | {"from": "22:00", "to": "06:00"}, "2026-04-24T20:30:00.000Z", True),
        (OPEN | {"from": "22:00", "to": "06:00"}, "2026-04-24T12:00:00.000Z", False),
        (OPEN | {"tz": "Atlantis/Nowhere", "from": "00:00", "to": "23:59"},
         "2026-04-24T12:00:00.000Z", False),
    ],
)  # fmt: skip
def test_sources_are_deleted_in_business_hours_once_these_are_set(hours, now, allowed):
    settings = {} if hours is None else {"business_hours": hours}
    rego = engine(**settings)
    assert rego.evaluate(asked("source.delete", "admin", now=now)).allowed is allowed
    assert rego.evaluate(asked("source.update", "admin", now=now)).allowed
