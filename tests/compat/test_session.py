"""The life of a session as each client drives it: created, looked at, changed, used and ended."""

import re
import uuid
from pathlib import Path

import pytest

from .client import Client
from .cluster import Cluster
from .sessions import SMALL, Running, create, execute, new_name, printed, running, state, wait_for

INFO = """
from ai.backend.client.session import Session
with Session() as s:
    give(s.ComputeSession(name).get_info())
"""

INTERRUPT = """
import asyncio, json
from ai.backend.client.session import AsyncSession
async def main():
    seen, status = [], ""
    async with AsyncSession() as s:
        session = s.ComputeSession(name)
        code = "print('on', flush=True)\\nwhile True: pass"
        async with session.stream_execute(code, mode="query") as stream:
            sent = False
            async for message in stream:
                record = json.loads(message.data)
                seen += record["console"]
                if not sent and any("on" in text for _, text in record["console"]):
                    await session.interrupt()
                    sent = True
                if record["status"] == "finished":
                    status = "finished"
                    break
    give({"console": seen, "status": status})
asyncio.run(main())
"""

COMPLETE = """
from ai.backend.client.session import Session
with Session() as s:
    give(s.ComputeSession(name).complete("impo", {"row": 0, "col": 4, "line": "impo", "post": ""}))
"""

PRIORITY = """
import asyncio, uuid
from ai.backend.client.session import AsyncSession
async def main():
    async with AsyncSession() as s:
        give(await s.ComputeSession.from_session_id(uuid.UUID(id)).update(priority=42))
asyncio.run(main())
"""


# --- creating ---


def test_create_and_destroy(user: Client) -> None:
    name = new_name("made")
    told = user.cli("session", "create", *SMALL, "-t", name, "python").ok().text
    assert re.search(r"Session ID \S+ is created and ready", told)
    assert "Done." in user.cli("session", "destroy", name).ok().text


def test_create_again_reuses(user: Client, live: Running) -> None:
    told = user.cli("session", "create", *SMALL, "-t", live.name, "python").ok().text
    assert re.search(r"Session ID \S+ is already running and ready", told)


def test_create_lists_the_app_services(user: Client) -> None:
    name = new_name("ports")
    try:
        told = user.cli("session", "create", *SMALL, "--preopen", "3000,3001", "-t", name, "python").ok().text
        assert "provides the following app services: 3000, 3001\n" in told
    finally:
        user.cli("session", "destroy", name)


def test_creating_through_the_alias_start(user: Client) -> None:
    name = new_name("start")
    try:
        assert "is created and ready" in user.cli("start", *SMALL, "-t", name, "python").ok().text
    finally:
        user.cli("kill", name)


def test_no_reuse_names_the_existing_session(user: Client, live: Running) -> None:
    done = user.cli("session", "create", "--no-reuse", *SMALL, "-t", live.name, "python").failed()
    assert "already exists" in done.text
    assert live.id in done.text


def test_a_tag_is_kept(user: Client) -> None:
    with running(user, "tagged", tag="blue") as session:
        assert state(user, session.id)["tag"] == "blue"


def test_resource_options_are_kept(user: Client) -> None:
    name = new_name("shmem")
    options = ("--resource-opts", "shmem=64m")
    try:
        user.cli("session", "create", "-r", "cpu=1", "-r", "mem=512m", *options, "-t", name, "python").ok()
        session_id = user.sdk(INFO, name=name)
        assert "67108864" in str(session_id["resourceOpts"]) or "64m" in str(session_id["resourceOpts"])
    finally:
        user.cli("session", "destroy", name)


def test_preopened_ports_are_apps(user: Client) -> None:
    name = new_name("preopen")
    try:
        user.cli("session", "create", *SMALL, "--preopen", "3000,3001", "-t", name, "python").ok()
        listed = user.cli("apps", "-l", name).ok().text
        assert "3000" in listed and "3001" in listed
    finally:
        user.cli("session", "destroy", name)


def test_a_superadmin_creates_for_another(admin: Client, user: Client, cluster: Cluster) -> None:
    name = new_name("gift")
    owner = cluster.user.access_key
    try:
        admin.cli("session", "create", *SMALL, "-o", owner, "-t", name, "python").ok()
        assert name in [item["name"] for item in user.items("ps")]
    finally:
        admin.cli("session", "destroy", "-o", owner, name).ok()


def test_waiting_for_a_dependency_times_out(user: Client, live: Running) -> None:
    name = new_name("late")
    try:
        waiting = ("--depends", live.id, "--max-wait", "2")
        told = user.cli("session", "create", *SMALL, *waiting, "-t", name, "python").ok().text
        assert re.search(r"Session ID \S+ is still on the job queue", told)
    finally:
        user.cli("session", "destroy", name)


