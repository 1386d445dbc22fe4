"""The HTTP feature server: Feast's POST /get-online-features, read-only, guarded, and quick.

Feast's own server (`feast serve`) also takes writes, asks for no token, and answers a mistyped name with 500.
This one has its route and JSON form for reading features and nothing else; who wants the rest runs
`feast serve`.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import hmac
import ipaddress
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.supervisors import Multiprocess

from feature_repo.openapi import openapi_document
from feature_repo.request import MAX_BODY_BYTES, InvalidRequest, MalformedJson, parse_request
from feature_repo.response import json_bytes
from feature_repo.serving import (
    AmbiguousFeatures,
    LookupRefused,
    OnlineLookup,
    StoreUnavailable,
    UnknownCustomers,
    UnknownFeatures,
    shown,
)
from feature_repo.store import StoreError, open_store

LOOKUP_THREADS = 4
"""Look-ups at a time in one process: they wait for the online store side by side."""
SECONDS_ALLOWED = 5.0
"""After so long without an answer of the online store, a request is told that there is none, however long
the store's client would wait."""
KEEP_ALIVE_SECONDS = 75
"""Longer than the pools of usual clients keep a connection, so that they, not the server, close it."""
WORKER_START_SECONDS = 120
LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"
OPEN_PATHS = frozenset(("/health",))
"""Answered without a token."""

_STATUS: Mapping[type[Exception], int] = {
    MalformedJson: 400,
    UnknownFeatures: 404,
    UnknownCustomers: 404,
    AmbiguousFeatures: 422,
    InvalidRequest: 422,
    StoreUnavailable: 503,
}

log = logging.getLogger(__name__)


