"""The engine's answers with status 500 that are the client's fault, told from those that are the engine's."""

from __future__ import annotations

from http import HTTPStatus

import orjson

from qwenvl_runtime.errors import RequestError

LONGEST = 64 << 10
"""Bytes of an error; a longer answer with status 500 is none."""

# The beginnings of messages of the picture decoder that vLLM takes for its own failure, and those of media that the
# front lets nobody ask for: a second line. Any other message stays a 500.
_MEDIA_FAULTS = (
    "broken PNG file",
    "broken data stream when reading image file",
    "cannot identify image file",
    "Cannot load local files without",
    "could not create decoder object",
    "Decompressed data too large for",
    "Failed to load image",
    "failed to read next frame",
    "Image size (",
    "image file is truncated",
    "Truncated File Read",
    "unrecognized data stream contents",
)


def find_client_fault(body: bytes) -> RequestError | None:
    """None when the engine failed by itself, or nobody knows."""
    try:
        error = orjson.loads(body)["error"]
        message = error["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    if type(message) is not str or not message.startswith(_MEDIA_FAULTS):
        return None
    # The decoder's words are not passed on: they have held addresses of the engine's memory.
    return RequestError(HTTPStatus.BAD_REQUEST, "media_malformed", "A picture cannot be decoded.", param="messages")
