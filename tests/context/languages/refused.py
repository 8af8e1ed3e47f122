"""How a planner's refusal is looked at."""

from __future__ import annotations

import pickle
from uuid import UUID

import pytest

from agentcy_ray.context.advanced.query import Planner
from agentcy_ray.context.engine import Scope
from agentcy_ray.core.errors import QueryRejectedError

SCOPE = Scope(org_id=UUID(int=5))


def assert_refused(plan: Planner, text: str, token: str, column: int, said: str) -> None:
    """The refusal of ``text`` names the token, its place and what to write, pickled too."""
    with pytest.raises(QueryRejectedError) as caught:
        plan(text, {}, SCOPE, row_limit=10, include_archived=False)
    error = pickle.loads(pickle.dumps(caught.value))
    place = (error.details["token"], error.details["line"], error.details["column"])
    assert place == (token, 1, column)
    assert said in error.message
