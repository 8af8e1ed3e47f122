"""The command line's client of the API: JSON calls, and run events over SSE with resume."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import httpx2 as httpx
import orjson

from agentcy_ray.cli.event_stream import ServerEvent, parse_events
from agentcy_ray.cli.output import ServerUnreachableError
from agentcy_ray.cli.patience import LOOK_EVERY_SECS, OUTAGE_SECS
from agentcy_ray.cli.profile import (
    only_renewal,
    read_json,
    save_login,
    saved_login,
    server_url,
    trusted,
)
from agentcy_ray.core.errors import (
    AgentcyError,
    BackendError,
    BadRequestError,
    ConflictError,
    InvalidError,
    NotFoundError,
    RefusedError,
    RequestError,
    UnauthenticatedError,
)
from agentcy_ray.core.settings import Settings

API = "/api/v1"
_LOOK = "look at AGENTCY_URL, and at what stands between"


class Client:
    """Calls to one server. Use as an async context manager."""

    def __init__(self, settings: Settings, url: str | None = None) -> None:
        self._settings = settings
        self.url = url or server_url(settings)
        key = settings.agentcy_api_key
        self._key = None if key is None else key.get_secret_value()
        self._login = {"token": self._key} if self._key else saved_login(settings, self.url)
        self._renewing = asyncio.Lock()
        self._http = httpx.AsyncClient(
            base_url=self.url, timeout=httpx.Timeout(60, connect=5), verify=trusted(settings)
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def login(self, email: str, password: str, org: str | None = None) -> dict[str, Any]:
        """Log in and keep the tokens for the next command."""
        body = {"email": email, "password": password, "org": org}
        answer = await self._send("POST", "/auth/login", body, anonymous=True)
        self._login = {"token": answer["token"], "refresh_token": answer["refresh_token"]}
        save_login(self._settings, self.url, self._login)
        return answer

    async def token(self) -> str:
        """A bearer token that the server takes now, for clients of other makers.

        Raises:
            RefusedError: there is no login here, and none can be made.
        """
        await self.get("/auth/me")
        return self._login["token"]

    async def health(self) -> dict[str, Any]:
        """The platform's health; needs no login.

        Raises:
            ServerUnreachableError: nothing answers.
        """
        try:
            answer = await self._http.get("/health")
            return orjson.loads(answer.content)
        except (httpx.TransportError, orjson.JSONDecodeError) as error:
            raise ServerUnreachableError(_away(self.url)) from error

    async def get(self, path: str, **query: Any) -> Any:
        """GET a JSON answer; query values that are None are left out."""
        return await self._call("GET", path, None, query)

    async def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """POST a JSON body and read a JSON answer."""
        return await self._call("POST", path, body if body is not None else {}, query)

    async def put(self, path: str, body: Any) -> Any:
        """PUT a JSON body and read a JSON answer."""
        return await self._call("PUT", path, body, {})

    async def patch(self, path: str, body: Any) -> Any:
        """PATCH a JSON body and read a JSON answer."""
        return await self._call("PATCH", path, body, {})

    async def delete(self, path: str, body: Any = None, **query: Any) -> Any:
        """DELETE; the answer is usually empty."""
        return await self._call("DELETE", path, body, query)

    async def items(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """All items of a paginated list."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = await self.get(path, **{"limit": 200, **query, "cursor": cursor})
            found += page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return found

    async def ask(self, conversation: str, body: dict[str, Any]) -> AsyncIterator[ServerEvent]:
        """Send a message and follow its run to the end, across dropped connections.

        Raises:
            ServerUnreachableError: the message was not taken, or no answer for ``OUTAGE_SECS``.
        """
        run_id: str | None = None
        last, heard = 0, time.monotonic()
        method, path, payload = "POST", f"/chat/conversations/{conversation}/messages", body
        while True:
            try:
                async for event in self._events(method, path, payload, last or None):
                    run_id = event.data.get("run_id", run_id)
                    last, heard = event.id or last, time.monotonic()
                    yield event
                    if event.type in {"message_end", "error"}:
                        return
            except (httpx.TransportError, BackendError) as error:
                if run_id is None or self._is_over(error, heard):
                    raise self._given_up(error) from error
            await asyncio.sleep(LOOK_EVERY_SECS)
            method, path, payload = "GET", f"/runs/{run_id}/events", None

    async def follow(self, run_id: str, after: int = 0) -> AsyncIterator[ServerEvent]:
        """Events of a run from ``after`` on."""
        async for event in self._events("GET", f"/runs/{run_id}/events", None, after or None):
            yield event

    async def stream(self, path: str, after: int, **query: Any) -> AsyncIterator[ServerEvent]:
        """Events of a stream without an end, from ``after`` on, across dropped connections.

        Raises:
            ServerUnreachableError: no connection for ``OUTAGE_SECS``.
        """
        heard = time.monotonic()
        while True:
            try:
                async for event in self._events("GET", path, None, after, query):
                    after, heard = event.id or after, time.monotonic()
                    yield event
                heard = time.monotonic()
            except (httpx.TransportError, BackendError) as error:
                if self._is_over(error, heard):
                    raise self._given_up(error) from error
            except UnauthenticatedError:
                if not await self._renew(self._login.get("token")):
                    raise
            await asyncio.sleep(LOOK_EVERY_SECS)

    def _is_over(self, error: httpx.TransportError | BackendError, heard: float) -> bool:
        """Whether waiting helps no more: a fault of the server itself, or too long an outage."""
        fault = isinstance(error, BackendError) and error.code == "internal"
        return fault or time.monotonic() - heard > OUTAGE_SECS

    def _given_up(self, error: httpx.TransportError | BackendError) -> BackendError:
        """What to say of a stream that is not taken up again."""
        return error if isinstance(error, BackendError) else ServerUnreachableError(_away(self.url))

    async def download(
        self,
        path: str,
        file: str,
        told: Callable[[int], None] | None = None,
        *,
        body: Any = None,
        accept: str = "*/*",
        **query: Any,
    ) -> int:
        """Write an answer to a file, or to standard output for ``-``; returns its bytes.

        Args:
            path: of the API.
            file: where to.
            told: hears how many bytes are there, block by block.
            body: what to POST; None = GET.
            accept: the media type to ask for.
            query: parameters; those that are None are left out.
        """
        await self.get("/auth/me")  # renews a token that has expired
        headers, params = await self._headers() | {"accept": accept}, _given(query)
        method = "GET" if body is None else "POST"
        try:
            async with self._http.stream(
                method, API + path, headers=headers, params=params, json=body
            ) as answer:
                if answer.status_code >= 400:
                    await answer.aread()
                    raise _error(answer)
                size = 0
                with open_target(file) as target:
                    async for block in answer.aiter_bytes():
                        size += target.write(block)
                        if told is not None:
                            told(size)
                return size
        except httpx.TransportError as error:
            raise ServerUnreachableError(
                f"the connection to {self.url} was lost, and {file} is not complete; try again"
            ) from error

    async def feed(self, token: str, records: bytes, key: str) -> dict[str, Any]:
        """Post lines of JSON, packed by gzip, to the pipeline of an ingest token.

        Args:
            token: of the pipeline.
            records: gzip of NDJSON.
            key: the same for the same records, so that they are not taken twice.
        """
        headers = {
            "content-type": "application/x-ndjson",
            "content-encoding": "gzip",
            "x-idempotency-key": key,
        }
        try:
            answer = await self._http.post(
                f"{API}/ingest/{token}", content=records, headers=headers
            )
        except httpx.TransportError as error:
            raise ServerUnreachableError(_away(self.url)) from error
        said = orjson.loads(answer.content) if answer.content else {}
        if answer.status_code >= 400 and "accepted" not in said:
            raise _error(answer)
        return said

    async def _events(
        self,
        method: str,
        path: str,
        body: Any,
        after: int | None,
        query: dict[str, Any] | None = None,
    ) -> AsyncIterator[ServerEvent]:
        headers = await self._headers() | {"accept": "text/event-stream"}
        if after is not None:
            headers["last-event-id"] = str(after)
        async with self._http.stream(
            method,
            API + path,
            json=body,
            headers=headers,
            params=_given(query or {}),
            timeout=httpx.Timeout(None, connect=5),
        ) as answer:
            if answer.status_code >= 400:
                await answer.aread()
                raise _error(answer)
            async for event in parse_events(answer.aiter_lines()):
                yield event

    async def _call(self, method: str, path: str, body: Any, query: dict[str, Any]) -> Any:
        sent = self._login.get("token")
        try:
            return await self._send(method, path, body, query)
        except UnauthenticatedError:
            if not await self._renew(sent or self._login.get("token")):
                raise
            return await self._send(method, path, body, query)

    async def _send(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: dict[str, Any] | None = None,
        *,
        anonymous: bool = False,
    ) -> Any:
        headers = {} if anonymous else await self._headers()
        try:
            answer = await self._http.request(
                method, API + path, json=body, params=_given(query or {}), headers=headers
            )
        except httpx.TransportError as error:
            raise ServerUnreachableError(_away(self.url)) from error
        if answer.status_code >= 400:
            raise _error(answer)
        return _content(answer)

    async def _headers(self) -> dict[str, str]:
        if not self._login:
            await self._local_login()
        return {"authorization": f"Bearer {self._login['token']}"}

    async def _local_login(self) -> None:
        """Log in as the owner of the platform that this user runs: whoever may read the state
        folder holds its first password anyway."""
        secrets = read_json(self._settings.state_dir / "secrets.json")
        password = secrets.get("admin_password")
        if not password or self.url != server_url(self._settings):
            await self.health()  # a server that is away must not sound like one that refuses
            raise UnauthenticatedError(f"not logged in at {self.url}; run `agentcy login`")
        await self.login(self._settings.admin_email, str(password))

    async def _renew(self, refused: str | None) -> bool:
        """Tokens in place of the refused one; False when there are none to be had.

        An API key that is refused stays so: whoever set it wants to be nobody else.
        """
        if self._key:
            return False
        async with self._renewing, only_renewal(self._settings):
            for other in (self._login, saved_login(self._settings, self.url)):
                if other.get("token") not in (None, refused):  # somebody was faster
                    self._login = other
                    return True
            return await self._renewed()

    async def _renewed(self) -> bool:
        """Fresh tokens by the refresh token, or by a local login; False when neither works."""
        token, self._login = self._login.get("refresh_token"), {}
        if token:
            try:
                answer = await self._send(
                    "POST", "/auth/refresh", {"refresh_token": token}, anonymous=True
                )
            except RefusedError:
                answer = None
            if answer:
                self._login = {"token": answer["token"], "refresh_token": answer["refresh_token"]}
                save_login(self._settings, self.url, self._login)
                return True
        try:
            await self._local_login()
        except UnauthenticatedError:
            return False
        return True


