"""What users keep on the server: dotfiles, session templates, an SSH keypair, a bootstrap script, a password; and their limits."""

import json
import re
import uuid
from collections.abc import Iterator

import pytest

from .client import Client
from .cluster import Cluster
from .sessions import SMALL, new_name

REQUEST = """
import asyncio
from ai.backend.client.session import AsyncSession
from ai.backend.client.request import Request
from ai.backend.client.exceptions import BackendAPIError
async def main():
    async with AsyncSession():
        rqst = Request(method, path)
        if body is not None:
            rqst.set_json(body)
        try:
            async with rqst.fetch(anonymous=anonymous) as resp:
                text = await resp.text()
                give([resp.status, json.loads(text) if text else None])
        except BackendAPIError as e:
            give([e.status, e.data])
asyncio.run(main())
"""

TEMPLATE = """
[{"name": "%(name)s", "template": {
  "api_version": "6", "kind": "task_template", "metadata": {"name": "%(name)s", "tag": "t"},
  "spec": {"session_type": "interactive",
           "kernel": {"image": "python", "environ": {"FLAVOUR": "%(flavour)s"}, "run": null},
           "scaling_group": "default", "mounts": {}, "resources": {"cpu": "1", "mem": "256m"}}}}]
"""


def request(
    client: Client, method: str, path: str, body: object = None, anonymous: bool = False
) -> tuple[int, object]:
    """One signed call that has no command: what came back, whatever the status."""
    status, answer = client.sdk(REQUEST, method=method, path=path, body=body, anonymous=anonymous)
    return status, answer


# --- dotfiles ---


@pytest.fixture
def dotfile(user: Client) -> Iterator[str]:
    path = f".{new_name('rc')}"
    assert (
        "created and ready" in user.cli("dotfile", "create", path, "--perm", "640", input="alpha").ok().text
    )
    yield path
    user.cli("dotfile", "delete", "-f", path)


def test_dotfile_get(user: Client, dotfile: str) -> None:
    assert user.cli("dotfile", "get", dotfile).ok().stdout.strip() == "alpha"


def test_dotfile_list(user: Client, dotfile: str) -> None:
    told = user.cli("dotfile", "list").ok().stdout
    assert re.search(rf"^{re.escape(dotfile)}\s+alpha\s+640$", told, re.MULTILINE), told


def test_dotfile_update(user: Client, dotfile: str) -> None:
    assert "updated" in user.cli("dotfile", "update", dotfile, "--perm", "600", input="beta").ok().text
    assert user.cli("dotfile", "get", dotfile).ok().stdout.strip() == "beta"


def test_dotfile_twice(user: Client, dotfile: str) -> None:
    assert "400" in user.cli("dotfile", "create", dotfile, input="again").failed().text


def test_dotfile_delete_asks(user: Client, dotfile: str) -> None:
    assert "Aborting." in user.cli("dotfile", "delete", dotfile, input="n\n").ok().text
    assert "deleted" in user.cli("dotfile", "delete", dotfile, input="y\n").ok().text
    assert "404" in user.cli("dotfile", "get", dotfile).failed().text


def test_dotfile_is_in_sessions(user: Client, dotfile: str) -> None:
    code = f"import os; p = {dotfile!r}; print(open(p).read().strip(), oct(os.stat(p).st_mode & 0o777))"
    assert user.cli("run", "--rm", *SMALL, "-c", code, "python").ok().stdout == "alpha 0o640\n"


@pytest.mark.parametrize("path", [".ssh/authorized_keys", ".config"])
def test_reserved_dotfiles(user: Client, path: str) -> None:
    assert "400" in user.cli("dotfile", "create", path, input="x").failed().text


def test_dotfile_of_a_domain(admin: Client, user: Client) -> None:
    path = f".{new_name('dom')}"
    admin.cli("dotfile", "create", path, "-d", "default", "--perm", "644", input="from the domain").ok()
    assert admin.cli("dotfile", "get", path, "-d", "default").ok().stdout.strip() == "from the domain"
    code = f"print(open({path!r}).read().strip())"
    assert user.cli("run", "--rm", *SMALL, "-c", code, "python").ok().stdout == "from the domain\n"
    admin.cli("dotfile", "delete", "-f", path, "-d", "default").ok()


def test_dotfile_of_a_group(admin: Client) -> None:
    path = f".{new_name('grp')}"
    where = ("-d", "default", "-g", "default")
    admin.cli("dotfile", "create", path, *where, "--perm", "644", input="from the group").ok()
    assert path in admin.cli("dotfile", "list", *where).ok().stdout
    admin.cli("dotfile", "delete", "-f", path, *where).ok()


