"""A small server that speaks the API: it verifies every signature, keeps files in memory, and runs a toy language.

The toy language, one statement a line: `out TEXT`, `err TEXT`, `ask`, `askpass`, `media`, `loop` (until interrupted), `die` (the session is
killed for its memory), `exit N`.
"""

import asyncio
import base64
import hmac
import io
import json
import tarfile
import threading
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from aiohttp import WSMsgType, web

from ai.backend.common.wire.signature import sign, string_to_sign

ACCESS_KEY, SECRET_KEY = "AKIATESTTESTTESTTEST", "secret-of-the-tests"
PNG = b"\x89PNG not really"


def problem(status: int, slug: str, title: str, **more: Any) -> web.Response:
    body = {"type": f"https://api.backend.ai/probs/{slug}", "title": title, **more}
    return web.Response(
        status=status, body=json.dumps(body).encode(), content_type="application/problem+json"
    )


NOT_FOUND: dict[str, Any] = {
    "title": "No such session.",
    "error_code": "session.not-found",
    "fault": "user",
    "msg": "no session 'gone'",
    "hint": "List yours with 'backend.ai ps'.",
}


class Session:
    def __init__(self, name: str, image: str) -> None:
        self.id = str(uuid.uuid4())
        self.name = name
        self.image = image
        self.status = "RUNNING"
        self.reason = self.message = ""
        self.files: dict[str, bytes] = {}
        self.log = ""
        self.interrupted = asyncio.Event()
        self.run: AsyncIterator[dict[str, Any]] | None = None
        self.answers: asyncio.Queue[str] = asyncio.Queue()

    def item(self) -> dict[str, Any]:
        return {
            "id": self.id, "name": self.name, "status": self.status, "reason": self.reason, "message": self.message,
            "hint": "", "image": self.image, "architecture": "x86_64", "type": "interactive", "domain": "default",
            "project": "p", "user": "u", "accessKey": ACCESS_KEY, "resourceGroup": "default", "agent": "i-local", "tag": None,
            "clusterSize": 1, "requestedSlots": {"cpu": "1", "mem": "268435456"}, "result": "UNDEFINED",
            "createdAt": "2026-01-02T03:04:05+00:00", "terminatedAt": None, "exitCode": None,
        }  # fmt: skip

    def info(self) -> dict[str, Any]:
        text = dict.fromkeys(
            ("groupId", "userId", "registry", "containerId", "occupiedSlots", "occupyingSlots", "requestedSlots",
             "occupiedShares", "environ", "resourceOpts", "statusInfo", "hint"), "",
        )  # fmt: skip
        return {
            **text, "id": self.id, "name": self.name, "domainName": "default", "lang": self.image, "image": self.image,
            "architecture": "x86_64", "tag": None, "status": self.status, "statusData": None, "age": 5,
            "creationTime": "2026-01-02T03:04:05+00:00", "terminationTime": None, "numQueriesExecuted": 0, "lastStat": None,
            "idleChecks": {}, "reason": self.reason, "message": self.message,
        }  # fmt: skip

    async def execute(self, code: str) -> AsyncIterator[dict[str, Any]]:
        """Steps as the wire has them, without run ids."""
        exit_code = 0
        self.interrupted.clear()

        def step(status: str, *console: Any, **more: Any) -> dict[str, Any]:
            return {
                "status": status,
                "console": list(console),
                "exitCode": None,
                "options": None,
                "files": [],
                **more,
            }

        for line in code.splitlines():
            word, _, rest = line.strip().partition(" ")
            if word == "out":
                self.log += rest + "\n"
                yield step("continued", ["stdout", rest + "\n"])
            elif word == "err":
                yield step("continued", ["stderr", rest + "\n"])
            elif word in ("ask", "askpass"):
                yield step("waiting-input", ["stdout", "? "], options={"is_password": word == "askpass"})
                waits = [
                    asyncio.ensure_future(self.answers.get()),
                    asyncio.ensure_future(self.interrupted.wait()),
                ]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if waits[0].done():
                    yield step("continued", ["stdout", f"got {waits[0].result()}\n"])
                for one in waits:
                    one.cancel()
            elif word == "media":
                uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
                yield step("continued", ["media", ["image/png", uri]])
            elif word == "exit":
                exit_code = int(rest)
            elif word == "loop":
                yield step("continued")
                await self.interrupted.wait()
                yield step("continued", ["stderr", "KeyboardInterrupt\n"])
            elif word == "die":
                self.status, self.reason = "TERMINATED", "out-of-memory"
                self.message = "It used more than its 256 MiB of memory."
                yield {**NOT_FOUND, "status": "error", "console": []}
                return
        yield step("finished", exitCode=exit_code)

    async def batch(self, options: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        base = {"console": [], "options": None, "files": [], "exitCode": 0}
        yield {**base, "status": "clean-finished"}
        yield {**base, "status": "build-finished", "console": [["log", f"build {options['build']}\n"]]}
        main = self.files.get("main.toy", b"").decode()
        async for one in self.execute(main):
            yield one


class Server:
    """Runs in a thread of its own; `url` is where. `requests` has (method, path, body) of each request."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.refused: list[str] = []
        self.create_status = ""
        self.events_cut = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def environ(self) -> dict[str, str]:
        return {
            "BACKEND_ENDPOINT": self.url,
            "BACKEND_ACCESS_KEY": ACCESS_KEY,
            "BACKEND_SECRET_KEY": SECRET_KEY,
        }

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._verify], client_max_size=64 << 20)
        add = app.router.add_route
        add("GET", "/", self._version)
        add("GET", "/health", self._health)
        add("GET", "/images", self._images)
        add("GET", "/session", self._list)
        add("POST", "/session", self._create)
        add("GET", "/events/session", self._events)
        add("GET", "/stream/session/{n}/execute", self._stream)
        add("GET", "/stream/session/{n}/apps", self._apps)
        add("GET", "/stream/session/{n}/tcpproxy", self._tcpproxy)
        add("*", "/session/{n}", self._one)
        add("*", "/session/{n}/{verb}", self._verb)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url = f"http://127.0.0.1:{port}"

    @web.middleware
    async def _verify(self, request: web.Request, handler: Any) -> web.StreamResponse:
        is_json = request.content_type == "application/json"
        self.requests.append((request.method, request.raw_path, await request.json() if is_json else None))
        if request.path not in ("/",) and not self._signed(request):
            self.refused.append(request.raw_path)
            return problem(401, "auth-failed", "Credential/signature mismatch.", msg="Signature mismatch")
        answer: web.StreamResponse = await handler(request)
        return answer

    def _signed(self, request: web.Request) -> bool:
        headers = request.headers
        text = string_to_sign(
            method=request.method,
            target=request.raw_path,
            date=headers["Date"],
            host=headers["Host"],
            content_type=headers.get("Content-Type", ""),
            version=headers["X-BackendAI-Version"],
        )
        wanted = sign(SECRET_KEY, datetime.fromisoformat(headers["Date"]), headers["Host"], text)
        given = headers.get("Authorization", "").rpartition(f"credential={ACCESS_KEY}:")[2]
        return hmac.compare_digest(wanted, given)

    async def _apps(self, request: web.Request) -> web.Response:
        if request.match_info["n"] == "gone":
            return problem(404, "object-not-found", **NOT_FOUND)
        return web.json_response(
            [{"name": name, "protocol": "preopen", "ports": [int(name)]} for name in ("8000", "8001")]
        )

    async def _tcpproxy(self, request: web.Request) -> web.StreamResponse:
        """8000 repeats what it hears until `bye`; nothing listens on 8001."""
        app = request.query["app"]
        if request.match_info["n"] == "gone" or app not in ("8000", "8001"):
            return problem(404, "object-not-found", "No such app service.")
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        if app == "8001":
            await ws.close(code=1013, message=b"nothing listens on port 8001")
            return ws
        async for message in ws:
            if message.type is not WSMsgType.BINARY or message.data == b"bye":
                break
            if message.data == b"break":
                assert request.transport is not None
                request.transport.abort()
                break
            await ws.send_bytes(message.data)
        await ws.close(code=1001)
        return ws

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "v8.20240915", "manager": "25.5.2"})

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "agents": 1})

    async def _images(self, _: web.Request) -> web.Response:
        image = {
            "name": "local/python:3.11",
            "architecture": "x86_64",
            "digest": "sha256:0",
            "sizeBytes": 5 << 20,
            "labels": {},
        }
        return web.json_response({"items": [image], "total_count": 1})

    async def _list(self, request: web.Request) -> web.Response:
        statuses = request.query.get("status", "").split(",")
        items = [s.item() for s in self.sessions.values() if statuses == [""] or s.status in statuses]
        return web.json_response({"items": items, "total_count": len(items)})

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["image"] == "cobol":
            return problem(
                404, "object-not-found", "No such environment image.", error_code="image.not-found", fault="user",
                msg="no image 'cobol' for x86_64", hint="Known images: python.",
            )  # fmt: skip
        found = self._find(body["name"])
        session = found or Session(body["name"], body["image"])
        self.sessions[session.id] = session
        status = self.create_status or ("PENDING" if body["enqueueOnly"] else session.status)
        answer = {
            "sessionId": session.id, "sessionName": session.name, "status": status, "created": found is None, "servicePorts": [],
        }  # fmt: skip
        return web.json_response(answer, status=201)

    def _find(self, ref: str) -> Session | None:
        live = [s for s in self.sessions.values() if s.status != "TERMINATED" and ref in (s.id, s.name)]
        return live[0] if live else None

    async def _one(self, request: web.Request) -> web.StreamResponse:
        session = self._find(request.match_info["n"])
        if session is None:
            return problem(404, "object-not-found", **NOT_FOUND)
        if request.method == "GET":
            return web.json_response(session.info())
        if request.method == "PATCH":
            return web.Response(status=204)
        if request.method == "DELETE":
            session.status = "TERMINATED"
            return web.json_response({"stats": {"status": "terminated"}})
        return web.json_response({"result": await self._step(session, await request.json())})

    async def _step(self, session: Session, body: dict[str, Any]) -> dict[str, Any]:
        if body["mode"] == "query":
            session.run = session.execute(body["code"])
        elif body["mode"] == "batch":
            session.run = session.batch(body["options"])
        elif body["mode"] == "input":
            session.answers.put_nowait(body["code"])
        assert session.run is not None
        return {**await anext(session.run), "runId": body["runId"] or "run1"}

    async def _verb(self, request: web.Request) -> web.StreamResponse:
        session = self._find(request.match_info["n"])
        verb = request.match_info["verb"]
        if session is None:
            return problem(404, "object-not-found", **NOT_FOUND)
        if verb == "interrupt":
            session.interrupted.set()
        elif verb == "rename":
            session.name = request.query["name"]
        elif verb == "logs":
            return web.json_response({"result": {"logs": session.log}})
        elif verb == "complete":
            body = await request.json()
            return web.json_response(
                {"result": {"status": "finished", "completions": [body["code"] + "_done"]}}
            )
        elif verb == "upload":
            async for part in await request.multipart():
                assert part.name == "src" and part.filename
                session.files[part.filename] = bytes(await part.read())
        elif verb == "download":
            return self._download(session, (await request.json())["files"])
        elif verb == "download_single":
            return web.Response(body=session.files[request.query["file"]])
        elif verb == "files":
            entry = {"mode": "-rw-r--r--", "size": 1, "ctime": 0.0, "mtime": 0.0, "atime": 0.0}
            listed = [{**entry, "filename": name} for name in session.files]
            return web.json_response({"files": json.dumps(listed), "errors": "", "abspath": "/home/work"})
        return web.Response(status=204)

    def _download(self, session: Session, paths: list[str]) -> web.Response:
        body = b""
        for path in paths:
            if path not in session.files:
                return problem(400, "generic-bad-request", "Bad request.", msg="The file is not found.")
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as tar:
                info = tarfile.TarInfo(path)
                info.size = len(session.files[path])
                tar.addfile(info, io.BytesIO(session.files[path]))
            body += b"--B0\r\nContent-Type: application/octet-stream\r\n\r\n" + packed.getvalue() + b"\r\n"
        return web.Response(
            body=body + b"--B0--\r\n", headers={"Content-Type": 'multipart/mixed; boundary="B0"'}
        )

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        names = ["session_enqueued", "session_started", "session_terminated"]
        after = int(request.headers.get("Last-Event-ID") or 0)
        for number, name in enumerate(names, 1):
            if number <= after:
                continue
            data = json.dumps({"sessionName": "s", "reason": f"r{number}"})
            await response.write(
                f": ping\r\n\r\nid: {number}\r\nevent: {name}\r\nretry: 0.1\r\ndata: {data}\r\n\r\n".encode()
            )
            if self.events_cut == number:
                self.events_cut = 0
                return response
        await response.write(b"event: server_close\ndata: {}\n\n")
        return response

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        session = self._find(request.match_info["n"])
        if session is None:
            return problem(404, "object-not-found", **NOT_FOUND)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        while True:
            message = await socket.receive()
            if message.type is not WSMsgType.TEXT:
                return socket
            asked = json.loads(message.data)
            run = (
                session.batch(asked["options"])
                if asked["mode"] == "batch"
                else session.execute(asked["code"])
            )
            await self._talk(socket, session, run)
            if request.query.get("keep") != "1":
                await socket.close()
                return socket

    async def _talk(
        self, socket: web.WebSocketResponse, session: Session, run: AsyncIterator[dict[str, Any]]
    ) -> None:
        async def listen() -> None:
            message = await socket.receive()
            if message.type is WSMsgType.TEXT:
                session.answers.put_nowait(message.data)
            else:
                session.interrupted.set()

        async for step in run:
            await socket.send_str(json.dumps(step))
            if step["status"] == "waiting-input":
                listener = asyncio.ensure_future(listen())
                await asyncio.wait(
                    [listener, asyncio.ensure_future(session.interrupted.wait())],
                    return_when=asyncio.FIRST_COMPLETED,
                )