@contextmanager
def open_target(file: str) -> Generator[BinaryIO]:
    """The file to write to; standard output for ``-``."""
    if file == "-":
        yield sys.stdout.buffer
        return
    try:
        with Path(file).open("wb") as target:
            yield target
    except OSError as error:
        raise BadRequestError(f"cannot write {file}: {error.strerror or error}") from error


def _given(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def _away(url: str) -> str:
    return f"no answer at {url}; start the platform with `agentcy up`, or set AGENTCY_URL"


def _content(answer: httpx.Response) -> Any:
    """The JSON of an answer, None when it is empty."""
    try:
        return orjson.loads(answer.content) if answer.content else None
    except orjson.JSONDecodeError:
        raise BackendError(f"what answers at {answer.url.host} is no agentcy; {_LOOK}") from None


def _error(answer: httpx.Response) -> AgentcyError:
    """The typed error behind an error body."""
    try:
        body = orjson.loads(answer.content)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        said = f"{answer.url.host} answered {answer.status_code}, and not as agentcy does"
        return BackendError(f"{said}; {_LOOK}")
    by_status: dict[int, type[AgentcyError]] = {
        401: UnauthenticatedError,
        403: RefusedError,
        404: NotFoundError,
        409: ConflictError,
        422: InvalidError,
    }
    kind = by_status.get(
        answer.status_code, RequestError if answer.status_code < 500 else BackendError
    )
    details = {k: v for k, v in (body.get("details") or {}).items() if k not in {"message", "code"}}
    return kind(body["message"], code=body["code"], **details)
