"""Tokens to text as they come: whole characters only, and nothing of what a stop string may still begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # what a decoder writes for the first bytes of a character


class TextStream:
    """`push` gives the text that a token adds; `stopped` once a stop string was met, which is not part of the text."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, stops
        self._ids: list[int] = []
        self._from = self._read = 0  # tokens before `_from` no longer matter; the text of those before `_read` is out
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        before = self._decode(self._ids[self._from : self._read])
        now = self._decode(self._ids[self._from :])
        if now.endswith(UNFINISHED) or len(now) <= len(before):
            return ""
        self._from, self._read = self._read, len(self._ids)
        return self._released(now[len(before) :])

    def end(self) -> str:
        """What was still held back."""
        before = self._decode(self._ids[self._from : self._read])
        rest = self._released(self._decode(self._ids[self._from :])[len(before) :])
        held, self._held = self._held, ""
        return rest if self.stopped else rest + held

    def _released(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]
