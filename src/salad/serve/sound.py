"""The sound of a request: base64, a data: URL, or an address that is fetched, never a private one; to samples."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urljoin, urlsplit

import numpy as np

from salad.audio import read_audio
from salad.model import recordings
from salad.serve.errors import ApiError
from salad.types import SaladError

FORMATS = ("wav", "mp3", "flac", "ogg", "m4a", "opus", "webm", "mp4", "mpeg", "mpga")
MAX_REDIRECTS = 3
FETCH_S = 20.0
CHUNK = 1 << 16
Resolver = Callable[[str, int], list[str]]
MOVED = (301, 302, 303, 307, 308)


def of_base64(data: str, param: str) -> bytes:
    """The bytes. Raises ApiError where they are no base64, or none."""
    with _refused(param, "invalid_base64"):
        return recordings.of_base64(data, param)


def of_data_url(url: str, param: str) -> bytes:
    """The bytes of data:audio/...[;base64],... Raises ApiError where it holds none, or another kind of file."""
    head, comma, _ = url.partition(",")
    kind = head[5:].split(";")[0].strip().lower()
    if not comma or not (kind.startswith("audio/") or kind in ("video/mp4", "video/webm", "application/ogg")):
        raise ApiError(400, f"{param}: expected data:audio/...;base64,..., got {head!r:.60}", param, "invalid_url")
    with _refused(param, "invalid_base64" if head.lower().endswith(";base64") else "invalid_url"):
        return recordings.of_data_url(url, param)


@contextlib.contextmanager
def _refused(param: str, code: str) -> Iterator[None]:
    try:
        yield
    except SaladError as error:
        raise ApiError(400, str(error), param, code) from None


def decode_sound(data: bytes, rate_hz: int, max_s: float, param: str) -> np.ndarray:
    """float32 [num_samples] at `rate_hz`. Raises ApiError where it is no recording, or a longer one."""
    try:
        return read_audio(data, rate_hz, max_s=max_s, name="the recording")[0]
    except SaladError as error:
        raise ApiError(400, f"{param}: {error}", param, "invalid_audio") from None


# --- addresses --------------------------------------------------------------------------------------------


def resolve(name: str, port: int) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]


def is_public(address: str) -> bool:
    """Whether an address is one of the open Internet, also where it wraps an IPv4 address in IPv6."""
    try:
        ip = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inside = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if inside or ip in ipaddress.ip_network("64:ff9b::/96") or ip in ipaddress.ip_network("64:ff9b:1::/48"):
            return False  # nobody's recordings lie there
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


class _Deadline:
    """Ends a request however little by little it is answered: when its time is up its socket is shut down."""

    def __init__(self, timeout_s: float) -> None:
        self._end = time.monotonic() + timeout_s
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(timeout_s, self._shut)
        self._timer.daemon = True
        self._timer.start()

    @property
    def left_s(self) -> float:
        return self._end - time.monotonic()

    @property
    def over(self) -> bool:
        return self.left_s <= 0

    def watch(self, connected: socket.socket) -> None:
        self._socket = connected
        if self.over:
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is closed
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # not TLS's own, which another thread may be in

    def cancel(self) -> None:
        self._timer.cancel()


def fetch(
    url: str,
    max_bytes: int,
    param: str,
    *,
    resolver: Resolver = resolve,
    allowed: Callable[[str], bool] = is_public,
    timeout_s: float = FETCH_S,
) -> bytes:
    """What lies at an http(s) address.

    A name is resolved once, and the connection goes to the address that was checked: a name that points elsewhere a
    moment later, or a redirect, reaches no other. All of it takes `timeout_s` at most, but for the resolver. Raises
    ApiError.
    """
    deadline = _Deadline(timeout_s)
    try:
        return _fetched(url, max_bytes, param, resolver, allowed, deadline)
    finally:
        deadline.cancel()


def _fetched(
    url: str, max_bytes: int, param: str, resolver: Resolver, allowed: Callable[[str], bool], deadline: _Deadline
) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        parts = _parts(url, param)
        answer, connection = _ask(parts, param, resolver, allowed, deadline)
        try:
            if answer.status in MOVED:
                url = urljoin(url, answer.getheader("location", ""))
                continue
            if answer.status != 200:
                raise _unreachable(param, f"its server answered {answer.status}")
            return _read(answer, max_bytes, param, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _unreachable(param, type(error).__name__) from None
        finally:
            connection.close()
    raise _unreachable(param, f"more than {MAX_REDIRECTS} redirects")


def _parts(url: str, param: str) -> tuple[str, str, int, str]:
    """scheme, host, port, what is asked for there."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise ApiError(400, f"{param}: not a URL; give https://... or data:audio/...", param, "invalid_url") from None
    plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or not plain:
        raise ApiError(400, f"{param}: expected https://... or data:audio/..., got {url!r:.60}", param, "invalid_url")
    return parts.scheme, parts.hostname, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _ask(
    parts: tuple[str, str, int, str],
    param: str,
    resolver: Resolver,
    allowed: Callable[[str], bool],
    deadline: _Deadline,
) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
    scheme, host, port, target = parts
    try:
        addresses = resolver(host, port)
    except (OSError, UnicodeError):
        addresses = []
    if not addresses:
        raise _unreachable(param, f"no address of {host!r:.60}")
    if not all(allowed(address) for address in addresses):
        raise ApiError(400, f"{param}: {host!r:.60} is no public address; send the recording itself", param, "address")
    connection = http.client.HTTPConnection(host, port, timeout=max(0.1, deadline.left_s))
    try:
        plain = connection.sock = socket.create_connection((addresses[0], port), timeout=connection.timeout)
        if scheme == "https":
            context = ssl.create_default_context()
            safe = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
            connection.sock = safe
            deadline.watch(safe)
            safe.do_handshake()
        else:
            deadline.watch(plain)
        connection.request("GET", target, headers={"Accept": "audio/*"})
        return connection.getresponse(), connection
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        raise _unreachable(param, type(error).__name__) from None


def _read(answer: http.client.HTTPResponse, max_bytes: int, param: str, deadline: _Deadline) -> bytes:
    data = b""
    while block := answer.read1(CHUNK):
        data += block
        if len(data) > max_bytes:
            raise ApiError(400, f"{param}: more than {max_bytes} bytes; give a shorter file", param, "too_large")
        if deadline.over:
            break
    if deadline.over:  # what there is ended with its socket
        raise _unreachable(param, "it took too long")
    return data


def _unreachable(param: str, why: str) -> ApiError:
    return ApiError(400, f"{param}: the recording cannot be fetched ({why}); send it as base64", param, "unreachable")
