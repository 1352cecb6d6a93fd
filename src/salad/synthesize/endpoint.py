"""A voice behind an OpenAI-compatible speech endpoint (`POST URL/audio/speech`). Called only where it is named."""

from __future__ import annotations

import io
import json
import os
import re
import time
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
import soundfile

from salad.audio import resample
from salad.types import SaladError

__all__ = ["KEY", "EndpointDown", "EndpointVoice"]

KEY = "SALAD_SPEECH_KEY"  # environment variable: sent as a bearer token to the endpoint that the recipe names
NAME = re.compile(r"openai:(?P<model>[^:@]+):(?P<voice>[^@]+)@(?P<url>https?://\S+)")
TRIES, TIMEOUT_S, WAIT_S = 5, 120.0, 1.0
BAD_TEXT = (400, 413, 422)  # this text is refused; another may pass


class EndpointDown(SaladError):
    """The endpoint refuses or fails whatever the text is: the job must stop, or it would lose every document."""


class EndpointVoice:
    """ "openai:MODEL:VOICE@URL", such as "openai:tts-1:alloy@http://localhost:8880/v1". Asks for WAV.

    The samples are the server's: same text, same samples only if it keeps to that.
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

    def speak(self, text: str, speed: float = 1.0) -> np.ndarray:
        body = {"model": self._model, "voice": self._voice, "input": text, "response_format": "wav", "speed": speed}
        answer = self._post(json.dumps(body).encode())
        try:
            samples, rate_hz = soundfile.read(io.BytesIO(answer), dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise EndpointDown(f"voice: {self._url} answered {answer[:40]!r}, expected WAV ({error})") from None
        return resample(samples.mean(axis=1), rate_hz, self.sample_rate_hz)

    def _post(self, body: bytes) -> bytes:
        """The answer's bytes; waits and asks again while the server is busy, fails, or cannot be reached."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        for attempt in range(TRIES):
            if attempt:
                time.sleep(WAIT_S * 2 ** (attempt - 1))
            try:
                with urlopen(Request(f"{self._url}/audio/speech", body, headers), timeout=TIMEOUT_S) as answer:
                    return answer.read()
            except HTTPError as error:
                problem = f"{error.code} {error.reason}: {error.read()[:200].decode(errors='replace')}"
                if error.code in BAD_TEXT:
                    raise SaladError(f"voice: {self._url} refused the text ({problem})") from None
                if error.code != 429 and error.code < 500:
                    raise EndpointDown(
                        f"voice: {self._url} answered {problem}; is {KEY} set, the model right?"
                    ) from None
            except (URLError, HTTPException, OSError) as error:
                problem = str(error)
        raise EndpointDown(f"voice: {self._url} failed {TRIES} times ({problem}); run again once it is up")
