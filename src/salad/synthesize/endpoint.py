"""A voice behind an OpenAI-compatible speech endpoint (`POST URL/audio/speech`). Called only where it is named."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import time
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import numpy as np

from salad.audio import read_audio
from salad.data.readers.detect import AUDIO_MARK
from salad.types import SaladError

KEY = "SALAD_SPEECH_KEY"  # environment variable: sent as a bearer token to the endpoint that the recipe names
KEY_HOST = "SALAD_SPEECH_HOST"  # environment variable: the one host that may see the key, where recipes are others'
NAME = re.compile(r"openai:(?P<model>[^:@]+):(?P<voice>[^@]+)@(?P<url>https?://\S+)")
TRIES, TIMEOUT_S, WAIT_S = 5, 120.0, 1.0
BAD_TEXT = (400, 413, 422)  # this text is refused; another may pass
MAX_ANSWER_BYTES, MAX_ANSWER_S = 1 << 26, 600.0  # 64 MB are 23 minutes at 24 kHz, and one sentence is asked for
BLOCK = 1 << 16


class EndpointDown(SaladError):
    """The endpoint refuses or fails whatever the text is: the job must stop, or it would lose every document."""


class _NoRedirect(HTTPRedirectHandler):
    """A redirect is an answer like any other: whoever sends one must not learn the key, nor choose where it goes."""

    def redirect_request(self, *_: object) -> None:
        return None


class EndpointVoice:
    """ "openai:MODEL:VOICE@URL", such as "openai:tts-1:alloy@http://localhost:8880/v1". Asks for WAV.

    The samples are the server's: same text, same samples only if it keeps to that. The key in `SALAD_SPEECH_KEY` goes
    to the URL's own host alone (and to no other than `SALAD_SPEECH_HOST` where that is set), by https or to this
    machine; redirects are refused.
    """

    sample_rate_hz = 24_000

    def __init__(self, name: str) -> None:
        match = NAME.fullmatch(name)
        if match is None:
            raise SaladError(
                f"voice: got {name!r}, expected openai:MODEL:VOICE@URL, such as openai:tts-1:alloy@https://..."
            )
        self.name = name
        self._model, self._voice, self._url = match["model"], match["voice"], match["url"].rstrip("/")
        place = _checked(self._url)
        if not place.hostname or place.username is not None or place.query or place.fragment:
            raise SaladError(
                f"voice: got the URL {self._url!r}, expected https://HOST/PATH without user, query or fragment; put the"
                f" key into {KEY}"
            )
        self._host, self._secret = place.hostname, place.scheme == "https"
        self._here = _is_this_machine(self._host)
        # a proxy must not see what is for this machine
        self._opener = build_opener(_NoRedirect, *([ProxyHandler({})] if self._here else []))

    def speak(self, text: str, speed: float = 1.0) -> np.ndarray:
        body = {"model": self._model, "voice": self._voice, "input": text, "response_format": "wav", "speed": speed}
        answer = self._post(json.dumps(body).encode())
        try:
            return read_audio(answer, self.sample_rate_hz, name=f"the answer of {self._url}")[0]
        except SaladError as error:
            if AUDIO_MARK.match(answer):  # sound of this one text, such as none at all; another text may pass
                raise
            raise EndpointDown(f"voice: {self._url} answered {answer[:40]!r}, expected WAV ({error})") from None

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(KEY, "").strip()
        if not key:
            return headers
        if not (key.isascii() and key.isprintable()):
            raise EndpointDown(
                f"voice: the key in {KEY} holds line breaks or letters that no header takes; copy it again"
            )
        if not (self._secret or self._here):
            raise EndpointDown(
                f"voice: {self._url} is plain http to another machine, where anybody on the way could read the key in "
                f"{KEY}; use https, or unset {KEY}"
            )
        if (host := os.environ.get(KEY_HOST)) and host.lower() != self._host:
            raise EndpointDown(
                f"voice: {self._url} is not {KEY_HOST} ({host}), the one host that may see the key in {KEY}; correct"
                f" the voice's URL, or {KEY_HOST}"
            )
        return {**headers, "Authorization": f"Bearer {key}"}

    def _post(self, body: bytes) -> bytes:
        """The answer's bytes; waits and asks again while the server is busy, fails, or cannot be reached."""
        headers, problem = self._headers(), ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(WAIT_S * 2 ** (attempt - 1))
            try:
                asked = Request(f"{self._url}/audio/speech", body, headers)
                with self._opener.open(asked, timeout=TIMEOUT_S) as answer:
                    return self._bounded(answer)
            except HTTPError as error:
                problem = f"{error.code} {error.reason}: {error.read(200).decode(errors='replace')}"
                if 300 <= error.code < 400:
                    to = error.headers.get("Location", "nowhere")
                    raise EndpointDown(
                        f"voice: {self._url} redirects ({error.code}) to {to[:200]}, which is not followed: the key"
                        " and the text are for the host that the recipe names; give the URL that answers itself"
                    ) from None
                if error.code in BAD_TEXT:
                    raise SaladError(f"voice: {self._url} refused the text ({problem}); change or remove it") from None
                if error.code != 429 and error.code < 500:
                    raise EndpointDown(
                        f"voice: {self._url} answered {problem}; is {KEY} set, the model right?"
                    ) from None
            except (URLError, HTTPException, OSError) as error:
                problem = str(error)
        raise EndpointDown(f"voice: {self._url} failed {TRIES} times ({problem}); run again once it is up")

    def _bounded(self, answer: HTTPResponse) -> bytes:
        """All of an answer. Raises EndpointDown where it is larger, or takes longer, than speech of a sentence can."""
        data, end_s = bytearray(), time.monotonic() + MAX_ANSWER_S
        while block := answer.read1(BLOCK):
            data += block
            if len(data) > MAX_ANSWER_BYTES or time.monotonic() > end_s:
                raise EndpointDown(
                    f"voice: {self._url} sent {len(data)} bytes and goes on, expected at most {MAX_ANSWER_BYTES} in"
                    f" {MAX_ANSWER_S:g} s for one sentence; is it a speech endpoint?"
                )
        if answer.length:  # it told of more
            raise OSError(f"the answer ends {answer.length} bytes early")
        return bytes(data)


def _checked(url: str) -> SplitResult:
    """The parts of a URL that can be asked. Raises SaladError for one that only a request would stumble over."""
    try:
        place = urlsplit(url)
        _ = place.port  # read, for it is checked where it is
        (place.hostname or "").encode("idna")
        url.encode("ascii")
        if not url.isprintable():
            raise ValueError("it holds control characters")
    except ValueError as error:
        raise SaladError(
            f"voice: got the URL {url!r} ({error}); correct host, port and path, with letters beyond ASCII"
            " percent-encoded (in the host: xn--...)"
        ) from None
    return place


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
