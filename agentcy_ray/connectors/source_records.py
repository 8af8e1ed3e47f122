"""A source as its store hands it out, and what a caller sends to make or change one."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

from agentcy_ray.core.ids import OrgId, PackageId, SourceId, UserId
from agentcy_ray.stores.egress_pins import Pins

SyncMode = Literal["full", "incremental"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$"
_CRON = re.compile(r"@(hourly|daily|weekly|monthly|yearly|annually|midnight)|\S+( \S+){4}")


class Source(BaseModel):
    """A connected source. ``config`` shows secrets as ``***``."""

    model_config = ConfigDict(frozen=True)

    id: SourceId
    org_id: OrgId
    name: str
    connector: str
    realm: str
    config: dict[str, Any]
    config_version: int
    """Rises with every change of config or egress; a session of an older one is stale."""
    sync_mode: SyncMode
    schedule: str
    egress: Pins
    """The only places that it may connect to."""
    retention_days: int
    status: str
    enabled: bool
    current_package_id: PackageId | None
    last_error: dict[str, Any] | None
    created_by: UserId | None
    created_at: datetime
    updated_at: datetime


class _Sent(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @field_validator("schedule", check_fields=False)
    @classmethod
    def _is_schedule(cls, value: str | None) -> str | None:
        if value is None or value == "manual" or _CRON.fullmatch(value):
            return value
        raise ValueError("must be manual, five cron fields, or @hourly, @daily, @weekly, @monthly")


class NewSource(_Sent):
    """What makes a source. ``realm`` unset = the connector's own."""

    name: str = Field(pattern=NAME)
    connector: str = Field(validation_alias=AliasChoices("connector", "source_type"))
    realm: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    sync_mode: SyncMode = "incremental"
    schedule: str = "manual"
    egress: Pins = Pins()
    retention_days: int = Field(30, ge=1, le=3650)
    enabled: bool = True


class SourceChange(_Sent):
    """What changes a source; only the fields that are given. ``config`` replaces the whole one."""

    name: str | None = Field(None, pattern=NAME)
    realm: str | None = None
    config: dict[str, Any] | None = None
    sync_mode: SyncMode | None = None
    schedule: str | None = None
    egress: Pins | None = None
    retention_days: int | None = Field(None, ge=1, le=3650)
    enabled: bool | None = None

    def given(self) -> dict[str, Any]:
        """The fields that are to change, and their new values."""
        fields = {name: getattr(self, name) for name in self.model_fields_set}
        return {name: value for name, value in fields.items() if value is not None}
