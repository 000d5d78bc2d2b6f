"""The HTTP client of one server: retries, time-outs, its key, and streams of events."""

import asyncio
import contextlib
import email.utils
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import aiohttp
import msgspec

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.serving.protocols import BrokenAnswerError
from lm_eval_specfair.serving.protocols.protocol import quoted

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_NOT_ADMITTED = (401, 403)
FIRST_DELAY, _LONGEST_DELAY = 0.5, 60.0  # seconds
_LONGEST_WISH = 600.0  # of a server that says when to come again
_LARGEST_EVENT = 1 << 25  # bytes


class ServedRequestError(ConfigError):
    """A request that a server did not answer as it should; the others may still be answered."""


class ServerGoneError(ConfigError):
    """A server that cannot be reached or does not admit us: no request will be answered."""


class Reader(Protocol):
    """What takes an answer in, event by event."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer has come to its end; a stream that ends earlier was cut."""

    def feed(self, data: bytes) -> None:
        """Take in an event, or a whole body; a `BrokenAnswerError` if it cannot be read."""


R = TypeVar("R", bound=Reader)


class _Again(Exception):
    """An attempt that failed in a way that may pass; `after` is the server's wish, in seconds."""

    def __init__(self, reason: str, after: float = 0.0, *, is_gone: bool = False) -> None:
        super().__init__(reason)
        self.after, self.is_gone = after, is_gone


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """How a server is reached.

    Attributes:
        base_url: `http://HOST:PORT`, without `/v1`.
        key: Sent as a bearer token to this server alone; never shown.
        timeout: Seconds that an answer may take in all.
        max_retries: Further attempts after the first.
        verify: Whether certificates are checked, or a file of authorities to check them with.
        num_concurrent: Requests under way at once.
    """

    base_url: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 600.0
    max_retries: int = 5
    verify: bool | str = True
    num_concurrent: int = 8

    def tls(self) -> ssl.SSLContext | bool:
        """What aiohttp checks certificates with.

        Raises:
            ConfigError: If the file of authorities cannot be read.
        """
        if isinstance(self.verify, bool):
            return self.verify
        try:
            return ssl.create_default_context(cafile=self.verify)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"verify={self.verify} must be a PEM file of certificate authorities, or true or "
                f"false ({type(error).__name__})"
            ) from None


