"""GraphiQL over HTTP: who gets which page, what the pages may load, and that everything they name is there. The browser itself is in
`tests/e2e/test_graphiql.py`."""

import re
from typing import Any

from ai.backend.gateway.graphiql import route

LOGIN = {"username": "user@example.com", "password": "right"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
BYTES_MAX = 1_500_000


def directives(policy: str) -> dict[str, list[str]]:
    found = (part.split() for part in policy.split(";"))
    return {words[0]: words[1:] for words in found if words}


async def test_a_browser_that_is_not_logged_in_gets_the_page_to_log_in(client: Any) -> None:
    for path in ("/admin/graphiql", "/func/admin/graphiql"):
        answer = await client.call("GET", path, key=None, headers=BROWSER)
        assert answer.status == 401
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert b'id="login"' in answer.body and b"graphiql.min.js" not in answer.body
    program = await client.call("GET", "/admin/graphiql", key=None)
    assert program.json["error_code"].startswith("auth.")


async def test_it_is_for_administrators(client: Any) -> None:
    allowed = await client.call("GET", "/admin/graphiql", key="root", headers=BROWSER)
    assert allowed.status == 200 and b"graphiql.min.js" in allowed.body
    refused = await client.call("GET", "/admin/graphiql", key="user")
    assert (refused.status, refused.json["error_code"]) == (401, "access.not-privileged")
    page = await client.call("GET", "/admin/graphiql", key="user", headers=BROWSER)
    assert page.status == 401 and b'id="login"' in page.body


async def test_nothing_of_another_host_and_nothing_inline_may_run(client: Any) -> None:
    seen = set()
    for key in ("root", None):
        answer = await client.call("GET", "/admin/graphiql", key=key, headers=BROWSER)
        text, policy = answer.body.decode(), directives(answer.headers["Content-Security-Policy"])
        nonce = re.search(r'nonce="([^"]+)"', text)
        assert policy["default-src"] == ["'none'"]
        assert policy["script-src"] == policy["connect-src"] == ["'self'"]
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
        assert "unsafe" not in str(policy) and "//" not in str(policy)
        assert not re.search(r"<style|<script>|\son\w+=|\sstyle=|https?:", text)
        if nonce is not None:
            assert policy["style-src"] == ["'self'", f"'nonce-{nonce[1]}'"]
            seen.add(nonce[1])
    again = await client.call("GET", "/admin/graphiql", key="root", headers=BROWSER)
    assert seen and not any(one in again.body.decode() for one in seen), "a nonce is used once"


async def test_everything_that_the_pages_name_is_served(client: Any) -> None:
    named: set[str] = set()
    for key in ("root", None):
        page: Any = await client.call("GET", "/admin/graphiql", key=key, headers=BROWSER)
        named |= set(re.findall(r'(?:src|href)="graphiql/([^"]+)"', page.body.decode()))
    assert named == set(route.FILES)
    total = 0
    for name in named:
        answer = await client.call("GET", f"/func/admin/graphiql/{name}", key=None)
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        assert (answer.status, answer.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        total += len(answer.body)
    assert total < BYTES_MAX


async def test_other_files_are_not_there(client: Any) -> None:
    for name in ("route.py", "page.html", "LICENSE.react.txt", "..%2Froute.py", "%2e%2e%2fapp.py"):
        answer = await client.call("GET", f"/admin/graphiql/{name}", key=None)
        assert answer.status == 404, name
