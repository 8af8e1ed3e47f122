"""An organisation and the run side of the agent room, as the tests of the loop have them."""

from tests.agent.loop.conftest import database_url, world

__all__ = ["database_url", "world"]
