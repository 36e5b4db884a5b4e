"""One request and its answer, whether the engine gives it or the front itself."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from qwenvl_runtime import request_id
from qwenvl_runtime.engine_faults import LONGEST, find_client_fault
from qwenvl_runtime.errors import RequestError, engine_unreachable
from qwenvl_runtime.media_fetch import BytesLeft
from qwenvl_runtime.pages import Page
from qwenvl_runtime.request_head import RequestHead, build_request
from qwenvl_runtime.response_head import ResponseHead, status_line
from qwenvl_runtime.routes import ROUTES
from qwenvl_runtime.screen import Asked
from qwenvl_runtime.upstream import Call

if TYPE_CHECKING:
    from qwenvl_runtime.front import Front

logger = logging.getLogger(__name__)

_ID_HEADER = request_id.HEADER.lower().encode()
_CLIENT_LEFT = 499
_ENGINE_ERROR = int(HTTPStatus.INTERNAL_SERVER_ERROR)


class Done(Protocol):
    def __call__(self, keep_alive: bool, linger: bool = False) -> None: ...


class Exchange:
    """`head` is None when the request was too malformed to have one. `done` is called once, after the last byte."""

    def __init__(self, front: Front, transport: asyncio.Transport, head: RequestHead | None, done: Done) -> None:
        self._front = front
        self._transport = transport
        self.head = head
        self._done = done
        self.request_id = request_id.choose_request_id(head.headers.get(_ID_HEADER) if head else None)
        self.began = time.monotonic()
        self._keep_alive = head is not None and head.keep_alive
        route = ROUTES.get(head.path) if head is not None else None
        self.relayed = route is not None and route.relayed
        """Whether the engine answers it."""
        self._call: Call | None = None
        self._local: asyncio.Task[Page] | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._admitted: tuple[int, int, int] | None = None
        """The tokens, answers and pixels that the queue was told, once it has let the request in."""
        self._fault: tuple[ResponseHead, list[bytes]] | None = None
        self._status = 0
        self._cancelled = False
        self.received = 0
        self.sent = 0

    def start(self, body: bytes, last: bool) -> None:
        """The request is whole. `last`: no further one can be read from this connection."""
        assert self.head is not None
        self._keep_alive = self._keep_alive and not last
        self.received = len(body)
        if self.relayed and self.head.method == "POST":
            self._screen(self.head, body)
        else:
            self._local = asyncio.create_task(self._front.pages.build(self.head.path))
            self._local.add_done_callback(self._answered_locally)

    def refuse(self, error: RequestError, unread: bool) -> None:
        """`unread`: the request's body has not been read, and never will be."""
        self._keep_alive = self._keep_alive and not unread
        self._front.count_refusal(error.code)
        self._write_answer(Page(error.status, error.body(), headers=error.headers))
        self._end(linger=unread)

    def cancel(self) -> None:
        """The client left."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()
        for task in (self._local, self._fetching):
            if task is not None:
                task.cancel()
        self._make_room()
        self._front.record(self, self._status or _CLIENT_LEFT, "client left")

    def pause(self) -> None:
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        if self._call is not None:
            self._call.resume()

    def answer_begun(self, head: ResponseHead, data: bytes) -> None:
        assert self.head is not None
        if head.status == _ENGINE_ERROR and (head.body_length or LONGEST) < LONGEST:
            self._fault = head, [data]
            return
        if self.head.version == "1.0" and head.body_length is None:
            self._keep_alive = False
        self._write(head.status, head.headers, data)

    def answer_continued(self, data: bytes) -> None:
        if self._fault is not None:
            self._fault[1].append(data)
            return
        self.sent += len(data)
        self._transport.write(data)

    def answer_ended(self) -> None:
        self._call = None
        if self._fault is not None:
            head, pieces = self._fault
            body = b"".join(pieces)
            if error := find_client_fault(body):
                self.refuse(error, unread=False)
                return
            self._write(head.status, head.headers, body)
        self._end()

    def answer_failed(self, reached: bool) -> None:
        self._call = None
        if self._status:
            # The client must see that its answer is not whole: no last chunk, no second status.
            self._make_room()
            self._front.record(self, self._status, "engine broke off")
            self._done(keep_alive=False)
        elif reached:
            message = "The engine broke off before it answered."
            self.refuse(RequestError(HTTPStatus.BAD_GATEWAY, "engine_broke_off", message), unread=False)
        else:
            error = engine_unreachable()
            self.refuse(error, unread=False)

    def _screen(self, head: RequestHead, body: bytes) -> None:
        """Check what the client asks for before the engine sees any of it."""
        front = self._front
        try:
            asked = front.screen.check(head.path, body)
            admitted = asked.tokens, asked.answers, asked.media.source_pixels
            front.admission.enter(*admitted)
        except RequestError as error:
            self.refuse(error, unread=False)
            return
        self._admitted = admitted
        if asked.media.slots:
            left = BytesLeft((front.limits.body_bytes - len(body)) * 3 // 4)
            self._fetching = asyncio.create_task(front.fetcher.fill(asked.media, left))
            self._fetching.add_done_callback(partial(self._fetched, asked))
        else:
            self._ask(head, asked.write())

    def _fetched(self, asked: Asked, task: asyncio.Task[None]) -> None:
        if self._cancelled or task.cancelled():
            return  # a task that has just ended cannot be cancelled any more
        self._fetching = None
        assert self.head is not None
        if error := task.exception():
            self._refuse_for(error)
        else:
            self._ask(self.head, asked.write())

    def _ask(self, head: RequestHead, body: bytes) -> None:
        decode = head.version == "1.0"
        self._call = Call(self._front.pool, build_request(head, self.request_id, body), self, decode)

    def _make_room(self) -> None:
        if self._admitted is not None:
            self._front.admission.leave(*self._admitted)
            self._admitted = None

    def _answered_locally(self, task: asyncio.Task[Page]) -> None:
        if self._cancelled or task.cancelled():
            return
        self._local = None
        if error := task.exception():
            self._refuse_for(error)
        else:
            self._write_answer(task.result())
            self._end()

    def _refuse_for(self, error: BaseException) -> None:
        """What nobody has foreseen is answered, too."""
        if not isinstance(error, RequestError):
            logger.error("request %s was not answered", self.request_id, exc_info=error)
            message = f"This is a fault of the server; its log tells more of request {self.request_id}."
            error = RequestError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", message)
        self.refuse(error, unread=False)

    def _write_answer(self, answer: Page) -> None:
        lines = [f"content-type: {answer.content_type}\r\ncontent-length: {len(answer.body)}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in (*answer.headers, ("date", self._front.format_date()))]
        bodiless = self.head is not None and self.head.method == "HEAD"
        self._write(answer.status, "".join(lines).encode(), b"" if bodiless else answer.body)

    def _write(self, status: int, headers: bytes, data: bytes) -> None:
        self._status = status
        self.sent += len(data)
        self._keep_alive = self._keep_alive and not self._front.draining
        own = f"{request_id.HEADER}: {self.request_id}\r\n".encode() + self._front.identity
        end = b"connection: keep-alive\r\n\r\n" if self._keep_alive else b"connection: close\r\n\r\n"
        self._transport.write(b"".join((status_line(status), headers, own, end, data)))

    def _end(self, linger: bool = False) -> None:
        self._make_room()
        self._front.record(self, self._status, "answered")
        self._done(self._keep_alive, linger)