class ServerClient:
    """Requests to one server, on one event loop.

    Attributes:
        restarts: How often the server could not be reached and then could again.
    """

    def __init__(self, connection: Connection) -> None:
        """Connect to nothing yet."""
        self.connection = connection
        self.restarts = 0
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def hidden(self, text: str) -> str:
        """A text without the key, whatever the server put into it."""
        key = self.connection.key
        return text.replace(key, "***") if key else text

    async def get(self, path: str, *, attempts: int | None = None) -> bytes | None:
        """What lies at a path; None where the server has nothing there.

        Raises:
            ServerGoneError: If it cannot be reached, or does not admit us.
        """
        try:
            return (await self._ask("GET", path, None, WholeBody, attempts)).body
        except ServedRequestError:
            return None

    async def get_json(self, path: str) -> dict[str, Any] | None:
        """The JSON object at a path; None where there is none."""
        body = await self.get(path)
        try:
            found = None if body is None else msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    async def post(self, path: str, body: Mapping[str, Any], begin: Callable[[], R]) -> R:
        """An answer, read by what `begin` makes anew for each attempt.

        Raises:
            ServedRequestError: If there is no whole answer after all attempts.
            ServerGoneError: If the server cannot be reached, or does not admit us.
        """
        return await self._ask("POST", path, msgspec.json.encode(body), begin, None)

    async def _ask(
        self, method: str, path: str, body: bytes | None, begin: Callable[[], R],
        attempts: int | None,
    ) -> R:  # fmt: skip
        attempts = self.connection.max_retries + 1 if attempts is None else attempts
        was_gone = False
        for attempt in range(attempts):
            reader = begin()
            try:
                await self._once(method, path, body, reader)
                self.restarts += was_gone
                return reader
            except _Again as failed:
                was_gone = was_gone or failed.is_gone
                if attempt == attempts - 1:
                    raise self._given_up(failed, attempts) from None
                delay = min(FIRST_DELAY * 2**attempt, _LONGEST_DELAY)
                # Clients that failed together do not come again together.
                delay *= random.uniform(0.5, 1.5)
                await asyncio.sleep(max(delay, failed.after))
        raise AssertionError("there is at least one attempt")

    def _given_up(self, failed: _Again, attempts: int) -> ConfigError:
        tried = "once" if attempts == 1 else f"{attempts} times"
        if not failed.is_gone:
            return ServedRequestError(f"{failed} (tried {tried})")
        return ServerGoneError(
            f"the server {self.connection.base_url} cannot be reached ({failed}; tried {tried}); "
            "start it, or name another base_url"
        )

    async def _once(self, method: str, path: str, body: bytes | None, reader: Reader) -> None:
        """One attempt: the events of a stream, or a whole body, go to the reader."""
        session = self._opened()
        try:
            async with session.request(
                method, self.connection.base_url + path, data=body, allow_redirects=False
            ) as response:
                await self._refuse(response, path)
                if response.content_type == "text/event-stream":
                    async for event in _events(response.content):
                        reader.feed(event)
                else:
                    reader.feed(await response.read())
        except BrokenAnswerError as error:
            raise _Again(self.hidden(str(error))) from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise ServerGoneError(
                f"the certificate of {self.connection.base_url} is not trusted "
                f"({quoted(error.certificate_error)}); name its authority with verify=FILE.pem"
            ) from None
        except TimeoutError:
            raise _Again(f"no whole answer within timeout={self.connection.timeout:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise _Again(quoted(error.strerror or error.os_error), is_gone=True) from None
        except aiohttp.ServerDisconnectedError:
            raise _Again("the server closed the connection", is_gone=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Again(f"the answer was cut ({type(error).__name__})") from None
        if not reader.is_complete:
            raise _Again("the answer was cut")

    async def _refuse(self, response: aiohttp.ClientResponse, path: str) -> None:
        """Raise for any status but 200."""
        status = response.status
        if status == 200:
            return
        if 300 <= status < 400:
            # Not followed: the key would go to whom it was not given.
            place = quoted(self.hidden(response.headers.get("Location", "nowhere")))
            raise ServerGoneError(
                f"{self.connection.base_url} redirects to {place}, which is not followed; name "
                "the final address as base_url"
            )
        if status in _NOT_ADMITTED:
            raise ServerGoneError(
                f"{self.connection.base_url} does not admit this key ({status}); set the "
                "environment variable OPENAI_API_KEY, or name another with api_key_env=NAME"
            )
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            said = (await response.content.read(2000)).decode("utf-8", "replace")
            with contextlib.suppress(ValueError, RecursionError):
                found = msgspec.json.decode(said)
                said = found.get("error", found) if isinstance(found, dict) else said
            reason = f"{path} answered {status}: {quoted(self.hidden(quoted(said)))}"
            if status in _RETRIED:
                raise _Again(reason, _wish(response.headers.get("Retry-After")))
            raise ServedRequestError(reason)
        raise _Again(f"{path} answered {status}")

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            given = self.connection
            headers = {"Content-Type": "application/json"}
            if given.key:
                headers["Authorization"] = f"Bearer {given.key}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=given.timeout, sock_connect=30.0),
                connector=aiohttp.TCPConnector(limit=0, ssl=given.tls()),
            )
        return self._session


class WholeBody:
    """A body that is read as a whole."""

    is_complete = True

    def __init__(self) -> None:
        self.body = b""

    def feed(self, data: bytes) -> None:
        self.body += data


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The data of server-sent events, without the word that ends a stream."""
    left = b""
    async for part in content.iter_any():
        lines = (left + part).split(b"\n")
        left = lines.pop()
        if len(left) > _LARGEST_EVENT:
            raise ServedRequestError(f"an event has over {_LARGEST_EVENT} bytes")
        for line in lines:
            name, _, data = line.strip().partition(b":")
            data = data.strip()
            if name == b"data" and data and data != b"[DONE]":
                yield data
            elif name == b"error":  # llama.cpp's older form
                yield b'{"error": ' + data + b"}"


def _wish(header: str | None) -> float:
    """`Retry-After` in seconds: a number or a date; 0 where there is none that can be read."""
    if header is None:
        return 0.0
    with contextlib.suppress(ValueError, OverflowError):
        return min(max(0.0, float(header)), _LONGEST_WISH)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        at = email.utils.parsedate_to_datetime(header).timestamp()
        return min(max(0.0, at - time.time()), _LONGEST_WISH)
    return 0.0