# --- session templates ---


@pytest.fixture
def template(user: Client) -> Iterator[tuple[str, str]]:
    name = new_name("tpl")
    told = (
        user.cli("session-template", "create", input=TEMPLATE % {"name": name, "flavour": "plum"}).ok().text
    )
    found = re.search(r"Task template ([0-9a-f-]{32,36}) created and ready", told)
    assert found, told
    yield name, found[1]
    user.cli("session-template", "delete", "-f", found[1])


def test_template_list(user: Client, template: tuple[str, str]) -> None:
    name, template_id = template
    told = user.cli("session-template", "list").ok().stdout
    (row,) = [line for line in told.splitlines() if line.startswith(name)]
    assert template_id.replace("-", "") in row.replace("-", "") and "True" in row and "task" in row


def test_template_get(user: Client, template: tuple[str, str]) -> None:
    told = json.loads(user.cli("session-template", "get", "-f", "json", template[1]).ok().stdout)
    assert told["name"] == template[0]
    assert told["template"]["spec"]["kernel"]["environ"] == {"FLAVOUR": "plum"}


def test_template_update(user: Client, template: tuple[str, str]) -> None:
    name, template_id = template
    put = user.cli(
        "session-template", "update", template_id, input=TEMPLATE % {"name": name, "flavour": "fig"}
    )
    assert "updated" in put.ok().text
    assert "fig" in user.cli("session-template", "get", "-f", "json", template_id).ok().stdout


def test_template_delete(user: Client, template: tuple[str, str]) -> None:
    assert "deleted" in user.cli("session-template", "delete", "-f", template[1]).ok().text
    assert "404" in user.cli("session-template", "get", template[1]).failed().text


def test_template_of_nobody(user: Client) -> None:
    assert "404" in user.cli("session-template", "get", str(uuid.uuid4())).failed().text


FROM_TEMPLATE = """
from ai.backend.client.session import Session
with Session() as s:
    made = s.ComputeSession.create_from_template(template, name=name)
    give({"id": str(made.id), "status": made.status, "created": made.created})
"""


def test_a_session_from_a_template(user: Client, template: tuple[str, str]) -> None:
    """By the SDK: the command of 25.5.2 passes its own SDK an argument that it refuses."""
    name = new_name("from-tpl")
    try:
        told = user.sdk(FROM_TEMPLATE, template=template[1], name=name)
        assert uuid.UUID(told["id"]) and told["status"] == "RUNNING" and told["created"] is True
        code = "import os; print(os.environ['FLAVOUR'])"
        assert user.cli("run", "-t", name, "-c", code, "python").ok().stdout == "plum\n"
    finally:
        user.cli("session", "destroy", name)


# --- keys, scripts, passwords ---


def test_ssh_keypair(user: Client) -> None:
    status, made = request(user, "PATCH", "/auth/ssh-keypair")
    assert status == 200 and isinstance(made, dict)
    assert made["ssh_public_key"].startswith("ssh-") and "PRIVATE KEY" in made["ssh_private_key"]
    status, told = request(user, "GET", "/auth/ssh-keypair")
    assert status == 200 and told == {"ssh_public_key": made["ssh_public_key"]}
    assert (
        request(
            user,
            "POST",
            "/auth/ssh-keypair",
            {"pubkey": made["ssh_public_key"], "privkey": made["ssh_private_key"]},
        )[0]
        == 200
    )


def test_bootstrap_script(user: Client) -> None:
    script = "echo personal > /home/work/personal.txt\n"
    assert request(user, "POST", "/user-config/bootstrap-script", {"script": script}) == (200, {})
    try:
        assert request(user, "GET", "/user-config/bootstrap-script") == (200, script)
        code = "print(open('/home/work/personal.txt').read().strip())"
        assert user.cli("run", "--rm", *SMALL, "-c", code, "python").ok().stdout == "personal\n"
    finally:
        request(user, "POST", "/user-config/bootstrap-script", {"script": ""})


def test_authorize(user: Client, cluster: Cluster) -> None:
    account = {"type": "keypair", "domain": "default", "username": cluster.user.email}
    status, told = request(
        user, "POST", "/auth/authorize", {**account, "password": cluster.user.password}, True
    )
    assert status == 200 and isinstance(told, dict)
    assert told["data"]["access_key"] == cluster.user.access_key
    assert told["data"]["secret_key"] == cluster.user.secret_key
    assert told["data"]["role"] == "user" and told["data"]["status"] == "active"


