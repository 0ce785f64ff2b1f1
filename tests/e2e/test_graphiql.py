"""An administrator's browser: logs in at the page, asks with GraphiQL, reads the schema, and never turns to another host."""

from pathlib import Path
from urllib.parse import urlsplit

from .browser import Browser, open_browser
from .conftest import Cluster

RESULT = "document.querySelector('.result-window')?.innerText"
EDITOR = "document.querySelector('.graphiql-query-editor .CodeMirror')?.CodeMirror"
REFUSED_PAGE = "status of 401"


async def log_in(browser: Browser, name: str, password: str) -> None:
    await browser.until("!!document.querySelector('#login button')")
    await browser.js("document.querySelector('#login').reset()")
    await browser.type("input[name=username]", name)
    await browser.type("input[name=password]", password)
    await browser.click("#login button")


async def test_an_administrator_asks_with_graphiql(sandbox_cluster: Cluster, tmp_path: Path) -> None:
    env = sandbox_cluster.env
    endpoint = env["BACKEND_ENDPOINT"]
    async with open_browser(tmp_path / "profile") as browser:
        await browser.go(f"{endpoint}/admin/graphiql")
        await log_in(browser, env["BACKEND_ADMIN_EMAIL"], "wrong")
        await browser.until("document.querySelector('#told').innerText.includes('mismatch')")
        await log_in(browser, env["BACKEND_USER_EMAIL"], env["BACKEND_USER_PASSWORD"])
        await browser.until("document.querySelector('#told')?.innerText.includes('not as an administrator')")
        assert await browser.js("location.pathname") == "/func/admin/graphiql"
        await log_in(browser, env["BACKEND_ADMIN_EMAIL"], env["BACKEND_ADMIN_PASSWORD"])

        await browser.until(f"!!{EDITOR}")
        await browser.js(f"{EDITOR}.setValue('{{ user {{ email role }} agents {{ id status }} }}')")
        await browser.click(".graphiql-execute-button")
        await browser.until(f"{RESULT}?.includes('ALIVE')")
        shown = await browser.js(RESULT)
        assert env["BACKEND_ADMIN_EMAIL"] in shown and "superadmin" in shown
        await browser.click('button[aria-label="Show Documentation Explorer"]')
        await browser.until("document.body.innerText.includes('ComputeSessionList')")
        await browser.click('button[aria-label="Open settings dialog"]')
        await browser.until("!!document.querySelector('.graphiql-dialog')")

        # Its dialogs are styled and its files came: the policy stopped nothing, and only the refused pages were told.
        assert [one for one in browser.complaints if REFUSED_PAGE not in one] == []
        hosts = {urlsplit(url).netloc for url in browser.asked if not url.startswith("data:")}
        assert hosts == {urlsplit(endpoint).netloc}
        assert await browser.js("document.cookie") == "", "no script reads the session"

        await browser.go(f"{endpoint}/func/admin/graphiql")
        await browser.until("!!document.querySelector('.leave')")
        await browser.click(".leave")
        await browser.until("!!document.querySelector('#login')")


async def test_a_page_of_another_site_cannot_ask(sandbox_cluster: Cluster, tmp_path: Path) -> None:
    """The cookie is there, but neither a page nor a form of another site gets anything done by it."""
    env = sandbox_cluster.env
    endpoint = env["BACKEND_ENDPOINT"]
    async with open_browser(tmp_path / "profile") as browser:
        await browser.go(f"{endpoint}/admin/graphiql")
        await log_in(browser, env["BACKEND_ADMIN_EMAIL"], env["BACKEND_ADMIN_PASSWORD"])
        await browser.until(f"!!{EDITOR}")
        # The same server by another name is another site to a browser, and its page at / allows scripts of the debugger only.
        await browser.go(f"{endpoint.replace('127.0.0.1', 'localhost')}/health")
        await browser.until("location.hostname === 'localhost' && document.readyState === 'complete'")
        asking = (
            f"fetch('{endpoint}/func/admin/gql', {{method: 'POST', credentials: 'include', mode: 'no-cors', "
            "headers: {'Content-Type': 'text/plain'}, body: JSON.stringify({query: 'mutation { create_domain(name: \"stolen\", "
            "props: {}) { ok } }'})})"
        )
        await browser.js(asking)
        await browser.go(f"{endpoint}/func/admin/graphiql")
        await browser.until(f"!!{EDITOR}")
        listing = (
            "fetch('gql', {method: 'POST', body: JSON.stringify({query: '{ domains { name } }'})})"
            ".then(answer => answer.text())"
        )
        names = await browser.js(listing)
        assert "default" in names and "stolen" not in names
        # It was the asker that was refused: from our own page the very same request is done.
        await browser.js(asking)
        assert "stolen" in await browser.js(listing)
        await browser.js(asking.replace("create_domain", "purge_domain").replace(", props: {}", ""))
        assert "stolen" not in await browser.js(listing)
