"""Who may ask: Host, Origin, key and size."""

from __future__ import annotations

import socket

import httpx2
import pytest

from salad.serve.guard import Guard
from salad.serve.settings import Settings
from salad.types import SaladError

OPEN = Settings(host="0.0.0.0", api_key="k", allowed_hosts=("ears.example",))


@pytest.mark.parametrize(
    "settings, host, ours",
    [
        (Settings(), "localhost:8000", True),
        (Settings(), "127.0.0.1", True),
        (Settings(), "[::1]:80", True),
        (Settings(), "LOCALHOST.:1", True),
        (Settings(), "evil.example", False),
        (Settings(), "127.0.0.1.evil.example", False),
        (Settings(), "10.0.0.1", False),
        (Settings(), "", False),
        (Settings(), "localhost:x", False),
        (Settings(), "localhost@evil.example", False),
        (Settings(), "evil.example/@localhost", False),
        (Settings(), "localhost,evil.example", False),
        (OPEN, "ears.example:8000", True),
        (OPEN, "10.0.0.1", True),
        (OPEN, "evil.example", False),
    ],
)
def test_only_its_own_names(settings, host, ours):
    assert Guard(None, settings)._is_ours(host) == ours


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4"])
def test_other_machines_want_a_key(host):
    with pytest.raises(SaladError, match="--host.*--api-key"):
        Settings(host=host)
    Settings(host=host, api_key="k")


@pytest.mark.parametrize(
    "origin, status",
    [("null", 403), ("https://evil.example", 403), ("http://localhost:1", 403), ("OWN", 200), (None, 200)],
)
def test_a_page_elsewhere_is_refused(url, origin, status):
    headers = {} if origin is None else {"origin": url if origin == "OWN" else origin}
    answer = httpx2.get(f"{url}/v1/models", headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"] == {
            "message": "Origin: another page's requests are refused; open this server's own",
            "type": "permission_error", "param": None, "code": "origin",
        }  # fmt: skip


def test_a_name_that_was_made_to_point_here_is_refused(url):
    answer = httpx2.get(f"{url}/v1/models", headers={"host": "evil.example"})
    assert answer.status_code == 403 and "--allow-host" in answer.json()["error"]["message"]


def test_the_key(tiny, served):
    with served(tiny, Settings(api_key="right")) as url:
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "right"}):
            answer = httpx2.get(f"{url}/v1/models", headers=given)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert httpx2.get(f"{url}/v1/models", headers={"authorization": "Bearer right"}).status_code == 200
        assert httpx2.get(f"{url}/health").status_code == 200
        assert httpx2.get(f"{url}/openapi.json").status_code == 401


def test_too_large_a_body(tiny, served):
    with served(tiny, Settings(max_body_bytes=1000)) as url:
        answer = httpx2.post(f"{url}/v1/chat/completions", content=b"x" * 1001)
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_large"
        chunked = httpx2.post(f"{url}/v1/chat/completions", content=iter([b"x" * 600, b"x" * 600]))
        assert chunked.status_code == 413
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as cut:  # half a body, then gone
            cut.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{")
        assert httpx2.get(f"{url}/health").status_code == 200
