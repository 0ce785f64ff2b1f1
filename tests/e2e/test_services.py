"""A service of a real session through an app proxy: a coordinator and a worker that know nothing but the published protocol."""

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator

import pytest

from ai.backend.client.client import AsyncClient
from ai.backend.client.config import ClientConfig
from ai.backend.testkit.app_proxy import SECRET, AppProxy, app_proxy

from .conftest import Cluster

SIZE = 20 << 20
PORT = 8000
SERVER = f"""
import hashlib, http.server, os, threading
open("big.bin", "wb").write(os.urandom({SIZE}))
class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", {PORT}), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(hashlib.sha256(open("big.bin", "rb").read()).hexdigest())
"""
WAIT_S = 60
SET_PROXY = """
mutation($addr: String, $token: String) {
  modify_scaling_group(name: "default", props: {wsproxy_addr: $addr, wsproxy_api_token: $token}) { ok msg }
}
"""


async def set_proxy(cluster: Cluster, addr: str | None, token: str | None) -> None:
    async with AsyncClient(ClientConfig.from_environ(cluster.env)) as root:
        told = await root.graphql(SET_PROXY, {"addr": addr, "token": token})
        assert told["modify_scaling_group"]["ok"], told


@pytest.fixture
async def proxy(cluster: Cluster) -> AsyncIterator[AppProxy]:
    async with app_proxy() as found:
        await set_proxy(cluster, found.url, SECRET)
        yield found
        await set_proxy(cluster, None, None)


async def fetch(proxy: AppProxy, token: str, path: str) -> bytes:
    reader, writer = await proxy.dial(token)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    async with asyncio.timeout(WAIT_S):
        whole = await reader.read()
    writer.close()
    return whole.partition(b"\r\n\r\n")[2]


async def test_a_worker_reaches_the_service_until_the_session_ends(cluster: Cluster, proxy: AppProxy) -> None:
    config = ClientConfig.from_environ({**cluster.env, **cluster.as_user()})
    async with AsyncClient(config) as api:
        session = await api.sessions.create(
            image="python",
            name=f"service-{uuid.uuid4().hex[:8]}",
            resources={"cpu": 1, "mem": "256m"},
            preopen_ports=[PORT],
        )
        try:
            opened = await session.start_service(str(PORT))
            with contextlib.suppress(ConnectionResetError):
                assert await fetch(proxy, opened.token, "/") == b"", "nothing listens there yet"
            done = await session.run(SERVER)
            assert not done.stderr, done.stderr
            found = await asyncio.gather(*(fetch(proxy, opened.token, "/big.bin") for _ in range(3)))
            assert {hashlib.sha256(one).hexdigest() for one in found} == {done.stdout.strip()}
            assert [len(one) for one in found] == [SIZE] * 3
        finally:
            await session.destroy()
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    _, writer = await proxy.dial(opened.token)
                except ConnectionRefusedError:
                    break
                writer.close()
                await asyncio.sleep(0.05)
