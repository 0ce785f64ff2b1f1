"""Sessions kept as archives and as images, on both container backends."""

import asyncio
import json
import os
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai.backend.agent.image.build import build
from ai.backend.agent.image.recipe import load_recipe
from ai.backend.testkit.dockerd import PrivateDockerd

from .conftest import Cluster, docker_args

pytest_plugins = ["ai.backend.testkit.dockerd"]
IMAGE = "local/python:3.11-debian12"
PREPARE = """
import os, pathlib, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib", "posix_user"))
site.mkdir(parents=True)
(site / "tool.py").write_text("def answer(): return 42")
pathlib.Path("notes.txt").write_text("kept")
os.symlink("notes.txt", "link")
os.mkdir(".ssh", 0o700)
pathlib.Path(".ssh/id_rsa").write_text("private")
try:
    pathlib.Path("/var/tmp/outside.txt").write_text("kept as well")
    print("written")
except OSError:
    print("read-only")
"""
LOOK = """
import os, pathlib, tool
outside = pathlib.Path("/var/tmp/outside.txt")
print(tool.answer(), open("link").read(), os.path.exists(".ssh"), outside.exists() and outside.read_text())
print(os.environ.get("SECRET"), os.stat("notes.txt").st_uid == os.getuid())
_ = open("notes.txt", "a").write("!")
"""


@pytest.fixture(params=["sandbox", pytest.param("docker", marks=pytest.mark.docker)], scope="module")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, image_cache: Path
) -> Iterator[Cluster]:
    """Of its own, because of its limits; the sandbox has the same image as the engine."""
    home = tmp_path_factory.mktemp(f"commit-{request.param}") / "home"
    home.mkdir()
    # Not pytest's own folder: that one is closed to the users of sessions.
    root = Path(tempfile.mkdtemp(prefix="node-", dir="/var/tmp"))
    root.chmod(0o755)
    extra: tuple[str, ...] = ()
    if request.param == "docker":
        engine: PrivateDockerd = request.getfixturevalue("dockerd")
        request.getfixturevalue("python_image")
        extra = docker_args(engine)
    elif os.geteuid() != 0:
        pytest.skip("only root can build an image")
    else:
        recipe = load_recipe(request.config.rootpath / "kernels/python/kernel.toml")
        asyncio.run(build(recipe, cache_dir=image_cache, images_dir=root / "images"))
    (home / "config.toml").write_text(
        f'[agent]\nnode-root = "{root}"\ncommit-user-max = "1g"\n[manager]\ncustomized-images-max = 2\n'
    )
    cluster = Cluster(home=home, backend=request.param, extra=extra)
    try:
        cluster.up()
        yield cluster
        cluster.down()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def session(cluster: Cluster) -> Iterator[str]:
    """Of the plain user, with something in it that is worth keeping."""
    name = f"commit-{uuid.uuid4().hex[:8]}"
    as_user = cluster.as_user()
    cluster.cli(
        "session", "create", IMAGE, "-t", name, "-r", "mem=256m", "-e", "SECRET=s3cret-value", env=as_user
    )
    yield name
    cluster.cli("rm", name, check=False, env=as_user)


def prepare(cluster: Cluster, session: str) -> bool:
    """Whether a session can write outside of its home here."""
    return cluster.cli("exec", session, "-c", PREPARE, env=cluster.as_user()).stdout == "written\n"


