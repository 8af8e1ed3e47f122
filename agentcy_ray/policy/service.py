"""The policy gate: one question, one decision, from the organisation's active set."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import structlog
from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.errors import PolicyInvalidError
from agentcy_ray.core.org_cache import OrgCache
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import Effect
from agentcy_ray.policy.candidates import Candidate, Explanation, PolicySet, policy_set
from agentcy_ray.policy.engine import RegoEngine, compile_policies, denied_by_error
from agentcy_ray.policy.input import Decision, InputBuilder, PolicyInput
from agentcy_ray.policy.replays import ReplayStore
from agentcy_ray.policy.store import PolicyStore, policy_settings
from agentcy_ray.policy.trials import explained
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import Database

Rule = Literal["allow", "approve", "deny"]
_log = structlog.get_logger(__name__)


class OrgRules(BaseModel):
    """What an organisation has set about approvals, §7 of the product specification."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    approval_defaults: dict[Effect, Rule] = Field(default_factory=dict)
    approval_timeout_secs: int | None = None
    approval_second_person: bool = False

    def default_of(self, effect: Effect) -> Rule:
        """What happens to a call of this effect when no agent or task says otherwise."""
        shipped: Rule = "allow" if effect is Effect.READ else "approve"
        return self.approval_defaults.get(effect, shipped)


@dataclass(frozen=True)
class _Active:
    """The active set of an organisation, as this process last read it."""

    version: str
    settings: dict[str, Any]
    rules: OrgRules
    engine: RegoEngine | None
    broken: PolicyInvalidError | None = None


class PolicyService:
    """Decides by the rows of ``policies``; a change is seen at once by ring, else within 5 s."""

    def __init__(self, db: Database, bell: Bell, settings: Settings) -> None:
        self.store = PolicyStore(db, bell, settings.policy_eval_timeout_ms)
        self.replays = ReplayStore(db)
        self.bell = bell
        self.inputs = InputBuilder(settings.instance_mode)
        self.enabled = settings.agentcy_features_policies
        self.timeout_ms = settings.policy_eval_timeout_ms
        self._active = OrgCache(
            self._load, listen=lambda org_id: bell.listen(f"ch:policy:{org_id.hex}")
        )
        if not self.enabled:
            _log.warning(
                "policies_off",
                effect="every action is allowed that roles allow",
                setting="AGENTCY_FEATURES_POLICIES",
            )

    async def decide(self, org_id: UUID, question: PolicyInput | dict[str, Any]) -> Decision:
        """Answer one question.

        Raises:
            StoreUnavailableError: the policies cannot be read; the caller must not go on.
            pydantic.ValidationError: ``question`` is a dict of another shape.
        """
        if isinstance(question, dict):
            question = PolicyInput.read(question)
        if not self.enabled:
            return Decision(decision="allow", rule="policies_off")
        active = await self._active.get(org_id)
        if active.engine is None:
            assert active.broken is not None
            return denied_by_error(active.broken)
        return await active.engine.answer(question)

    async def explain(
        self, org_id: UUID, questions: Sequence[PolicyInput], candidates: Sequence[Candidate] = ()
    ) -> list[Explanation]:
        """Decide questions without consequences, by the active set or with candidates in it.

        Raises:
            PolicyInvalidError: the set does not compile, or takes too long for so many.
            StoreUnavailableError: the policies cannot be read.
        """
        engine = (await self._active.get(org_id)).engine
        if candidates or engine is None:
            chosen = await self.policy_set(org_id, candidates)
            engine = await asyncio.to_thread(chosen.compile, self.timeout_ms)
        return await asyncio.to_thread(explained, engine, questions)

    async def policy_set(self, org_id: UUID, candidates: Sequence[Candidate] = ()) -> PolicySet:
        """The active set as it is stored now, with the candidates in it."""
        _, settings = await self.store.fingerprint(org_id)
        return policy_set(await self.store.list(org_id), settings, candidates)

    async def rules(self, org_id: UUID) -> OrgRules:
        """What the organisation has set about approvals."""
        return (await self._active.get(org_id)).rules

    async def version(self, org_id: UUID) -> str:
        """A text that names the active set; it changes with every change of it."""
        return (await self._active.get(org_id)).version

    async def close(self) -> None:
        """Stop listening, and drop what only this thread can."""
        for active in self._active.values:
            if active.engine is not None:
                active.engine.leave_thread()
        await self._active.close()

    async def _load(self, org_id: UUID, previous: _Active | None) -> _Active:
        version, settings = await self.store.fingerprint(org_id)
        if previous and previous.version == version and previous.settings == settings:
            return previous
        rules = OrgRules.model_validate(settings)
        texts = [policy.text for policy in await self.store.list(org_id) if policy.enabled]
        try:
            engine = await asyncio.to_thread(
                compile_policies, texts, policy_settings(settings), self.timeout_ms
            )
        except PolicyInvalidError as error:
            # Stored sets have compiled; a newer engine or an edit of the rows can break one.
            _log.error("policy_set_broken", org_id=str(org_id), problem=error.message)
            # Without the frames that it came through, which hold the set before.
            return _Active(version, settings, rules, None, error.with_traceback(None))
        return _Active(version, settings, rules, engine)
