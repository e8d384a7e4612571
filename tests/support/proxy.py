"""A TCP proxy that a test puts before Redis, SQL or S3, to pass, slow down, cut or spoil what goes through it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Literal, Self

Mode = Literal[
    "pass",
    "delay",
    "reset",
    "blackhole",
    "truncate",
    "http_500",
    "http_503",
    "http_507",
    "flip_down",
    "flip_up",
]

#: HTTP heads are shorter than this, so a byte at the end of a longer piece belongs to a body
_BODY_BYTES = 1024
_CHUNK = 64 * 1024
_LOOK_SECONDS = 0.02
_REASONS = {
    "http_500": b"500 Internal Server Error",
    "http_503": b"503 Service Unavailable",
    "http_507": b"507 Insufficient Storage",
}
_BODY = b"<Error><Code>SlowDown</Code><Message>made up by a test</Message></Error>"


class Proxy:
    """Forwards a loopback port to `(host, port)`; `set` changes what happens to every connection, open ones too.

    - delay: every piece waits `seconds`
    - reset: connections are cut, new ones too
    - blackhole: nothing arrives, on neither side, and nothing is lost: it goes on once the mode is another
    - truncate: the answers end after `after` bytes, then the connection does
    - http_500, http_503, http_507: every request is answered so
    - flip_down, flip_up: one bit of each long piece is changed, on its way to the client or to the server

    `times` ends a mode by itself after so many connections or pieces were hurt.
    """

    def __init__(self, host: str, port: int):
        self._target = host, port
        self._mode: Mode = "pass"
        self._seconds = 0.0
        self._after = 0
        self._left: int | None = None
        #: how often a fault was done to something
        self.hurt = 0
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def set(self, mode: Mode, *, seconds: float = 0.0, after: int = 0, times: int | None = None) -> None:
        self._seconds, self._after, self._left, self._mode = seconds, after, times, mode
        if mode == "reset":
            self._call(self._cut_all())

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _end(self) -> None:
        self._server.close()
        await self._cut_all()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _cut_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def _hits(self, *modes: Mode) -> bool:
        """Whether one of these modes is on; counts the hit."""
        if self._mode not in modes:
            return False
        self.hurt += 1
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self._mode = "pass"
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._hits("reset"):
            writer.transport.abort()
            return
        try:
            above, below = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, below}
        try:
            await asyncio.gather(
                self._pump(reader, below, self._upwards(writer)),
                self._pump(above, writer, self._downwards(writer)),
            )
        finally:
            self._writers -= {writer, below}
            for end in (writer, below):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        change: Callable[[bytes], bytes | None],
    ) -> None:
        """Carry pieces until an end closes; `change` answers None to cut the connection."""
        with suppress(OSError):
            while piece := await source.read(_CHUNK):
                if self._mode == "delay":
                    await asyncio.sleep(self._seconds)
                while self._mode == "blackhole":
                    await asyncio.sleep(_LOOK_SECONDS)
                changed = change(piece)
                if changed is None:
                    return
                sink.write(changed)
                await sink.drain()
        sink.close()

    def _upwards(self, client: asyncio.StreamWriter) -> Callable[[bytes], bytes | None]:
        def change(piece: bytes) -> bytes | None:
            mode = self._mode
            if self._hits("http_500", "http_503", "http_507"):
                head = b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                client.write(head % (_REASONS[mode], len(_BODY)) + _BODY)
                client.close()
                return None
            return self._flipped(piece) if len(piece) > _BODY_BYTES and self._hits("flip_up") else piece

        return change

    def _downwards(self, client: asyncio.StreamWriter) -> Callable[[bytes], bytes | None]:
        passed = 0

        def change(piece: bytes) -> bytes | None:
            nonlocal passed
            passed += len(piece)
            if self._mode == "truncate" and passed > self._after:
                self._hits("truncate")
                client.write(piece[: max(0, self._after - passed + len(piece))])
                client.close()
                return None
            return self._flipped(piece) if len(piece) > _BODY_BYTES and self._hits("flip_down") else piece

        return change

    @staticmethod
    def _flipped(piece: bytes) -> bytes:
        return piece[:-1] + bytes([piece[-1] ^ 1])
