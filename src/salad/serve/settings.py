"""What a server allows, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass

from salad.types import SaladError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """host: where it listens; any other than this machine itself wants an `api_key`.

    allowed_hosts: further names by which clients may call it. audio_urls: whether http addresses of recordings may be
    fetched. max_concurrency requests generate together, max_queue wait for them; more get a 429. Times in seconds;
    max_body_bytes: of one request. asr: the cascade's recogniser, "" for none.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    audio_urls: bool = False
    max_audio_s: float = 120.0
    max_concurrency: int = 16
    max_queue: int = 64
    max_tokens: int = 512
    timeout_s: float = 300.0
    max_body_bytes: int = 32 * 2**20
    asr: str = ""
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.api_key:
            raise SaladError(
                f"--host: {self.host} can be reached from other machines, expected an --api-key with it; add one"
            )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise SaladError("--api-key: expected printable ASCII characters, one at least; choose another")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise SaladError("--ssl-certfile, --ssl-keyfile: got one of them, expected both or neither")
