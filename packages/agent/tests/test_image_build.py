"""Recipes and the making of images. The one that needs a package mirror is the `python_image` fixture itself."""

import asyncio
import contextlib
import hashlib
import io
import json
import re
import secrets
import shutil
import subprocess
import tarfile
import time
from collections.abc import AsyncIterable
from pathlib import Path

import msgspec
import pytest

from ai.backend.agent.container.model import Image
from ai.backend.agent.image import layer
from ai.backend.agent.image.build import Layer, _key, build
from ai.backend.agent.image.recipe import Recipe, load_recipe, safe_name
from ai.backend.common.errors import ConfigError

pytest_plugins = ["ai.backend.testkit.dockerd"]

KERNELS = Path(__file__).parents[3] / "kernels"
RECIPES = sorted(KERNELS.glob("*/kernel.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_recipe_and_dockerfile_say_the_same(path: Path) -> None:
    recipe = load_recipe(path)
    dockerfile = path.with_name("Dockerfile").read_text()
    assert dict(re.findall(r'^(?:LABEL)? +([\w.-]+)="([^"]*)"', dockerfile, re.MULTILINE)) == recipe.labels
    for package in recipe.packages:
        assert package in dockerfile
    assert json.dumps(list(recipe.command)) in dockerfile
    assert recipe.name in dockerfile


GOOD = (KERNELS / "python/kernel.toml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("suite =", "sweet =", "sweet"),
        ('name = "local/python:3.11-debian12"', 'name = "local/python"', "tag"),
        ('"bookworm"', '"--foreign"', "--foreign"),
        ('"ca-certificates"', '"ca,certificates"', "ca,certificates"),
        ('command = ["/usr/bin/python3"]', "command = []", "command"),
        ('"ai.backend.kernelspec" = "1"', "", "ai.backend.kernelspec"),
        ('"64m"', "64", "labels"),
        ('smoke = "smoke.py"', 'smoke = "../nothing.py"', "nothing.py"),
        ('smoke = "smoke.py"', "", "smoke"),
        ("[labels]", "[labels", "TOML"),
    ],
)
def test_wrong_recipe_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    path = tmp_path / "kernel.toml"
    path.write_text(GOOD.replace(old, new))
    (tmp_path / "smoke.py").write_text("print('ok')")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert str(path) in caught.value.message
    assert said in caught.value.message


def test_safe_names_differ() -> None:
    names = ["a/b:1", "a--b:1", "a@b:1", "a:1/b:1"]
    files = [safe_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert not any("/" in file for file in files)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "sources.list",
            "# deb http://old/ bookworm main\ndeb [signed-by=/k a=b] http://m.example/debian bookworm main\n",
        ),
        (
            "sources.list.d/x.list",
            "deb http://s.example/ bookworm-security main\ndeb http://m.example/debian bookworm main\n",
        ),
        (
            "sources.list.d/debian.sources",
            (
                "# x\nTypes: deb-src\nURIs: http://s.example\nSuites: bookworm\n\n"
                "Types: deb\nURIs: http://m.example/debian http://n.example\nSuites: bookworm bookworm-updates\n"
            ),
        ),
    ],
)
def test_mirror_is_the_machines(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / file).write_text(text)
    assert layer.find_mirror("bookworm", tmp_path) == "http://m.example/debian"
    assert layer.find_mirror("trixie", tmp_path) is None
    assert layer.find_mirror("bookworm", tmp_path / "none") is None