def test_authorize_with_a_wrong_password(user: Client, cluster: Cluster) -> None:
    account = {"type": "keypair", "domain": "default", "username": cluster.user.email}
    status, told = request(user, "POST", "/auth/authorize", {**account, "password": "Wrong-1234!"}, True)
    assert status == 401 and isinstance(told, dict)
    assert told["type"] == "https://api.backend.ai/probs/auth-failed" and told["title"]


def test_role(user: Client, admin: Client) -> None:
    status, told = request(user, "GET", "/auth/role")
    assert (status, told) == (200, {"global_role": "user", "domain_role": "user", "group_role": None})
    status, told = request(admin, "GET", "/auth/role")
    assert isinstance(told, dict) and told["global_role"] == "superadmin"


def test_password(user: Client, cluster: Cluster) -> None:
    """Not by the SDK's own function: since 24.x it encrypts the body, which only a web server in front understands."""
    old, new = cluster.user.password, f"New-{uuid.uuid4().hex}!"
    account = {"type": "keypair", "domain": "default", "username": cluster.user.email}

    def update(current: str, wanted: str) -> tuple[int, object]:
        body = {"old_password": current, "new_password": wanted, "new_password2": wanted}
        return request(user, "POST", "/auth/update-password", body)

    assert update(old, new) == (200, {})
    try:
        assert request(user, "POST", "/auth/authorize", {**account, "password": new}, True)[0] == 200
        assert request(user, "POST", "/auth/authorize", {**account, "password": old}, True)[0] == 401
    finally:
        update(new, old)


def test_password_repeated_wrongly(user: Client, cluster: Cluster) -> None:
    body = {
        "old_password": cluster.user.password,
        "new_password": "One-1234!x",
        "new_password2": "Two-1234!x",
    }
    status, told = request(user, "POST", "/auth/update-password", body)
    assert status == 400 and isinstance(told, dict) and told.get("error_msg")


def test_password_by_command_needs_session_mode(user: Client) -> None:
    done = user.cli("update-password", "a", "b", "b")
    assert done.exit != 0 and 'your endpoint type must be "session"' in done.text


def test_signup(user: Client) -> None:
    email = f"{new_name('fresh')}@example.org"
    person = {"domain": "default", "email": email, "password": "Secret-1234!", "username": email[:20]}
    status, keys = request(user, "POST", "/auth/signup", person, True)
    assert status == 201 and isinstance(keys, dict) and {"access_key", "secret_key"} <= keys.keys()
    assert request(user, "POST", "/auth/signup", person, True)[0] == 400, "the address is taken"


def test_full_name(user: Client, cluster: Cluster) -> None:
    body = {"email": cluster.user.email, "full_name": "Compat User"}
    assert request(user, "POST", "/auth/update-full-name", body) == (200, {})
    (item,) = user.items("admin", "user", "info")
    assert item["full_name"] == "Compat User"


# --- limits ---


def test_more_than_there_is_is_told(user: Client) -> None:
    done = user.cli("session", "create", "-r", "cpu=1", "-r", "mem=100000g", "--max-wait", "2", "python")
    assert "still on the job queue" in done.text or done.exit == 1, done


def test_an_unknown_slot_is_told(user: Client) -> None:
    done = user.cli("session", "create", *SMALL, "-r", "no.such.slot=1", "python").failed()
    assert "400" in done.text and "no.such.slot" in done.text


def test_less_than_the_image_needs_is_told(user: Client) -> None:
    done = user.cli("session", "create", "-r", "cpu=1", "-r", "mem=1m", "python").failed()
    assert "400" in done.text


def test_an_unknown_group_is_told(user: Client) -> None:
    done = user.cli("session", "create", *SMALL, "-g", "no-such-group", "python").failed()
    assert re.search(r"40[034]", done.text)


def test_an_unknown_scaling_group_is_told(user: Client) -> None:
    done = user.cli("session", "create", *SMALL, "--sgroup", "no-such-sgroup", "python").failed()
    assert re.search(r"40[034]", done.text)


def test_choosing_an_agent_is_for_superadmins(user: Client) -> None:
    done = user.cli("session", "create", *SMALL, "--assign-agent", "some-agent", "python").failed()
    assert "403" in done.text and "Insufficient privilege" in done.text
