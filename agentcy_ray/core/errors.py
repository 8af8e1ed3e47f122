"""Every error of the product, in one tree.

AgentcyError                      code, status, message, details; picklable, so it may cross Ray
├── ConfigError                   start-up is refused (exit 2)
├── RefusedError                  a gate said no (exit 3)
│   ├── UnauthenticatedError          401  unauthenticated, token_*, invalid_credentials
│   ├── PermissionDeniedError         403  permission_denied
│   ├── PolicyDeniedError             403  policy_denied
│   └── EgressDeniedError             403  egress_denied
├── RequestError                  the caller can mend the request
│   ├── BadRequestError               400  bad_request, cursor_invalid
│   ├── NotFoundError                 404  not_found
│   ├── ConflictError                 409  conflict, state_conflict, sync_in_progress, …
│   │   └── CancelledByRequestError       cancelled: somebody asked for the work to stop
│   ├── GoneError                     410  approval_expired, event_log_gone
│   ├── TooLargeError                 413  payload_too_large, result_too_large
│   ├── MediaTypeError                415  unsupported_media_type
│   ├── RateLimitedError              429  rate_limited, quota_exceeded
│   ├── BudgetExceededError           429  budget_exceeded: no retry helps before more is allowed
│   └── InvalidError                  422  validation_failed
│       ├── SourceConfigError             source_config_invalid, with its kind
│       ├── CapabilityError               capability_unsupported
│       ├── QueryRejectedError            query_rejected
│       ├── QueryTooCostlyError           query_too_costly
│       ├── PolicyInvalidError            policy_invalid
│       ├── ToolArgumentsError            invalid_args
│       ├── ToolNotFoundError             tool_not_found
│       ├── PublishGuardError             publish_guard
│       └── PackageCorruptError           package_corrupt
└── BackendError                  something that we depend on failed
    ├── StoreUnavailableError         503  unavailable (transient)
    ├── StorageFullError              507→503  storage_full
    ├── EngineError                   502  engine_error
    │   ├── EngineBusyError           503  engine_busy: it sheds load (transient)
    │   ├── EngineRefusedError            it refuses our token or what we sent
    │   └── MissingDataError              no such database or table yet; callers answer "empty"
    ├── QueryTimeoutError             504  query_timeout
    ├── EmbedderUnavailableError      503  embedder_unavailable (transient)
    ├── EmbedderRefusedError          502  embedder_refused: these texts, or our key
    ├── ConnectorError                502  connector_error
    │   ├── ConnectorUnavailableError     host or source away (transient)
    │   └── ConnectorTimeoutError         504  connector_timeout (transient)
    ├── OutcomeUnknownError           502  indeterminate: an effect may or may not have happened
    ├── ModelError                    502  llm_error
    │   ├── ModelTimeoutError             504  llm_timeout (transient)
    │   └── ModelUnavailableError         503  llm_unavailable: a model of ours is away (transient)
    ├── LeaseLostError                409  state_conflict: a newer owner holds the epoch
    └── SealBrokenError               500  seal_broken: a stored secret does not open

Two marks cut across the tree: ``Transient`` (the same call may succeed later) and ``Terminal``
(it will not, until somebody changes something). Retry logic asks for the mark, never for a class.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Transient:
    """Mark: the same call may succeed when repeated later."""


class Terminal:
    """Mark: repeating the same call cannot succeed."""


class AgentcyError(Exception):
    """Root of the tree.

    ``message`` is for people and names the next step; ``code`` is for programs; ``details`` holds
    JSON values only. Instances survive pickling with all three, since they cross Ray.
    """

    code: str = "internal"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, code: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.code, self.details)

    @property
    def transient(self) -> bool:
        """Whether a retry of the same call makes sense."""
        return isinstance(self, Transient)

    def body(self) -> dict[str, Any]:
        """The ``error`` object of the public error shape, without the request id."""
        return {"code": self.code, "message": self.message, "details": self.details}


def _rebuild(
    cls: type[AgentcyError], message: str, code: str, details: dict[str, Any]
) -> AgentcyError:
    return cls(message, code=code, **details)


class ConfigError(Terminal, AgentcyError):
    """Settings or the machine do not allow a start; ``details["faults"]`` lists every one."""

    code = "config_invalid"


# -- a gate said no ---------------------------------------------------------------------------


class RefusedError(Terminal, AgentcyError):
    """A gate refused; a retry by the same caller is refused again."""

    code = "permission_denied"
    status = 403


class UnauthenticatedError(RefusedError):
    """No valid credential came with the request."""

    code = "unauthenticated"
    status = 401


class PermissionDeniedError(RefusedError):
    """The principal lacks the permission that ``details["permission"]`` names."""


class PolicyDeniedError(RefusedError):
    """A Rego policy, or a person who was asked, denied the action."""

    code = "policy_denied"


class EgressDeniedError(RefusedError):
    """An outgoing connection would leave the allowed hosts."""

    code = "egress_denied"


# -- the caller can mend the request ----------------------------------------------------------


class RequestError(Terminal, AgentcyError):
    """The request is at fault."""

    code = "bad_request"
    status = 400


class BadRequestError(RequestError):
    """Syntax, headers or a cursor are malformed."""


class NotFoundError(RequestError):
    """Absent, or another tenant's: the two are not told apart."""

    code = "not_found"
    status = 404


