"""The published JavaScript client: it signs with `X-BackendAI-Date`, queries `/admin/graphql`, and begins with paths below `/kernel`."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import installs
from .client import Client
from .cluster import Account, Cluster
from .sessions import new_name

RUNNER = Path(__file__).parent / "node/client.js"
RESOURCES = {"cpu": 1, "mem": "256m"}


class JsClient:
    """Runs snippets with `client` in scope; a snippet returns its answer."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __call__(self, script: str, **values: Any) -> Any:
        done = self.client.cli(script, json.dumps(values)).ok()
        return json.loads(done.stdout.strip().rsplit("\n", 1)[-1])


def js_client(cluster: Cluster, account: Account, folder: Path, home: Path) -> JsClient:
    env = {**cluster.env(account), "JS_CLIENT": str(folder), "NODE_NO_WARNINGS": "1"}
    return JsClient(Client(installs.JS_VERSION, ["node", str(RUNNER)], home, env))


@pytest.fixture(scope="session")
def js(cluster: Cluster, js_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> JsClient:
    """The JavaScript client, as a plain user."""
    return js_client(cluster, cluster.user, js_folder, tmp_path_factory.mktemp("js"))


@pytest.fixture(scope="session")
def js_admin(cluster: Cluster, js_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> JsClient:
    return js_client(cluster, cluster.admin, js_folder, tmp_path_factory.mktemp("js-admin"))


CREATE = """
await client.get_manager_version();
const made = await client.createIfNotExists('python', name, {...resources, enqueueOnly: true}, 30000);
const info = await ready(name);
return {made, info};
"""


@pytest.fixture(scope="module")
def session(js: JsClient) -> Iterator[str]:
    name = new_name("live-js")
    js(CREATE, name=name, resources=RESOURCES)
    yield name
    js("await client.get_manager_version(); return client.destroy(name)", name=name)


def console(done: Any, kind: str = "stdout") -> str:
    return "".join(text for name, text in done["console"] if name == kind)


def test_versions(js: JsClient) -> None:
    told = js("return [await client.get_manager_version(), client._apiVersion, client.kernelPrefix]")
    assert told == ["25.5.2", "v8.20240915", "/session"]


def test_features(js: JsClient) -> None:
    script = "await client.get_manager_version(); return ['multi-container', 'storage-proxy', 'group'].map(f => client.supports(f))"
    assert js(script) == [True, True, True]


def test_create(js: JsClient) -> None:
    name = new_name("js")
    told = js(CREATE, name=name, resources=RESOURCES)
    try:
        assert uuid.UUID(told["made"]["sessionId"]) and told["made"]["sessionName"] == name
        assert told["made"]["status"] in ("PENDING", "RUNNING", "PREPARING", "SCHEDULED")
        assert told["info"]["status"] == "RUNNING" and "python" in told["info"]["image"]
    finally:
        js("await client.get_manager_version(); return client.destroy(name)", name=name)


def test_the_old_paths_serve_too(js: JsClient) -> None:
    """Before it asked for the version, the client speaks of kernels and signs as v4.20190615."""
    name = new_name("js-old")
    script = """
    const made = await client.createIfNotExists('python', name, resources, 30000);
    const done = await execute(name, 'print(6 * 7)');
    const gone = await client.destroy(name);
    return {made, done, gone};
    """
    told = js(script, name=name, resources=RESOURCES)
    assert told["made"]["kernelId"] == name and console(told["done"]) == "42\n"
    assert "stats" in told["gone"]


def test_execute(js: JsClient, session: str) -> None:
    done = js(
        "await client.get_manager_version(); return execute(name, code)", name=session, code="print(6 * 7)"
    )
    assert console(done) == "42\n" and done["exitCode"] == 0


def test_execute_long(js: JsClient, session: str) -> None:
    code = "import time\nfor i in range(3): print(i); time.sleep(1.2)"
    done = js("await client.get_manager_version(); return execute(name, code)", name=session, code=code)
    assert console(done).split() == ["0", "1", "2"]


def test_execute_with_input(js: JsClient, session: str) -> None:
    script = "await client.get_manager_version(); return execute(name, code, ['tea'])"
    assert "got tea" in console(js(script, name=session, code="print('got', input('? '))"))


def test_execute_an_exception(js: JsClient, session: str) -> None:
    done = js("await client.get_manager_version(); return execute(name, '1/0')", name=session)
    assert "ZeroDivisionError" in console(done, "stderr")


def test_info(js: JsClient, session: str, cluster: Cluster) -> None:
    info = js("await client.get_manager_version(); return client.get_info(name)", name=session)
    assert info["status"] == "RUNNING" and isinstance(info["age"], int) and "creationTime" in info


def test_logs(js: JsClient, session: str) -> None:
    told = js("await client.get_manager_version(); return client.get_logs(name)", name=session)
    assert isinstance(told["result"]["logs"], str)


def test_upload_and_download(js: JsClient, session: str) -> None:
    script = """
    await client.get_manager_version();
    await client.upload(name, 'js.txt', new Blob(['from javascript']));
    const blob = await client.download_single(name, 'js.txt');
    return blob.text();
    """
    assert js(script, name=session) == "from javascript"


def test_download_many(js: JsClient, session: str) -> None:
    script = """
    await client.get_manager_version();
    await client.upload(name, 'a.txt', new Blob(['aaa']));
    await client.upload(name, 'b.txt', new Blob(['bbb']));
    const blob = await client.download(name, ['a.txt', 'b.txt']);
    return blob.text();
    """
    told = js(script, name=session)
    assert "aaa" in told and "bbb" in told


def test_restart(js: JsClient) -> None:
    name = new_name("js-again")
    script = (
        CREATE.replace("return {made, info};", "")
        + """
    await execute(name, 'x = 1');
    await client.restart(name);
    await ready(name);
    const done = await execute(name, "print('x' in globals())");
    await client.destroy(name);
    return done;
    """
    )
    assert console(js(script, name=name, resources=RESOURCES)) == "False\n"


def test_reuse(js: JsClient, session: str) -> None:
    script = """
    await client.get_manager_version();
    return client.createIfNotExists('python', name, {...resources, reuseIfExists: true}, 30000);
    """
    told = js(script, name=session, resources=RESOURCES)
    assert told["created"] is False and told["sessionName"] == session and told["status"] == "RUNNING"


def test_a_session_that_is_not_there(js: JsClient) -> None:
    told = js("await client.get_manager_version(); return refused(() => client.get_info('nobody-here'))")
    assert told["statusCode"] == 404 and "No such session." in told["title"]


def test_resource_slots(js: JsClient) -> None:
    told = js("await client.get_manager_version(); return client.get_resource_slots()")
    assert told["cpu"] == "count" and told["mem"] == "bytes"


def test_session_list(js: JsClient, session: str) -> None:
    script = (
        "await client.get_manager_version(); return client.computeSession.list(fields, 'RUNNING', '', 30, 0)"
    )
    told = js(script, fields=["id", "name", "image", "status", "created_at", "occupied_slots"])
    assert session in [item["name"] for item in told["compute_session_list"]["items"]]


def test_session_list_default_fields(js: JsClient, session: str) -> None:
    told = js(
        "await client.get_manager_version(); return client.computeSession.list(undefined, 'RUNNING', '')"
    )
    (item,) = [item for item in told["compute_session_list"]["items"] if item["name"] == session]
    assert len(item["containers"]) == 1 and "live_stat" in item["containers"][0]


def test_session_count(js: JsClient, session: str) -> None:
    told = js("await client.get_manager_version(); return client.computeSession.total_count('RUNNING', '')")
    assert told["compute_session_list"]["total_count"] >= 1


def test_keypair(js: JsClient, cluster: Cluster) -> None:
    told = js(
        "await client.get_manager_version(); return client.keypair.info(key)", key=cluster.user.access_key
    )
    assert told["keypair"]["user_id"] == cluster.user.email and told["keypair"]["is_active"] is True


def test_keypair_list(js_admin: JsClient, js: JsClient, cluster: Cluster) -> None:
    script = "await client.get_manager_version(); return client.keypair.list(email)"
    told = js_admin(script, email=cluster.user.email)
    assert cluster.user.access_key in [key["access_key"] for key in told["keypairs"]]


def test_resource_policy(js: JsClient) -> None:
    told = js("await client.get_manager_version(); return client.resourcePolicy.get('default')")
    policy = told["keypair_resource_policy"]
    assert policy["name"] == "default" and "max_concurrent_sessions" in policy


def test_images(js: JsClient) -> None:
    told = js("await client.get_manager_version(); return client.image.list()")
    image = next(image for image in told["images"] if "python" in image["name"])
    assert image["resource_limits"] and {"key", "min", "max"} <= image["resource_limits"][0].keys()


def test_groups(js: JsClient) -> None:
    told = js("await client.get_manager_version(); return client.group.list()")
    assert "default" in [group["name"] for group in told["groups"]]


def test_domain(js: JsClient) -> None:
    told = js("await client.get_manager_version(); return client.domain.get('default')")
    assert told["domain"]["name"] == "default" and "total_resource_slots" in told["domain"]


def test_user(js: JsClient, cluster: Cluster) -> None:
    """The client's own list of fields names a password: it must be there, and empty."""
    told = js("await client.get_manager_version(); return client.user.get(email)", email=cluster.user.email)
    assert told["user"]["email"] == cluster.user.email and not told["user"].get("password")


def test_scaling_groups(js: JsClient) -> None:
    told = js("await client.get_manager_version(); return client.scalingGroup.list('default')")
    assert {"name": "default"} in told["scaling_groups"]


def test_agents(js_admin: JsClient, js: JsClient) -> None:
    told = js_admin("await client.get_manager_version(); return client.agent.list('ALIVE')")
    assert told["agents"] and told["agents"][0]["status"] == "ALIVE"


def test_presets(js: JsClient) -> None:
    told = js("await client.get_manager_version(); return client.resourcePreset.check({group: 'default'})")
    assert {"presets", "keypair_remaining", "scaling_groups"} <= told.keys()


def test_ssh_keypair(js: JsClient) -> None:
    told = js("await client.get_manager_version(); return client.refreshSSHKeypair()")
    assert told["ssh_public_key"] and told["ssh_private_key"]
    assert (
        js("await client.get_manager_version(); return client.fetchSSHKeypair()")["ssh_public_key"]
        == told["ssh_public_key"]
    )


def test_dotfiles(js: JsClient) -> None:
    script = """
    await client.get_manager_version();
    await client.userConfig.create('data', path);
    const listed = await client.userConfig.get();
    await client.userConfig.update('more', path);
    const gone = await client.userConfig.delete(path);
    return {listed, gone};
    """
    told = js(script, path=f".{new_name('js')}")
    assert [file["data"] for file in told["listed"]] == ["data"] and told["gone"] == {"success": True}


def test_announcement(js: JsClient) -> None:
    told = js("await client.get_manager_version(); return client.service.get_announcement()")
    assert told["enabled"] is False


def test_a_wrong_key(js: JsClient) -> None:
    script = "await client.get_manager_version(); client._config._secretKey = 'x'.repeat(40); return refused(() => client.get_info('abcd'))"
    told = js(script)
    assert told["statusCode"] == 401 and "Signature mismatch" in told["description"]


def test_folder_hosts(js: JsClient) -> None:
    told = js("await client.get_manager_version(); return client.vfolder.list_hosts()")
    assert {"default", "allowed"} <= told.keys()


def test_folder_types(js: JsClient) -> None:
    assert js("await client.get_manager_version(); return client.vfolder.list_allowed_types()") == [
        "user",
        "group",
    ]
