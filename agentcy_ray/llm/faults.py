"""What a provider's failure means: whether to try again, and what to tell people.

Imported with the provider SDKs, when a provider is first used.
"""

from __future__ import annotations

import random

from pydantic_ai import exceptions as library

from agentcy_ray.core.errors import AgentcyError, ModelError, ModelTimeoutError

LONGEST_WAIT_SECS = 60.0
"""A provider that asks for a longer pause than this fails the turn at once."""
_FIRST_BACKOFF_SECS = 0.5


def retry_wait(error: Exception, attempt: int) -> float | None:
    """Seconds to wait before the next attempt; None when the failure is final."""
    own = _own(error)
    if own is not None and not own.transient:
        return None
    if not isinstance(error, library.ModelAPIError) or isinstance(
        error, library.ModelQuotaExceededError | library.ModelRequestTimeout
    ):
        return None
    status = error.status_code if isinstance(error, library.ModelHTTPError) else None
    passing = isinstance(
        error,
        library.ModelRateLimitError
        | library.ModelUnavailableError
        | library.ModelServerError
        | library.ModelConnectionError,
    )
    if not passing and status != 429 and (status is None or status < 500):
        return None
    if error.retry_after is not None:
        return error.retry_after if error.retry_after <= LONGEST_WAIT_SECS else None
    return _FIRST_BACKOFF_SECS * 2**attempt * random.uniform(0.75, 1.25)


def ours(error: Exception, reference: str) -> Exception:
    """The failure in our tree; errors that are no provider's pass through unchanged."""
    own = _own(error)
    if own is not None:
        return own
    if isinstance(error, library.ModelRequestTimeout | library.ModelTimeoutError):
        return ModelTimeoutError(
            f"{reference} sent no first token in time; repeat the message, or raise "
            "LLM_TIMEOUT_SECS",
            model=reference,
        )
    if isinstance(error, library.ModelAuthenticationError):
        return ModelError(
            f"{reference} refused the credentials; check LLM_API_KEY or the provider's role",
            model=reference,
        )
    if isinstance(error, library.ModelNotFoundError):
        return ModelError(
            f"{reference} is not served by its provider; choose another model",
            code="model_not_found",
            model=reference,
            status=404,
        )
    if isinstance(error, library.ModelContextWindowExceededError):
        return ModelError(
            f"the conversation no longer fits the window of {reference}; start a new one",
            model=reference,
            status=400,
        )
    if isinstance(error, library.ModelConnectionError):
        return ModelError(
            f"{reference} cannot be reached; check LLM_BASE_URL and the network", model=reference
        )
    if isinstance(error, library.ModelHTTPError):
        return ModelError(
            f"{reference} answered with status {error.status_code}; repeat the message later",
            model=reference,
            status=error.status_code,
        )
    if isinstance(error, library.AgentRunError | library.UserError):
        return ModelError(f"{reference} failed: {error.message}"[:500], model=reference)
    return error


def _own(error: Exception) -> AgentcyError | None:
    """One of our errors that an SDK wrapped: models of the cluster are called without a wire."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AgentcyError):
            return cause
        cause = cause.__cause__
    return None