# --- looking ---


def test_info_shows_the_session(user: Client, live: Running) -> None:
    item = state(user, live.id)
    assert item["name"] == live.name and item["session_id"] == live.id
    assert item["status"] == "RUNNING" and item["terminated_at"] is None
    assert "python" in item["image"]
    assert item["occupying_slots"] == {"cpu": "1", "mem": str(256 << 20)}
    assert item["dependencies"] == []


def test_info_shows_its_container(user: Client, live: Running) -> None:
    (container,) = state(user, live.id)["containers"]
    assert container["session_id"] == live.id
    assert (container["cluster_role"], container["cluster_hostname"]) == ("main", "main1")
    assert container["status"] == "RUNNING" and container["agent"] and container["container_id"]
    assert container["occupied_slots"] == {"cpu": "1", "mem": str(256 << 20)}


def test_info_for_people(user: Client, live: Running) -> None:
    told = user.cli("info", live.id).ok().stdout
    assert re.search(rf"Name\s+{live.name}", told)
    assert re.search(r"Status\s+RUNNING", told)
    assert re.search(r"Occupying Slots\s+cpu:1, mem:256\.0M", told)


def test_info_of_nobody(user: Client) -> None:
    done = user.cli("session", "info", str(uuid.uuid4())).failed()
    assert "There is no such compute session." in done.text


def test_info_of_anothers_session_is_not_there(user: Client, admin: Client) -> None:
    with running(admin, "private") as session:
        done = user.cli("session", "info", session.id).failed()
        assert "no such" in done.text.lower()
        assert session.name in admin.cli("session", "info", session.id).ok().text


def test_the_rest_info_has_every_key(user: Client, live: Running) -> None:
    info = user.sdk(INFO, name=live.name)
    assert info["domainName"] == "default" and info["status"] == "RUNNING"
    assert "python" in info["image"] and info["architecture"] in {"x86_64", "aarch64"}
    assert isinstance(info["age"], int) and isinstance(info["numQueriesExecuted"], int)
    assert {"groupId", "userId", "lang", "registry", "tag", "containerId", "occupiedSlots"} <= info.keys()
    assert {"occupiedShares", "environ", "resourceOpts", "statusInfo", "statusData"} <= info.keys()
    assert {"creationTime", "terminationTime", "lastStat", "idleChecks"} <= info.keys()


def test_status_history(user: Client, live: Running) -> None:
    done = user.cli("session", "status-history", live.name).ok()
    assert re.search(r"'preparing'(:|,) '\d{4}-\d\d-\d\dT", done.text)
    assert re.search(r"Actual Resource Allocation Time: \{'result': \{'seconds': \d+", done.text)


def test_logs(user: Client, live: Running) -> None:
    assert "End of logs." in user.cli("session", "logs", live.name).ok().text


def test_abuse_history_is_empty(user: Client, live: Running) -> None:
    assert user.cli("session", "abuse-history", live.name).ok().stdout.startswith("{")


# --- changing ---


def test_rename(user: Client) -> None:
    with running(user, "before") as session:
        after = new_name("after")
        assert f"Session renamed to {after}." in user.cli("session", "rename", session.name, after).ok().text
        assert state(user, session.id)["name"] == after
        assert "No such session" in user.cli("session", "logs", session.name).failed().text


def test_rename_to_a_taken_name(user: Client, live: Running) -> None:
    with running(user, "other") as session:
        assert live.id in user.cli("session", "rename", session.name, live.name).failed().text
        assert state(user, session.id)["name"] == session.name


def test_restart_keeps_files_and_drops_state(user: Client) -> None:
    with running(user, "again") as session:
        execute(user, session.name, "kept = 1; open('kept.txt', 'w').write('still here')")
        assert "Done." in user.cli("session", "restart", session.name).ok().text
        wait_for(user, session.id, "RUNNING")
        done = execute(user, session.name, "print(open('kept.txt').read(), 'kept' in globals())")
        assert printed(done) == "still here False\n"


def test_priority(user: Client, live: Running, version: str) -> None:
    if version == "23.9.10":
        pytest.skip("23.09 knows no priorities")
    changed = user.sdk(PRIORITY, id=live.id)
    assert changed["item"] == {"name": live.name, "priority": 42}
    assert state(user, live.id)["priority"] == 42


def test_commit(user: Client) -> None:
    with running(user, "kept") as session:
        done = user.cli("session", "commit", session.name).ok()
        assert f"Request to commit Session(name or id: {session.name})" in done.text
        # Its end breaks off what is not done yet.


