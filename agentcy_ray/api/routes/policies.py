"""Policies: versioned Rego, its dry run, and its replay over what was asked before."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from agentcy_ray.api.idempotency import once
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import Services, services_of
from agentcy_ray.api.witness import witness
from agentcy_ray.audit.recorded import newest_inputs
from agentcy_ray.core.errors import InvalidError
from agentcy_ray.core.ids import decode, encode, new_id
from agentcy_ray.jobs.records import Job, JobStatus, NewJob, Progress
from agentcy_ray.policy.candidates import Candidate, Explanation
from agentcy_ray.policy.input import InputBuilder, PolicyInput, subject_of
from agentcy_ray.policy.modules import MAX_BYTES
from agentcy_ray.policy.replay import BlastRadius, Recorded
from agentcy_ray.policy.replays import JOB_KIND, Replay
from agentcy_ray.policy.store import Policy
from agentcy_ray.policy.trials import replayed

router = APIRouter(prefix="/policies", tags=["policies"])
Reader = Annotated[Allowed, permit("policy.read")]
Writer = Annotated[Allowed, permit("policy.write")]

INLINE_DAYS, INLINE_LIMIT, DAYS = 90, 1000, 366


class NewPolicy(BaseModel):
    """A policy to add."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    rego: str = Field(max_length=MAX_BYTES)
    enabled: bool = True


class PolicyChange(BaseModel):
    """A new text, or on and off; what is absent stays."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    rego: str | None = Field(default=None, max_length=MAX_BYTES)
    enabled: bool | None = None


class PolicyList(BaseModel):
    """All policies of an organisation, 100 at most, so there is no further page."""

    items: list[Policy]
    next_cursor: None = None


class ReplaySpan(BaseModel):
    """Which recorded inputs to replay within the request: the newest ``limit`` of a time."""

    model_config = ConfigDict(extra="forbid")

    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    limit: int = Field(default=INLINE_LIMIT, ge=1, le=INLINE_LIMIT)


class Question(BaseModel):
    """A question to try; what is left out is the caller's own, and now."""

    model_config = ConfigDict(extra="forbid")

    action: str
    subject: dict[str, Any] | None = None
    resource: dict[str, Any] = {}
    context: dict[str, Any] = {}
    env: dict[str, Any] = {}

    def asked_by(self, caller: Allowed, inputs: InputBuilder) -> PolicyInput:
        """The whole input."""
        return PolicyInput(
            subject=subject_of(caller.principal) if self.subject is None else self.subject,
            action=self.action,
            resource=self.resource,
            context={
                "approval_granted": False,
                "request_id": caller.request_id,
                **self.context,
            },
            env={**inputs.env(), **self.env},
        )


class Evaluation(BaseModel):
    """A dry run: questions, or a span of recorded ones, by the active set or a candidate."""

    model_config = ConfigDict(extra="forbid")

    input: Question | None = None
    inputs: list[Question] = Field(default=[], max_length=128)
    replay: ReplaySpan | None = None
    policies: list[Candidate] = Field(default=[], max_length=100)
    """Candidates: each takes the place of the active policy of its name, or joins the set."""

    @model_validator(mode="after")
    def _one_thing(self) -> Evaluation:
        if (self.replay is not None) == (self.input is not None or bool(self.inputs)):
            raise ValueError("give input, inputs or replay")
        return self


class Evaluated(BaseModel):
    """The answers of a dry run, in the order of the questions; or what a replay found."""

    results: list[Explanation] | None = None
    replay: BlastRadius | None = None


class NewReplay(BaseModel):
    """A replay to run in the background over the last ``days``, or a time."""

    model_config = ConfigDict(extra="forbid")

    policies: list[Candidate] = Field(min_length=1, max_length=100)
    days: int = Field(default=7, ge=1, le=DAYS)
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None


