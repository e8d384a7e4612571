"""Text chunks of a PNG, read without decoding a pixel and within fixed bounds: a dropped file may be hostile.

Chunks and their layout: PNG specification (third edition), section 5 and 11.3.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from farm.errors import BadRequest

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT_BYTES = 2 * 1024 * 1024
MAX_TEXT_CHUNKS = 64
MAX_CHUNKS = 10_000


def read_texts(data: bytes) -> dict[str, str]:
    """Keyword → text of all tEXt, zTXt and iTXt chunks; the first of a keyword counts.

    Raises:
        BadRequest: no PNG, a damaged one, or one whose texts are more than `MAX_TEXT_BYTES`.
    """
    if not data.startswith(SIGNATURE):
        raise BadRequest("this is no PNG", "only PNG pictures carry settings that Farm reads", code="no_png")
    texts: dict[str, str] = {}
    left = MAX_TEXT_BYTES
    count = 0
    for kind, body in _chunks(data):
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            continue
        count += 1
        if count > MAX_TEXT_CHUNKS:
            raise _bad(f"it has more than {MAX_TEXT_CHUNKS} text chunks")
        keyword, text = _text(kind, body, left)
        left -= len(text)
        texts.setdefault(keyword, text.decode("latin-1" if kind != b"iTXt" else "utf-8", "replace"))
    return texts


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if at + 12 > len(data):
            raise _bad("it ends before its last chunk")
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(data):
            raise _bad("a chunk is longer than the file")
        body = data[at + 8 : end]
        (crc,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(data[at + 4 : end]) != crc:
            raise _bad(f"the checksum of a {kind.decode('latin-1')} chunk is wrong")
        yield kind, body
        if kind == b"IEND":
            return
        at = end + 4
    raise _bad(f"it has more than {MAX_CHUNKS} chunks")


def _text(kind: bytes, body: bytes, most: int) -> tuple[str, bytes]:
    keyword, _, rest = body.partition(b"\0")
    if kind == b"zTXt":
        rest = _inflate(rest[1:], most)
    elif kind == b"iTXt":
        compressed = rest[:1] == b"\1"
        _language, _, rest = rest[2:].partition(b"\0")
        _translated, _, rest = rest.partition(b"\0")
        rest = _inflate(rest, most) if compressed else rest
    if len(rest) > most:
        raise _bad(f"its texts are more than {MAX_TEXT_BYTES // 1024**2} MB")
    return keyword.decode("latin-1"), rest


def _inflate(data: bytes, most: int) -> bytes:
    decoder = zlib.decompressobj()
    try:
        text = decoder.decompress(data, most + 1)
    except zlib.error:
        raise _bad("a compressed text is damaged") from None
    return text


def _bad(what: str) -> BadRequest:
    return BadRequest(f"this PNG cannot be read: {what}", "use the file as it was downloaded", code="bad_png")
