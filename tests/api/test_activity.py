"""User activity: told by anybody of themselves, read by administrators."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agentcy_ray.core.clock import SystemClock
from agentcy_ray.core.ids import decode, new_id
from tests.api.people import join
from tests.api.platform import Platform


@pytest.mark.requirement("UI-07")
async def test_what_a_person_did_is_kept_and_listed_for_them(platform: Platform) -> None:
    person, other, owner = (
        await join(platform, "viewer"), await join(platform), await platform.as_("owner")
    )  # fmt: skip
    now = SystemClock().now()
    events = [
        {"name": "page.view", "target": f"/{n}", "at": (now - timedelta(minutes=5)).isoformat()}
        for n in range(3)
    ]
    assert (await person.client.post("/activity", json={"events": events})).status_code == 204
    late = {"name": "page.view", "at": "2001-01-01T00:00:00Z"}
    assert (await other.client.post("/activity", json={"events": [late]})).status_code == 204
    assert (await person.client.get("/activity")).status_code == 403
    many = {"events": [late] * 101}
    assert (await person.client.post("/activity", json=many)).status_code == 422

    mine = {"user_id": person.id, "limit": 2}
    first = (await owner.get("/activity", params=mine)).json()
    rest = (await owner.get("/activity", params=mine | {"cursor": first["next_cursor"]})).json()
    listed = [*first["items"], *rest["items"]]
    assert [one["target"] for one in listed] == ["/2", "/1", "/0"]
    assert {one["user_id"] for one in listed} == {person.id}
    (corrected,) = (await owner.get("/activity", params={"user_id": other.id})).json()["items"]
    assert corrected["at"] >= now.isoformat()[:19]  # a clock that is years off is not believed

    await platform.sql(
        "INSERT INTO ui_events (id, org_id, user_id, name, at, created_at)"
        " VALUES ($1, $2, $3, 'old', now(), now() - interval '91 days')",
        new_id(), platform.org_id, decode("usr", other.id),
    )  # fmt: skip
    done = await platform.services.upkeep.once()
    assert done.activity == 1
    (left,) = (await owner.get("/activity", params={"user_id": other.id})).json()["items"]
    assert left["name"] == "page.view"