def test_convert_to_image(user: Client, version: str) -> None:
    if version == "23.9.10":
        pytest.skip("23.09 knows no images of sessions")
    image = f"kept-{version}"
    with running(user, "made") as session:
        execute(user, session.name, "_ = open('kept.txt', 'w').write('still here')")
        done = user.cli("session", "convert-to-image", session.name, image).ok()
        assert "Session export process completed." in done.text
    again = user.cli("run", "-c", "print(open('kept.txt').read())", "--rm", image).ok()
    assert "still here" in again.text


# --- using ---


def test_upload_list_download(user: Client, live: Running, tmp_path: Path) -> None:
    (user.home / "sent.txt").write_text("there and back")
    assert "Uploaded." in user.cli("session", "upload", live.name, "sent.txt").ok().text
    listed = user.cli("session", "ls", live.name).ok().stdout
    assert re.search(r"sent\.txt\s+14 Bytes\s+.*-rw", listed), listed
    assert (
        "Downloaded to"
        in user.cli("session", "download", live.name, "sent.txt", "--dest", str(tmp_path)).text
    )
    assert (tmp_path / "sent.txt").read_text() == "there and back"


def test_upload_into_a_folder(user: Client, live: Running) -> None:
    (user.home / "folder").mkdir(exist_ok=True)
    (user.home / "folder/one.txt").write_text("1")
    user.cli("session", "upload", live.name, "folder/one.txt").ok()
    assert "one.txt" in user.cli("session", "ls", live.name, "/home/work/folder").ok().stdout


def test_download_what_is_not_there(user: Client, live: Running, tmp_path: Path) -> None:
    done = user.cli("session", "download", live.name, "nothing.txt", "--dest", str(tmp_path)).failed()
    assert "not found" in done.text


def test_list_what_is_not_there(user: Client, live: Running) -> None:
    user.cli("session", "ls", live.name, "/home/work/no-such-folder").failed()


def test_interrupt_ends_a_loop_and_keeps_the_session(user: Client, live: Running) -> None:
    done = user.sdk(INTERRUPT, name=live.name)
    assert done["status"] == "finished"
    assert "KeyboardInterrupt" in printed(done, "stderr")
    assert printed(execute(user, live.name, "print('alive')")) == "alive\n"


def test_completion(user: Client, live: Running) -> None:
    told = user.sdk(COMPLETE, name=live.name)
    assert "import" in told["result"]["completions"]


def test_names_and_ids_are_alike(user: Client, live: Running) -> None:
    assert printed(execute(user, live.id, "print('by id')")) == "by id\n"
    assert "End of logs." in user.cli("session", "logs", live.id).ok().text


# --- ending ---


def test_destroy_tells_statistics(user: Client) -> None:
    with running(user, "stats") as session:
        done = user.cli("session", "destroy", "-s", session.name).ok()
        assert re.search(r"cpu_used\S*\s+[\d,.]+", done.text), done


def test_destroy_forced(user: Client) -> None:
    with running(user, "force") as session:
        assert "Done." in user.cli("session", "destroy", "-f", session.name).ok().text
        wait_for(user, session.id, "TERMINATED")


def test_destroy_twice_is_not_found(user: Client) -> None:
    with running(user, "twice") as session:
        user.cli("session", "destroy", session.name).ok()
        wait_for(user, session.id, "TERMINATED")
        assert "No such session." in user.cli("session", "destroy", session.name).failed().text


def test_destroying_a_pending_session_cancels_it(user: Client, live: Running) -> None:
    name = new_name("pending")
    made = create(user, name, dependencies=[live.id], enqueue_only=True)
    assert state(user, made["id"])["status"] == "PENDING"
    user.cli("session", "destroy", name).ok()
    assert state(user, made["id"])["status"] == "CANCELLED"


def test_destroying_recursively_takes_dependents_along(user: Client) -> None:
    with running(user, "root") as root:
        made = create(user, new_name("leaf"), dependencies=[root.id], enqueue_only=True)
        assert "Done." in user.cli("session", "destroy", "-r", root.name).ok().text
        assert wait_for(user, made["id"], "CANCELLED")["status"] == "CANCELLED"


def test_anothers_session_is_not_mine_to_destroy(user: Client, admin: Client, live: Running) -> None:
    with running(admin, "foreign") as foreign:
        assert "No such session." in user.cli("session", "destroy", foreign.name).failed().text
        assert state(admin, foreign.id)["status"] == "RUNNING"
    assert 'use "-o"' in admin.cli("session", "destroy", "no-" + live.name).failed().text


def test_logs_outlive_the_session(user: Client) -> None:
    with running(user, "dead") as session:
        user.cli("session", "destroy", session.name).ok()
        wait_for(user, session.id, "TERMINATED")
        assert "End of logs." in user.cli("session", "logs", session.id).ok().text