class ConflictError(RequestError):
    """The object's state forbids the move; ``code`` says which rule."""

    code = "conflict"
    status = 409


class CancelledByRequestError(ConflictError):
    """Somebody asked for the work to stop, and it did."""

    code = "cancelled"


class GoneError(RequestError):
    """It existed, and its time is over."""

    code = "gone"
    status = 410


class TooLargeError(RequestError):
    """A body or a result passes its limit."""

    code = "payload_too_large"
    status = 413


class MediaTypeError(RequestError):
    """The body has a media type that the route does not read."""

    code = "unsupported_media_type"
    status = 415


class RateLimitedError(Transient, RequestError):
    """Too many requests; ``details["retry_after_secs"]`` says when to come back."""

    code = "rate_limited"
    status = 429


class BudgetExceededError(RequestError):
    """A limit does not allow what is asked; ``details["limit"]`` says which and what is left."""

    code = "budget_exceeded"
    status = 429


class InvalidError(RequestError):
    """Well-formed, yet not acceptable; ``details["errors"]`` lists ``{loc, message}``."""

    code = "validation_failed"
    status = 422


class SourceConfigError(InvalidError):
    """A source cannot work as configured.

    ``details["kind"]`` is one of ``credentials scope unreachable config rate_limited``.
    """

    code = "source_config_invalid"


class CapabilityError(InvalidError):
    """The engine in use cannot do this; ``details`` say which capability and what to set."""

    code = "capability_unsupported"


class QueryRejectedError(InvalidError):
    """A query is outside the read-only language; ``details`` hold token and position."""

    code = "query_rejected"


class QueryTooCostlyError(InvalidError):
    """A query needs more memory than the engine gives to one; ``details`` hold the limit."""

    code = "query_too_costly"


class PolicyInvalidError(InvalidError):
    """Rego text does not compile; ``details`` hold line and column."""

    code = "policy_invalid"


class ToolArgumentsError(InvalidError):
    """Arguments do not match the tool's JSON Schema; the message tells a model what to change."""

    code = "invalid_args"


class ToolNotFoundError(InvalidError):
    """No such tool in the caller's catalog."""

    code = "tool_not_found"


class PublishGuardError(InvalidError):
    """A full sync would archive too much of what is live."""

    code = "publish_guard"


class PackageCorruptError(InvalidError):
    """A package segment is missing, or its hash differs from the manifest."""

    code = "package_corrupt"


# -- something that we depend on failed -------------------------------------------------------


class BackendError(AgentcyError):
    """A store, a model, an engine or a source failed us."""

    code = "unavailable"
    status = 503


class StoreUnavailableError(Transient, BackendError):
    """Postgres, Redis, the object store or the graph server does not answer."""


class StorageFullError(Terminal, BackendError):
    """No space is left where we must write; what was committed before is intact."""

    code = "storage_full"
    status = 503


class EngineError(BackendError):
    """The context engine failed in a way that is not the caller's fault."""

    code = "engine_error"
    status = 502


class EngineBusyError(Transient, EngineError):
    """The engine sheds load and kept doing so; ``details["retry_after_secs"]`` when it said."""

    code = "engine_busy"
    status = 503


class EngineRefusedError(Terminal, EngineError):
    """The engine refuses our token, or a request that we made; ``details["status"]`` says how."""


class MissingDataError(Terminal, EngineError):
    """Nothing was written there yet: callers answer "empty"; ``details`` name the place."""


class QueryTimeoutError(Transient, BackendError):
    """A query ran past its time limit and was stopped."""

    code = "query_timeout"
    status = 504


class EmbedderUnavailableError(Transient, BackendError):
    """The embedding model cannot be reached or loaded."""

    code = "embedder_unavailable"
    status = 503


class EmbedderRefusedError(Terminal, BackendError):
    """The embedding model will not do it; ``details["texts"]`` says whether the texts are at fault.

    Where they are, another half of the batch may pass.
    """

    code = "embedder_refused"
    status = 502


class ConnectorError(BackendError):
    """A source answered with an error, or its connector failed."""

    code = "connector_error"
    status = 502


class ConnectorUnavailableError(Transient, ConnectorError):
    """The session host or the source is away for now."""


class ConnectorTimeoutError(Transient, ConnectorError):
    """The source did not answer within the call's deadline."""

    code = "connector_timeout"
    status = 504


class OutcomeUnknownError(BackendError):
    """An effect was sent and never acknowledged; it is not repeated blindly."""

    code = "indeterminate"
    status = 502


class ModelError(BackendError):
    """A language model provider failed."""

    code = "llm_error"
    status = 502


class ModelTimeoutError(Transient, ModelError):
    """No first token came in time."""

    code = "llm_timeout"
    status = 504


class ModelUnavailableError(Transient, ModelError):
    """A model that the cluster serves itself starts, was lost or cannot be served here."""

    code = "llm_unavailable"
    status = 503


class LeaseLostError(Terminal, BackendError):
    """A newer owner holds the epoch; whatever this owner still wrote was refused."""

    code = "state_conflict"
    status = 409


class SealBrokenError(Terminal, BackendError):
    """A stored secret does not open: sealed with another key, or for another owner."""

    code = "seal_broken"
    status = 500