class ReplayState(BaseModel):
    """A replay with the state of its job; ``result`` is there once it has succeeded."""

    replay: Replay
    status: JobStatus
    running: bool
    """Whether its job may still come to an end."""
    progress: Progress | None
    error: dict[str, Any] | None


@router.get("")
async def list_policies(caller: Reader, request: Request) -> PolicyList:
    """All policies with their current texts, by name."""
    return PolicyList(items=list(await _services(request).gates.policy.store.list(caller.org_id)))


@router.post("", status_code=201, response_model=Policy)
async def create_policy(body: NewPolicy, caller: Writer, request: Request) -> Response:
    """Add a policy; it decides in every process within a second."""
    store, author = _services(request).gates.policy.store, caller.principal.user_id

    async def create() -> Policy:
        made = await store.create(caller.org_id, author, body.name, body.rego, enabled=body.enabled)
        await _witness(request, caller, "policy.created", made)
        return made

    return await once(request, caller, create, 201)


@router.post("/restore")
async def restore_policies(caller: Writer, request: Request) -> PolicyList:
    """Bring the starter policies back: their shipped text as a new version, and on."""
    store = _services(request).gates.policy.store
    restored = list(await store.restore(caller.org_id, caller.principal.user_id))
    for policy in restored:
        if policy.starter:
            await _witness(request, caller, "policy.restored", policy)
    return PolicyList(items=restored)


@router.post("/evaluate")
async def evaluate(body: Evaluation, caller: Reader, request: Request) -> Evaluated:
    """Dry run with explanation; nothing is changed or audited as a decision."""
    services = _services(request)
    if body.replay is not None:
        return Evaluated(replay=await _replayed(services, caller, body, body.replay))
    policy = services.gates.policy
    asked = ([body.input] if body.input is not None else []) + body.inputs
    questions = [each.asked_by(caller, policy.inputs) for each in asked]
    return Evaluated(results=await policy.explain(caller.org_id, questions, body.policies))


@router.post("/replays", status_code=202, response_model=ReplayState)
async def start_replay(body: NewReplay, caller: Reader, request: Request) -> Response:
    """Replay recorded inputs in the background; the candidate has to compile."""
    return await once(request, caller, lambda: _start(_services(request), caller, body), 202)


@router.get("/replays/{replay_id}")
async def read_replay(
    replay_id: str,
    caller: Reader,
    request: Request,
    wait_secs: Annotated[float, Query(ge=0, le=60)] = 0,
) -> ReplayState:
    """A replay; with ``wait_secs`` the answer waits for its end, or for progress."""
    services = _services(request)
    found = decode("rpl", replay_id)
    async with services.bell.listen(f"ch:jobs:{caller.org_id.hex}") as ear:
        state = await _read(services, caller, found)
        if wait_secs and state.running:
            await ear.next(wait_secs)
            state = await _read(services, caller, found)
    return state


@router.get("/{policy_id}")
async def read_policy(policy_id: str, caller: Reader, request: Request) -> Policy:
    """One policy with its current text."""
    store = _services(request).gates.policy.store
    return await store.get(caller.org_id, decode("pol", policy_id))


@router.put("/{policy_id}")
async def change_policy(
    policy_id: str, body: PolicyChange, caller: Writer, request: Request
) -> Policy:
    """Write a new version, or switch on and off; what does not compile changes nothing."""
    store = _services(request).gates.policy.store
    found = decode("pol", policy_id)
    policy = await store.get(caller.org_id, found)
    if body.name not in {None, policy.name}:
        raise InvalidError("a policy keeps its name; add another one and delete this one")
    if body.rego is not None and body.rego != policy.rego:
        policy = await store.update(caller.org_id, caller.principal.user_id, found, body.rego)
        await _witness(request, caller, "policy.updated", policy)
    if body.enabled is not None and body.enabled != policy.enabled:
        policy = await _switch(request, caller, found, body.enabled)
    return policy