def create_app(
    lookup: OnlineLookup,
    token_digest: bytes | None = None,
    unknown_as_null: bool = False,
    seconds_allowed: float = SECONDS_ALLOWED,
) -> ASGIApp:
    """The server as an ASGI application.

    ``token_digest`` is ``digest(token)``; without one, requests need no token. ``unknown_as_null`` is that of
    ``OnlineLookup.look_up``.
    """
    threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="look-up")

    def answer(body: bytes) -> bytes:
        customers, request = parse_request(body, lookup.key)
        return json_bytes(
            lookup.look_up(
                customers,
                feature_service=request.feature_service,
                features=request.features,
                full_feature_names=request.full_feature_names,
                view_versions=request.include_feature_view_version_metadata,
                unknown_as_null=unknown_as_null,
            )
        )

    async def get_online_features(request: Request) -> Response:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            return _error(415, "Send the request as application/json.")
        body = await _body(request)
        if body is None:
            return _error(413, f"The body has more than {MAX_BODY_BYTES:,} bytes.")
        try:
            async with asyncio.timeout(seconds_allowed):
                content = await asyncio.get_running_loop().run_in_executor(threads, answer, body)
        except TimeoutError:
            log.error("The online store has not answered for %g seconds.", seconds_allowed)
            return _error(503, f"The online store has not answered for {seconds_allowed:g} seconds.")
        except (LookupRefused, MalformedJson, InvalidRequest) as refusal:
            unknown = refusal.customers if isinstance(refusal, UnknownCustomers) else None
            return _error(_STATUS[type(refusal)], str(refusal), unknown)
        return Response(content, media_type="application/json")

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "up"})

    async def openapi(request: Request) -> Response:
        return JSONResponse(openapi_document(lookup, token_digest is not None))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with lookup.refreshing():
            yield
        # Not waited for: an online store that does not answer would keep the server from ending.
        threads.shutdown(wait=False, cancel_futures=True)

    app = Starlette(
        routes=[
            Route("/get-online-features", get_online_features, methods=["POST"]),
            Route("/health", health, methods=["GET"]),
            Route("/openapi.json", openapi, methods=["GET"]),
        ],
        exception_handlers={
            HTTPException: _refuse,
            ClientDisconnect: _gone,
            Exception: _fail,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app if token_digest is None else TokenGuard(app, token_digest)


class TokenGuard:
    """Lets requests through that carry the token, and those for the open paths."""

    def __init__(self, app: ASGIApp, token_digest: bytes) -> None:
        self.app = app
        self.token_digest = token_digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or hand the request on."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._has_token(scope):
            await self.app(scope, receive, send)
            return
        response = _error(401, "This server asks for a token: send the header Authorization: Bearer <token>.")
        response.headers["www-authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _has_token(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        # Digests have one length, so that the time of the comparison says nothing about the token either.
        return scheme.lower() == b"bearer" and hmac.compare_digest(
            hashlib.sha256(token.strip()).digest(), self.token_digest
        )


def digest(token: str) -> bytes:
    """What a server keeps of its token."""
    return hashlib.sha256(token.encode("ascii")).digest()


def read_token(file: Path | None = None, variable: str | None = None) -> str | None:
    """The token in a file or in an environment variable, None without either.

    Raises ``StoreError`` when there is none in it, or one that no HTTP header can carry.
    """
    if file is not None:
        place = f"the file {file}"
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"There is no token to be read in {place}: {error}.") from None
    elif variable is not None:
        place = f"the environment variable {variable}"
        token = os.environ.get(variable, "").strip()
    else:
        return None
    if not token:
        raise StoreError(f"There is no token in {place}.")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise StoreError(f"The token in {place} must be one word of printable ASCII characters.")
    return token


def serve(
    host: str,
    port: int,
    *,
    token: str | None = None,
    workers: int = 1,
    unknown_as_null: bool = False,
    on_start: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGINT or SIGTERM. ``on_start(url)`` is called once requests are taken; those that come
    before a process is ready wait.

    Raises ``StoreError`` when the address cannot be taken, or is open to other machines without a token, or
    when the store's configuration cannot be read.
    """
    listener = _listen(host, port, guarded=token is not None)
    with listener:
        bound, number = listener.getsockname()[:2]
        url = f"http://{f'[{bound}]' if ':' in bound else bound}:{number}"
        make_app = partial(_worker_app, token and digest(token), unknown_as_null)
        if workers == 1:
            config = _configuration(make_app())
            on_start(url)
            uvicorn.Server(config).run(sockets=[listener])
        else:
            open_store()  # a configuration that cannot be read is told once, here
            config = _configuration(make_app, factory=True, workers=workers)
            on_start(url)
            Multiprocess(config, sockets=[listener]).run()


def _configuration(app: ASGIApp | Callable[[], ASGIApp], **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        loop="uvloop",
        ws="none",
        access_log=False,
        log_level="warning",
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        # A worker answers its first health check when it has imported Feast. With uvicorn's five seconds, a
        # busy machine would kill its workers before they begin, and start them again, for ever.
        timeout_worker_healthcheck=WORKER_START_SECONDS,
        **options,
    )


def _worker_app(token_digest: bytes | None, unknown_as_null: bool) -> ASGIApp:
    # A worker of several is a new process, without the settings of the command line.
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT)
    app = create_app(OnlineLookup(), token_digest, unknown_as_null)
    # Feast and what it imports are some 500,000 objects that stay. Without this a full collection looks at
    # all of them, for a tenth of a second, while look-ups wait.
    gc.collect()
    gc.freeze()
    return app


def _listen(host: str, port: int, guarded: bool) -> socket.socket:
    if not 0 <= port <= 65_535:  # getaddrinfo takes such a number modulo 65,536
        raise StoreError(f"There is no port {port}; ports are numbers up to 65535.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as error:
        raise StoreError(f"There is no address {shown(host)} with port {port}: {error}.") from None
    family, _, _, _, address = found[0]
    if not guarded and not ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
        raise StoreError(
            f"{host} can be reached from other machines, so the server needs a token: give --token-file or "
            "--token-env."
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.set_inheritable(True)
    except OSError as error:
        listener.close()
        raise StoreError(f"The address {host}, port {port}, cannot be taken: {error.strerror}.") from None
    return listener


async def _body(request: Request) -> bytes | None:
    """The body, None when it is longer than allowed."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        return None
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def _error(status: int, sentence: str, unknown_customers: list[str] | None = None) -> Response:
    content: dict[str, str | list[str]] = {"error": sentence}
    if unknown_customers:
        content["unknown_customers"] = unknown_customers
    return JSONResponse(content, status_code=status)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        sentence = f"There is no {shown(request.url.path)} here, only /get-online-features and /health."
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        sentence = f"{request.method} is not possible here; use {allowed}."
    else:
        sentence = str(error.detail)
    return JSONResponse({"error": sentence}, status_code=error.status_code, headers=error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return _error(400, "The request ended before its body did.")


async def _fail(request: Request, error: Exception) -> Response:
    # A mistake of ours; Starlette raises it again, so that it stands in the log.
    return _error(500, "The server failed at this request; its log says why.")
