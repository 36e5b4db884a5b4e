"""The engine's lines in our log: whole while it loads, only what cannot quote a request once it serves users.

vLLM's warnings name parts of requests ("Skipping multimodal part '%s'", "Chat template rejected the request: %s") and
tracebacks end in messages that nobody has vetted. What is let through is listed here; of the rest only the place shows.
"""

from __future__ import annotations

import re
from collections import deque

from qwenvl_runtime.config import EngineReport
from qwenvl_runtime.logs import write_line

_LINE_LIMIT = 4096
_TAIL = 50
_LAST_LINES = 3
_QUOTED = 300
_HEADER = re.compile(
    r"(?:\((?P<process>[\w -]+) pid=\d+\) )?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)(?: \d\d-\d\d \d\d:\d\d:\d\d \[(?P<place>[\w./-]+:\d+)\] |: +))?"
)
_EXCEPTION = re.compile(r"(?P<name>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit))(?:: .*)?")
_SAFE = re.compile(
    r"""(?x)
      Engine\ \d+:\ Avg\ prompt\ throughput:[\w\s:.,%/()-]*
    | \[shutdown\]\ [\w\s=.:,()-]*
    | Traceback\ \(most\ recent\ call\ last\):
    | \s*File\ "[\w./<>-]+",\ line\ \d+,\ in\ [\w<>.]+
    | (?:Engine\ core|Worker)\ proc(?:ess)?\ [\w-]+\ died\ unexpectedly.*
    | EngineCore\ encountered\ (?:a\ fatal\ error|an\ issue)[\w\s.]*
    | Exception\ in\ ASGI\ application
    | (?:torch\.)?(?:OutOfMemoryError|AcceleratorError|RuntimeError):\ (?:CUDA|NCCL)\ (?:out\ of\ memory|error).{0,400}
    """
)
# An outer error that only points at the one that matters.
_POINTER = re.compile(r"See (?:root cause|stack trace)|Engine core initialization failed")
# What vLLM 0.32 and 0.33 say of themselves while they load; Worker processes each say it.
_KV_CACHE = re.compile(r"\w+ KV cache size: ([\d,]+) tokens")
_ATTENTION = re.compile(r"Using (?:AttentionBackendEnum\.)?(\w+) (?:attention backend\b|backend\.)")
_GRAPHS = re.compile(r"Graph capturing finished in ")
_COMPILED = re.compile(r".*(?:torch\.compile took |Directly load |Compiling a graph for )")


def read_report(report: EngineReport, text: str) -> EngineReport:
    """The report with what one line of the engine adds to it.

    >>> read_report(EngineReport(), "GPU KV cache size: 424,112 tokens, Maximum concurrency: 3x").kv_cache_tokens
    424112
    """
    if found := _KV_CACHE.match(text):
        return report.model_copy(update={"kv_cache_tokens": int(found[1].replace(",", ""))})
    if found := _ATTENTION.match(text):
        return report.model_copy(update={"attention_backend": found[1]})
    if _GRAPHS.match(text):
        return report.model_copy(update={"cuda_graphs": True})
    return report.model_copy(update={"compiled": True}) if _COMPILED.match(text) else report


class EngineLog:
    """Relays lines and remembers the telling ones: for the report, and for the container's last words."""

    def __init__(self) -> None:
        self.guarded = False
        """Set once users may send requests."""
        self.report = EngineReport()
        self._errors: deque[str] = deque(maxlen=_TAIL)
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._withheld = ""

    def relay(self, line: str) -> None:
        header = _HEADER.match(line)
        assert header is not None
        level, place = header["level"], header["place"] or ""
        text = line[header.end() :].rstrip()[:_LINE_LIMIT]
        if not text:
            return
        if self.guarded:
            text = redact(text)
            if not text and self._withheld == place:
                return
            self._withheld = place if not text else ""
            text = text or "text withheld: it may quote a request"
        else:
            self.report = read_report(self.report, text)
        self._last.append(text[:_QUOTED])
        if level in ("ERROR", "CRITICAL") or _EXCEPTION.fullmatch(text):
            self._errors.append(text)
        fields = {"process": header["process"] or "", "place": place}
        write_line(
            "engine", (level or "info").lower(), text, **{name: value for name, value in fields.items() if value}
        )

    def find_cause(self) -> str:
        """The last exception that the engine named, less those that only point at another; else its last lines."""
        telling = [text for text in self._errors if _EXCEPTION.fullmatch(text) and not _POINTER.search(text)]
        return telling[-1] if telling else " | ".join(self._last)


def redact(text: str) -> str:
    """What may be shown of a line printed while users are served; empty when nothing may.

    >>> redact("ValueError: cannot parse 'my secret'"), redact("Skipping multimodal part 'my secret'")
    ('ValueError', '')
    """
    if _SAFE.fullmatch(text):
        return text
    exception = _EXCEPTION.fullmatch(text)
    return exception["name"] if exception else ""