@router.delete("/{policy_id}", status_code=204)
async def delete_policy(policy_id: str, caller: Writer, request: Request) -> Response:
    """Remove a policy; a starter comes back with ``POST /policies/restore``."""
    store, found = _services(request).gates.policy.store, decode("pol", policy_id)
    policy = await store.get(caller.org_id, found)
    await store.delete(caller.org_id, found)
    await _witness(request, caller, "policy.deleted", policy)
    return Response(status_code=204)


@router.post("/{policy_id}/enable")
async def enable_policy(policy_id: str, caller: Writer, request: Request) -> Policy:
    """Let a policy decide."""
    return await _switch(request, caller, decode("pol", policy_id), True)


@router.post("/{policy_id}/disable")
async def disable_policy(policy_id: str, caller: Writer, request: Request) -> Policy:
    """Keep a policy and let it decide nothing."""
    return await _switch(request, caller, decode("pol", policy_id), False)


async def _switch(request: Request, caller: Allowed, policy_id: UUID, on: bool) -> Policy:
    policy = await _services(request).gates.policy.store.set_enabled(caller.org_id, policy_id, on)
    await _witness(request, caller, "policy.enabled" if on else "policy.disabled", policy)
    return policy


async def _witness(request: Request, caller: Allowed, action: str, policy: Policy) -> None:
    """Say which text decides from now on; the text itself is kept with its version."""
    await witness(
        request,
        caller,
        action,
        {
            "type": "policy",
            "id": encode("pol", policy.id),
            "name": policy.name,
            "version": policy.version,
            "enabled": policy.enabled,
            "rego_sha256": sha256(policy.rego.encode()).hexdigest(),
        },
    )


async def _start(services: Services, caller: Allowed, body: NewReplay) -> ReplayState:
    policy = services.gates.policy
    candidate = await policy.policy_set(caller.org_id, body.policies)
    await asyncio.to_thread(candidate.compile, policy.timeout_ms)
    since, until = _span(body.since, body.until, body.days)
    replay_id = new_id()
    async with services.db.tenant(caller.org_id) as connection:
        job = await services.queue.store.insert(
            connection,
            NewJob(
                org_id=caller.org_id,
                kind=JOB_KIND,
                payload={"replay_id": encode("rpl", replay_id)},
                max_attempts=3,
            ),
        )
        replay = await services.gates.policy.replays.insert(
            connection, caller.org_id, caller.principal.user_id, body.policies, since, until,
            replay_id=replay_id, job_id=job.id,
        )  # fmt: skip
    await services.queue.announce(job)
    return _state(replay, job)


async def _replayed(
    services: Services, caller: Allowed, body: Evaluation, span: ReplaySpan
) -> BlastRadius:
    policy = services.gates.policy
    since, until = _span(span.since, span.until, INLINE_DAYS)
    before = await policy.policy_set(caller.org_id)
    after = await policy.policy_set(caller.org_id, body.policies)
    rows = await newest_inputs(services.db, caller.org_id, since, until, span.limit)
    records = [Recorded(*row) for row in rows]
    return await asyncio.to_thread(replayed, before, after, policy.timeout_ms, records)


async def _read(services: Services, caller: Allowed, replay_id: Any) -> ReplayState:
    replay = await services.gates.policy.replays.get(caller.org_id, replay_id)
    return _state(replay, await services.queue.store.get(caller.org_id, replay.job_id))


def _state(replay: Replay, job: Job) -> ReplayState:
    return ReplayState(
        replay=replay, status=job.status, running=job.open, progress=job.progress, error=job.error
    )


def _span(since: datetime | None, until: datetime | None, days: int) -> tuple[datetime, datetime]:
    end = until or datetime.now(UTC)
    begin = since or end - timedelta(days=days)
    if begin >= end:
        raise InvalidError("since has to lie before until")
    return begin, end


def _services(request: Request) -> Services:
    return services_of(request)