def test_trim_keeps_licences_and_makes_mount_points(tmp_path: Path) -> None:
    for name in (
        "dev/null",
        "var/log/a/b",
        "usr/share/doc/x/copyright",
        "usr/share/doc/x/README",
        "etc/hostname",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    (tmp_path / "etc/shadow").write_text("root:*:20400:0:99999:7:::\nx:!:1:::::\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/lock").symlink_to("/etc")
    layer.trim(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert left == {"usr/share/doc/x/copyright", "etc/shadow", *layer._FILES}
    assert (tmp_path / "etc/shadow").read_text() == "root:*:19000:0:99999:7:::\nx:!:19000:::::\n"
    assert all((tmp_path / name).is_dir() for name in layer.MOUNT_POINTS)


async def test_packing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for number, names in enumerate((("a", "b"), ("b", "a"))):
        root = tmp_path / str(number)
        root.mkdir()
        for name in names:
            (root / name).write_text("x")
        subprocess.run(["touch", "-d", "@1000000", root / "a"], check=True)
        subprocess.run(["touch", "-d", f"@{3_000_000 + number}", root, root / "b"], check=True)
        await layer.pack(root, tmp_path / "layer.tar", built_from_s=2_000_000.0)
        digests.add(hashlib.sha256((tmp_path / "layer.tar").read_bytes()).hexdigest())
    assert len(digests) == 1


async def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(layer.ImageBuildFailed, match="root"):
        layer.check_builder()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(layer.ImageBuildFailed, match="debootstrap is not installed") as caught:
        layer.check_builder()
    assert "apt-get install" in caught.value.hint


@pytest.mark.docker
@pytest.mark.skipif(shutil.which("debootstrap") is None, reason="debootstrap is not installed")
async def test_mirror_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(layer.ImageBuildFailed, match="debootstrap ended") as caught:
        await layer.make_root(tmp_path / "root", "bookworm", [], command=["x"], smoke="", progress=print)
    assert "network" in caught.value.hint


async def test_cancelled_build_takes_its_processes_along(tmp_path: Path) -> None:
    script = f"sleep 600 & echo $! >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; wait"
    task = asyncio.create_task(layer.run("sh", "-c", script))
    async with asyncio.timeout(30):
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.01)
    child = Path("/proc") / (tmp_path / "pid").read_text().strip() / "stat"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(30):
        while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("steps", range(8))
async def test_a_build_cancelled_while_it_starts_leaves_nothing(steps: int) -> None:
    """`steps`: how far the event loop gets before the cancellation; the program itself has begun by then."""
    seconds = f"{600_000 + secrets.randbelow(99_999)}"
    task = asyncio.create_task(layer.run("sh", "-c", f"sleep {seconds} & wait"))
    for _ in range(steps):
        await asyncio.sleep(0)
    time.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        while running(seconds):
            await asyncio.sleep(0.01)


def running(word: str) -> list[str]:
    """Processes whose command line has the word."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in place.read_bytes():
                found.append(place.parent.name)
    return found


class Store:
    """An engine's image store that keeps what it is given."""

    def __init__(self) -> None:
        self.archives: list[bytes] = []
        self.held: list[Image] = []

    async def images(self) -> list[Image]:
        return self.held

    async def load_image(self, archive: AsyncIterable[bytes]) -> None:
        self.archives.append(b"".join([chunk async for chunk in archive]))


@pytest.fixture
def cached(tmp_path: Path) -> tuple[Recipe, Path]:
    """A recipe, and a cache that has its file system: one file."""
    recipe = load_recipe(KERNELS / "python/kernel.toml")
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    )
    tar = tmp_path / "cache/images" / f"{_key(recipe, architecture.stdout.strip())}.tar"
    tar.parent.mkdir(parents=True)
    with tarfile.open(tar, "w") as archive:
        info = tarfile.TarInfo("etc/motd")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"hello"))
    content = tar.read_bytes()
    known = Layer(
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        size_bytes=len(content),
        architecture="amd64",
        packages=[],
    )
    tar.with_suffix(".json").write_bytes(msgspec.json.encode(known))
    return recipe, tmp_path / "cache"


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="no Debian")
async def test_cached_layer_goes_to_engine_and_folder(cached: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, cache_dir = cached
    store, images_dir, stages = Store(), tmp_path / "images", list[str]()
    image = await build(
        recipe, cache_dir=cache_dir, engine=store, images_dir=images_dir, progress=stages.append
    )
    assert [stage.split(": ", 1)[1] for stage in stages] == [
        "loading it into the engine",
        "unpacking it for the sandbox",
        "ready, 0 MiB",
    ]
    (archive,) = store.archives
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = tar.getnames()
        (entry,) = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        configuration = tar.extractfile(entry["Config"]).read()  # type: ignore[union-attr]
        packed = tar.extractfile("layer.tar").read()  # type: ignore[union-attr]
    assert names == [entry["Config"], "manifest.json", "layer.tar"]
    assert entry["RepoTags"] == [recipe.name]
    assert image.digest == f"sha256:{hashlib.sha256(configuration).hexdigest()}"
    said = json.loads(configuration)
    assert said["config"]["Labels"] == recipe.labels
    assert said["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(packed).hexdigest()}"]
    (described,) = images_dir.glob("*/image.json")
    assert Image(**json.loads(described.read_bytes())) == image
    assert (described.parent / "rootfs/etc/motd").read_text() == "hello"

    store.held = [image]
    inode = described.stat().st_ino
    assert await build(recipe, cache_dir=cache_dir, engine=store, images_dir=images_dir) == image
    assert (len(store.archives), described.stat().st_ino) == (1, inode), "nothing to do the second time"

    relabelled = msgspec.structs.replace(recipe, labels={**recipe.labels, "more": "1"})
    newer = await build(relabelled, cache_dir=cache_dir, engine=store, images_dir=images_dir)
    assert newer.digest != image.digest
    assert json.loads(described.read_bytes())["labels"]["more"] == "1"
    assert not any((images_dir / ".partial").iterdir())


@pytest.mark.docker
async def test_built_image_passes_its_smoke_test(
    python_image: Image, image_cache: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(KERNELS / "python/kernel.toml")
    image = await build(recipe, cache_dir=image_cache, images_dir=tmp_path)
    assert image.digest == python_image.digest
    root = tmp_path / safe_name(image.name) / "rootfs"
    done = subprocess.run(
        ["chroot", "--userspec=4321:4321", root, *recipe.command, "-c", recipe.smoke],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("ok\n", "")