def layers_of(archive: Path) -> tuple[dict[str, Any], list[dict[str, tarfile.TarInfo]], bool]:
    """Its configuration, what is in each layer, and whether the session's secret is anywhere in it."""
    layers, leaked = [], False
    with tarfile.open(archive) as tar:
        (manifest,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        config: dict[str, Any] = json.load(tar.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        for name in manifest["Layers"]:
            content = tar.extractfile(name)
            assert content is not None
            leaked = leaked or b"s3cret-value" in content.read()
            content.seek(0)
            with tarfile.open(fileobj=content) as layer:
                layers.append({one.name.removeprefix("./"): one for one in layer})
    return config, layers, leaked or "s3cret-value" in json.dumps(config)


def test_a_session_is_kept_as_an_archive(cluster: Cluster, session: str) -> None:
    outside = prepare(cluster, session)
    as_user = cluster.as_user()
    told = cluster.json("session", "commit", session, "--filename", "kept", env=as_user)
    assert (told["ok"], told["status"]) == (True, "done"), told
    assert told["path"].endswith("/kept.tar.gz")
    config, layers, leaked = layers_of(cluster.home / "agent/commits" / told["path"])
    assert not leaked
    assert config["config"]["Labels"]["ai.backend.kernelspec"] == "1"
    everything = set().union(*layers)
    assert {"usr/bin/python3", "home/work/notes.txt", "home/work/link"} <= everything
    assert any(name.endswith("site-packages/tool.py") for name in layers[-1])
    assert ("var/tmp/outside.txt" in everything) is outside
    unwanted = ("home/work/.ssh", "home/config/", "opt/kernel/", "opt/backend.ai/", "proc/", "sys/")
    assert [name for name in everything if name.startswith(unwanted)] == []
    # The session goes on, and the name is taken.
    assert cluster.cli("exec", session, "-c", "print(1)", env=as_user).stdout == "1\n"
    again = cluster.cli("session", "commit", session, "--filename", "kept", check=False, env=as_user)
    assert again.returncode != 0 and "kept.tar.gz" in again.stderr
    assert cluster.json("session", "commit-status", session, env=as_user)["status"] == "ready"


def test_a_session_becomes_an_image_that_sessions_start_from(cluster: Cluster, session: str) -> None:
    outside = prepare(cluster, session)
    as_user = cluster.as_user()
    told = cluster.json("session", "convert-to-image", session, "mine", env=as_user)
    assert (told["ok"], told["status"]) == (True, "done"), told
    assert told["image"] in {one["name"] for one in cluster.json("image", "ls", env=as_user)["items"]}
    twice = cluster.cli("session", "convert-to-image", session, "mine", check=False, env=as_user)
    assert twice.returncode != 0 and "already" in twice.stderr
    cluster.cli("rm", session, env=as_user)
    for _ in range(2):  # what one session does to its home is not in the image
        seen = cluster.cli("run", "mine", "-c", LOOK, env=as_user).stdout
        assert seen == f"42 kept False {'kept as well' if outside else False}\nNone True\n"
    assert cluster.cli("run", told["image"], "-c", "print(2)", env=as_user).stdout == "2\n"
    # It is nobody else's, and hides no image of others.
    refused = cluster.cli("run", told["image"], "-c", "print(3)", check=False)
    assert refused.returncode != 0 and "no image" in refused.stderr
    cluster.down()
    cluster.up()
    assert cluster.cli("run", "mine", "-c", "print(4)", env=as_user).stdout == "4\n"


def test_an_image_of_an_image_hides_nothing(cluster: Cluster, session: str) -> None:
    as_user = cluster.as_user()
    prepare(cluster, session)
    told = cluster.json("session", "convert-to-image", session, "python:99", env=as_user)
    assert told["ok"], told
    source = "import os; print(os.path.exists('notes.txt'))"
    assert cluster.cli("run", "python", "-c", source, env=as_user).stdout == "False\n"
    assert cluster.cli("run", told["image"], "-c", source, env=as_user).stdout == "True\n"
    over = cluster.cli("session", "convert-to-image", session, "third", check=False, env=as_user)
    assert over.returncode != 0 and "may have 2" in over.stderr


def test_a_session_that_ends_meanwhile_leaves_nothing(cluster: Cluster, session: str) -> None:
    as_user = cluster.as_user()
    cluster.cli(
        "exec", session, "-c", "import os; open('large', 'wb').write(os.urandom(150 << 20))", env=as_user
    )
    told = cluster.json("session", "commit", session, "--filename", "half", "--no-wait", env=as_user)
    assert told["status"] == "started"
    cluster.cli("rm", "-f", session, env=as_user)
    commits = cluster.home / "agent/commits"
    folder = commits / told["path"]
    # Either it was quicker, and is whole, or nothing is left of it.
    assert list(commits.glob(".partial-*")) == []
    assert not folder.exists() or layers_of(folder)[1]
