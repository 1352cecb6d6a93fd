"""The page: its files come from the package alone, and its parts can be named by a screen reader."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import httpx2
import pytest

from salad.serve.page import STATIC
from salad.serve.settings import Settings


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_it_comes_with_the_server_and_asks_nobody_else(tiny, served):
    with served(tiny, Settings(api_key="k")) as url:  # it is what asks for the key
        page = httpx2.get(url)
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        wanted = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(wanted) == 2 and all(httpx2.get(url + place).status_code == 200 for place in wanted)
        assert httpx2.get(f"{url}/static/page.py").status_code == 404
        assert httpx2.get(f"{url}/static/..%2fpage.py").status_code == 404
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?:|//[a-z0-9-]+\.[a-z]|innerHTML|eval\(", text), path


def test_every_field_has_a_name_and_every_id_is_there():
    tags = Tags((STATIC / "index.html").read_text(encoding="utf-8")).found
    ids = {a["id"] for _, a in tags if "id" in a}
    labelled = {a["for"] for tag, a in tags if tag == "label" and "for" in a} | {"file"}  # inside its label
    assert {a["id"] for tag, a in tags if tag in ("input", "textarea")} == labelled
    assert {a["aria-labelledby"] for tag, a in tags if "aria-labelledby" in a} <= ids
    assert any(a.get("aria-live") == "polite" for _, a in tags) and any(a.get("role") == "status" for _, a in tags)
    script = (STATIC / "page.js").read_text(encoding="utf-8")
    used = set(re.findall(r'at\("([a-z-]+)"\)', script))
    assert used <= ids and len(used) > 12


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/salad/compare"])
def test_the_routes_that_it_asks_are_there(url, route):
    assert route in (STATIC / "page.js").read_text(encoding="utf-8")
    assert route in httpx2.get(f"{url}/openapi.json").json()["paths"]
