"""A real browser without a window, driven over its debugging protocol (https://chromedevtools.github.io/devtools-protocol/): just what
tests of our pages need. It remembers every address that a page asked for and everything it complained of.
"""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

PROGRAM = "chromium"
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0", "--window-size=1400,900",
)  # fmt: skip
PATIENCE_S = 60.0
"""Only ends a broken test."""


class PageError(Exception):
    pass


class Browser:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session = ""
        self.asked: list[str] = []
        """Addresses of all requests, in order."""
        self.complaints: list[str] = []
        """Errors of scripts, refusals by the content security policy, and failed requests."""

    async def read(self) -> None:
        async for frame in self._socket:
            message = json.loads(frame.data)
            number, told = message.get("id"), message.get("params", {})
            if number is not None:
                self._waiting.pop(number).set_result(message)
            elif message["method"] == "Network.requestWillBeSent":
                self.asked.append(told["request"]["url"])
            elif message["method"] == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
            elif message["method"] == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["exceptionDetails"])[:500])

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        session = {"sessionId": self._session} if self._session else {}
        await self._socket.send_str(json.dumps({"id": number, "method": method, "params": params, **session}))
        answer = await asyncio.wait_for(self._waiting[number], PATIENCE_S)
        if "error" in answer:
            raise PageError(answer["error"]["message"])
        result: dict[str, Any] = answer["result"]
        return result

    async def attach(self) -> None:
        target = await self.command("Target.createTarget", url="about:blank")
        found = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.command(f"{domain}.enable")

    async def go(self, url: str) -> None:
        await self.command("Page.navigate", url=url)

    async def js(self, expression: str) -> Any:
        """The value of an expression in the page. Raises PageError."""
        done = await self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in done:
            raise PageError(json.dumps(done["exceptionDetails"])[:500])
        return done["result"].get("value")

    async def until(self, expression: str) -> Any:
        """The value, once it is true; the page may be loading meanwhile."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            value: Any = None
            with contextlib.suppress(PageError):
                value = await self.js(expression)
            if value:
                return value
            text = f"{expression} never came; the page complained of {self.complaints}"
            assert asyncio.get_running_loop().time() < deadline, text
            await asyncio.sleep(0.05)

    async def type(self, selector: str, text: str) -> None:
        await self.js(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.command("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        await self.js(f"document.querySelector({json.dumps(selector)}).click()")

    async def text(self) -> str:
        found: str = await self.js("document.body.innerText")
        return found

    async def picture(self, path: Path) -> None:
        import base64

        path.write_bytes(base64.b64decode((await self.command("Page.captureScreenshot"))["data"]))


@contextlib.asynccontextmanager
async def open_browser(folder: Path) -> AsyncIterator[Browser]:
    """`folder` is a new one, for its profile."""
    program = shutil.which(PROGRAM)
    if program is None:
        # In CI a missing program is a failure, elsewhere a skip that says so.
        told = f"{PROGRAM} is not installed: tools/system_packages"
        pytest.fail(told) if os.environ.get("CI") == "true" else pytest.skip(told)
    running = await asyncio.create_subprocess_exec(
        program, *OPTIONS, f"--user-data-dir={folder}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(await _address(folder), max_msg_size=1 << 26) as socket,
        ):
            browser = Browser(socket)
            reading = asyncio.create_task(browser.read())
            try:
                await browser.attach()
                yield browser
            finally:
                reading.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        await running.wait()


async def _address(folder: Path) -> str:
    """Where it listens: it says so in a file of its profile."""
    told, deadline = folder / "DevToolsActivePort", asyncio.get_running_loop().time() + PATIENCE_S
    while not told.exists() or len(told.read_text().split()) < 2:
        assert asyncio.get_running_loop().time() < deadline, "the browser does not start"
        await asyncio.sleep(0.05)
    port, path = told.read_text().split()
    return f"ws://127.0.0.1:{port}{path}"
