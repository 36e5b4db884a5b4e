"""What pictures and videos a request may carry: form, number and size, checked before any decoding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qwenvl_runtime.config import MIN_PIXELS, PICTURE_MARKS, PIXELS_PER_TOKEN, MediaConfig
from qwenvl_runtime.errors import bad_field
from qwenvl_runtime.media_hosts import MediaHosts, MediaLink, is_plain
from qwenvl_runtime.picture_header import MEDIA_TYPES, read_header
from qwenvl_runtime.picture_source import Base64Source, PictureError, Source

# The model's preprocessor refuses longer strips than this.
MAX_RATIO = 200
_VIDEO_TYPES = ("video/mp4", "video/webm")
_QUOTED = 40
_LARGEST = 4
"""How many pictures of media.maxSourcePixels a request may hold: the engine has all of them decoded at a time."""


@dataclass(frozen=True)
class Slot:
    """Where a picture is to be put that has to be fetched: `holder["url"]`."""

    param: str
    holder: dict[str, Any] = field(repr=False)
    link: MediaLink = field(repr=False)


@dataclass(slots=True)
class MediaCheck:
    """The media of one request, as they are met."""

    limits: MediaConfig
    hosts: MediaHosts
    pictures: int = 0
    videos: int = 0
    tokens: int = 0
    source_pixels: int = 0
    """Of the pictures as they were sent, before they are scaled down."""
    characters: int = 0
    """How much of the request is media, and not text."""
    slots: list[Slot] = field(default_factory=list)

    def take_picture(self, param: str, holder: dict[str, Any]) -> None:
        """`holder["url"]` is a picture inline, or the address of one. Raises RequestError."""
        self.pictures += 1
        if self.pictures > self.limits.max_images:
            raise bad_field("media_limit", param, f"at most {self.limits.max_images} pictures (media.maxImages)")
        url: str = holder["url"]
        if url[:5].lower() == "data:":
            media_type, start = _read_data_url(param, holder, MEDIA_TYPES)
            self.characters += len(url) - start
            self.tokens += self.measure(param, _open(param, url, start), media_type)[1]
        elif len(url) <= self.hosts.longest and (link := self.hosts.find(url)):
            self.slots.append(Slot(param, holder, link))
            self.tokens += self.limits.max_pixels // PIXELS_PER_TOKEN + PICTURE_MARKS
        else:
            raise bad_field("media_not_allowed", param, self._explain(url))

    def take_video(self, param: str, holder: dict[str, Any]) -> None:
        """`holder["url"]` is a video inline. Only its form and the number are checked: its frames cannot be counted
        without decoding it."""
        self.videos += 1
        if self.videos > self.limits.max_videos:
            raise bad_field("media_limit", param, f"at most {self.limits.max_videos} videos (media.maxVideos)")
        url: str = holder["url"]
        media_type, start = _read_data_url(param, holder, _VIDEO_TYPES)
        begin = _open(param, url, start).read(0, 12)
        if not (begin[4:8] == b"ftyp" if media_type == "video/mp4" else begin.startswith(b"\x1aE\xdf\xa3")):
            raise bad_field("media_malformed", param, f"is not {media_type}")
        self.characters += len(url) - start
        self.tokens += self.limits.max_pixels // PIXELS_PER_TOKEN

    def measure(self, param: str, source: Source, declared: str = "") -> tuple[str, int]:
        """A picture's media type and its tokens. Raises RequestError for one that is malformed or too large."""
        try:
            media_type, width, height = read_header(source)
        except PictureError as error:
            raise bad_field("media_malformed", param, f"the picture {error}") from error
        if declared not in ("", media_type):
            raise bad_field("media_malformed", param, f"the picture is {media_type}, not {declared} as it says")
        most = self.limits.max_source_pixels
        if width * height > most:
            message = f"a picture of {width}x{height} has more than {most} pixels (media.maxSourcePixels)"
            raise bad_field("media_limit", param, message)
        if max(width, height) > MAX_RATIO * min(width, height):
            message = f"a picture of {width}x{height} is too long: at most {MAX_RATIO} times its width or height"
            raise bad_field("media_limit", param, message)
        self._count_source(param, width * height)
        seen = min(max(width * height, MIN_PIXELS), self.limits.max_pixels)
        return media_type, seen // PIXELS_PER_TOKEN + PICTURE_MARKS

    def _count_source(self, param: str, pixels: int) -> None:
        self.source_pixels += pixels
        limits = self.limits
        # As many pictures as may come, none of them larger than the model sees it, are never too many.
        most = max(_LARGEST * limits.max_source_pixels, limits.max_images * limits.max_pixels)
        if self.source_pixels > most:
            message = (
                f"up to here the pictures have more than {most} pixels together (media.maxSourcePixels x {_LARGEST})"
            )
            raise bad_field("media_limit", param, message)

    def _explain(self, url: str) -> str:
        if self.hosts.names and url[:8].lower().startswith(("http://", "https://")):
            if len(url) > self.hosts.longest:
                return f"the address has more than {self.hosts.longest} characters"
            if not is_plain(url):
                return "the address must be in ASCII, escaped, without user or fragment"
        forms = f"pictures come inline, as data:image/...;base64,... of {', '.join(MEDIA_TYPES)}"
        hosts = ", ".join(self.hosts.names)
        return forms + (f", or from {hosts} (media.allowedURLHosts)" if hosts else " (media.allowedURLHosts is empty)")


def _read_data_url(param: str, holder: dict[str, Any], allowed: tuple[str, ...]) -> tuple[str, int]:
    """The media type, and where the base64 text begins, of `holder["url"]`. One that is written in another case than
    the engine knows is written anew."""
    url: str = holder["url"]
    end = url.find(",", 0, _QUOTED)
    said = url[: end + 1].lower()
    media_type = said[5 : -len(";base64,")]
    if media_type == "image/jpg":
        media_type = "image/jpeg"  # not its name, but often written
    if not said.startswith("data:") or not said.endswith(";base64,") or media_type not in allowed:
        forms = " or ".join(f"data:{each};base64,..." for each in allowed)
        raise bad_field("media_not_allowed", param, f"must be {forms}, with nothing else before the comma")
    if not url.startswith(said):
        holder["url"] = said + url[end + 1 :]
    return media_type, end + 1


def _open(param: str, url: str, start: int) -> Base64Source:
    try:
        return Base64Source(url, start)
    except PictureError as error:
        raise bad_field("media_malformed", param, str(error)) from error
