"""Addresses that a request names: fetched from public ones alone, whatever names and redirects say."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time

import pytest

from salad.serve.errors import ApiError
from salad.serve.sound import fetch, is_public


@pytest.fixture(scope="module")
def port():
    """A server on this machine: /sound, /to?ADDRESS, /large."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path, _, query = self.path.partition("?")
            self.send_response(302 if path == "/to" else 404 if path == "/none" else 200)
            if path == "/to":
                self.send_header("Location", query)
            self.end_headers()
            self.wfile.write(b"x" * 10_000 if path == "/large" else b"sound")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


PUBLIC, HERE = "93.184.216.34", "127.0.0.1"


def named(**names):
    """A resolver by a table; several answers are given one after the other, as a name that is rebound gives them."""
    left = {name.replace("_", "."): list(answers) for name, answers in names.items()}

    def resolve(name, port):
        return [left[name].pop(0) if len(left[name]) > 1 else left[name][0]] if name in left else [name]

    return resolve


def loopback_too(address):
    return is_public(address) or address == HERE


def test_a_recording_is_fetched(port):
    resolver = named(a_example=[HERE])
    got = fetch(f"http://a.example:{port}/to?/sound", 100, "url", resolver=resolver, allowed=loopback_too)
    assert got == b"sound"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8",
     "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe", "localhost", "ff02::1"],
)  # fmt: skip
def test_private_addresses(address):
    assert not is_public(address)
    with pytest.raises(ApiError, match="no public address"):
        fetch("http://a.example/x", 100, "url", resolver=named(a_example=[address]))


def test_public_addresses():
    assert is_public(PUBLIC) and is_public("2606:2800:220:1:248:1893:25c8:1946")


def test_a_redirect_to_a_private_address(port):
    resolver = named(a_example=[HERE], b_example=["10.0.0.1"])
    for place in ("http://b.example/x", "http://169.254.169.254/latest", "//b.example/x"):
        with pytest.raises(ApiError, match="no public address"):
            fetch(f"http://a.example:{port}/to?{place}", 100, "url", resolver=resolver, allowed=loopback_too)
    for place in ("file:///etc/passwd", "gopher://a.example/"):
        with pytest.raises(ApiError, match="expected https"):
            fetch(f"http://a.example:{port}/to?{place}", 100, "url", resolver=resolver, allowed=loopback_too)


def test_a_name_that_is_rebound(port, monkeypatch):
    """The first answer is public, the second would be this machine: the connection goes where the first one said."""
    asked = []

    def connect(place, timeout):
        asked.append(place)
        raise OSError

    monkeypatch.setattr("salad.serve.sound.socket.create_connection", connect)
    with pytest.raises(ApiError, match="cannot be fetched"):
        fetch(f"http://a.example:{port}/x", 100, "url", resolver=named(a_example=[PUBLIC, HERE]))
    assert asked == [(PUBLIC, port)]


def test_one_private_address_among_public_ones():
    with pytest.raises(ApiError, match="no public address"):
        fetch("http://a.example/x", 100, "url", resolver=lambda name, port: [PUBLIC, HERE])


@pytest.mark.parametrize(
    "path, why", [("/none", "404"), ("/large", "more than 100 bytes"), ("/to?/to", "redirects|fetched")]
)
def test_what_cannot_be_taken(port, path, why):
    with pytest.raises(ApiError, match=why):
        fetch(f"http://a.example:{port}{path}", 100, "url", resolver=named(a_example=[HERE]), allowed=loopback_too)


DRIPS = {
    "a head": [b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 80],
    "continue": [b"HTTP/1.1 100 Continue\r\n\r\n"] * 80,
    "a body": [b"HTTP/1.1 200 OK\r\n\r\n", *[b"x"] * 80],
}


@pytest.mark.parametrize("name", DRIPS)
def test_an_answer_that_drips(name):
    """Each piece comes soon enough; all of them together do not."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip():
            with contextlib.suppress(OSError), listening.accept()[0] as one:
                for piece in DRIPS[name]:
                    one.sendall(piece)
                    time.sleep(0.1)

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        begun = time.monotonic()
        with pytest.raises(ApiError, match="cannot be fetched"):
            fetch(
                f"http://a.example:{listening.getsockname()[1]}/x", 10**6, "url", resolver=named(a_example=[HERE]),
                allowed=loopback_too, timeout_s=0.5,
            )  # fmt: skip
        assert time.monotonic() - begun < 3
        thread.join(timeout=5)


@pytest.mark.parametrize(
    "url", ["", "x", "http://", "http://u:p@a.example/", "http://a.example:99999/", "http://a b/", "ftp://a.example/x",
            "http://a.example/\r\nX: y", "http://[::1"],
)  # fmt: skip
def test_what_is_no_address(url):
    with pytest.raises(ApiError) as refused:
        fetch(url, 100, "url", resolver=lambda *_: pytest.fail("resolved"))
    assert refused.value.status == 400
