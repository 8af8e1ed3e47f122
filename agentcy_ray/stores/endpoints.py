"""Where the stores are."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses and credentials of the stores; secrets stay out of ``repr``.

    An empty string means that the install does not use this store. Both the graph and kyma are
    there where organisations may be on either engine: one was used before, or has a URL. The
    reader is a user who may only read; an external graph has no second user, so there it is the
    same one.
    """

    database_url: str = field(default="", repr=False)
    redis_url: str = field(default="", repr=False)
    neo4j_uri: str = ""
    neo4j_user: str = ""
    neo4j_password: str = field(default="", repr=False)
    neo4j_database: str = ""
    neo4j_reader_user: str | None = None
    neo4j_reader_password: str | None = field(default=None, repr=False)
    kyma_url: str = ""
    kyma_flight_url: str | None = None
    kyma_token: str = field(default="", repr=False)
