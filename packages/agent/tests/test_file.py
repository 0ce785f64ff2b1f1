"""Files of a session's home: nothing leads out of the folder, however the path or the folder is made."""

import io
import os
import tarfile
import threading
from pathlib import Path

import pytest

from ai.backend.agent.kernel.file import HomeFolder, relative
from ai.backend.common.errors import BackendError, FileNotFound, InvalidInput
from ai.backend.common.wire.rpc import UploadFile

LIMIT = 1 << 20
TRAVERSALS = sorted(
    {
        prefix + climb + rest
        for prefix in ("", "/", "a/", "./", "/home/work/", "/home/work/a/", "//", "a//")
        for climb in ("../", "../../", "a/../../", "./../")
        for rest in ("secret", "etc/passwd", "")
    }
    | {
        "..",
        "/etc/passwd",
        "/home",
        "/home/workx/secret",
        "/home/config/environ.txt",
        "a\0b",
        "x" * 5000,
        "/proc/self/root/etc/passwd",
    }
)


@pytest.fixture
def home(tmp_path: Path) -> HomeFolder:
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "work").mkdir()
    return HomeFolder(tmp_path / "work", os.getuid())


def put(home: HomeFolder, path: str, content: bytes = b"x") -> None:
    home.write([UploadFile(path=path, content=content)])


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_out(home: HomeFolder, tmp_path: Path, path: str) -> None:
    for attempt in (
        lambda: put(home, path),
        lambda: home.read(path, bytes_max=LIMIT),
        lambda: home.archive(path, bytes_max=LIMIT),
        lambda: home.list(path),
    ):
        with pytest.raises((InvalidInput, FileNotFound)):
            attempt()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["secret", "work"]
    assert (tmp_path / "secret").read_text() == "outside"


def test_the_same_file_by_its_two_names(home: HomeFolder) -> None:
    put(home, "/home/work/deep/er/file.txt", b"content")
    assert home.read("deep/er/file.txt", bytes_max=LIMIT) == b"content"
    assert relative("/home/work") == "."


@pytest.mark.parametrize("target", ["..", "/", "/etc", "../secret", "/proc/self/root"])
def test_links_lead_nowhere(home: HomeFolder, tmp_path: Path, target: str) -> None:
    (tmp_path / "work" / "link").symlink_to(target)
    for attempt in (
        lambda: home.read("link", bytes_max=LIMIT),
        lambda: home.read("link/secret", bytes_max=LIMIT),
        lambda: home.archive("link", bytes_max=LIMIT),
        lambda: home.list("link"),
        lambda: put(home, "link/new"),
    ):
        with pytest.raises(BackendError):
            attempt()
    assert not (tmp_path / "new").exists()


def test_writing_over_a_link_replaces_the_link(home: HomeFolder, tmp_path: Path) -> None:
    (tmp_path / "work" / "link").symlink_to("../secret")
    put(home, "link", b"inside")
    assert (tmp_path / "secret").read_text() == "outside"
    assert home.read("link", bytes_max=LIMIT) == b"inside"


def test_a_folder_swapped_for_a_link_while_writing_never_leads_out(home: HomeFolder, tmp_path: Path) -> None:
    work, outside = tmp_path / "work", tmp_path / "outside"
    outside.mkdir()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for make in ((work / "d").mkdir, lambda: (work / "d").symlink_to(outside)):
                try:
                    make()
                    (work / "d").rename(work / "gone")
                except OSError:
                    pass
                for name in ("gone", "d"):
                    path = work / name
                    if path.is_symlink():
                        path.unlink()

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(2000):
            try:
                put(home, "d/file")
            except (BackendError, OSError):
                continue
    finally:
        stop.set()
        thread.join()
    assert list(outside.iterdir()) == []


def test_only_regular_files_are_read_and_a_fifo_never_blocks(home: HomeFolder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "work" / "fifo")
    for attempt in (
        lambda: home.read("fifo", bytes_max=LIMIT),
        lambda: home.archive("fifo", bytes_max=LIMIT),
    ):
        with pytest.raises(FileNotFound):
            attempt()


def test_limits_on_size(home: HomeFolder) -> None:
    put(home, "big", b"x" * 1001)
    with pytest.raises(FileNotFound):
        home.read("big", bytes_max=1000)
    for number in range(3):
        put(home, f"folder/{number}", b"x" * 400)
    with pytest.raises(FileNotFound):
        home.archive("folder", bytes_max=1000)
    assert len(home.archive("folder", bytes_max=4000)) > 1200
    for number in range(20):
        put(home, f"many/{number}", b"")
    with pytest.raises(FileNotFound):
        home.archive("many", bytes_max=5000)


def test_folders_of_any_depth_are_refused_in_order(home: HomeFolder, tmp_path: Path) -> None:
    path = tmp_path / "work"
    for _ in range(150):
        path = path / "d"
        path.mkdir()
    with pytest.raises(FileNotFound):
        home.archive("d", bytes_max=LIMIT)


def test_an_archive_holds_the_folder_without_what_links_point_at(home: HomeFolder, tmp_path: Path) -> None:
    put(home, "folder/sub/file", b"content")
    (tmp_path / "work" / "folder" / "evil").symlink_to("/etc/passwd")
    with tarfile.open(fileobj=io.BytesIO(home.archive("folder", bytes_max=LIMIT))) as tar:
        assert sorted(tar.getnames()) == ["folder", "folder/sub", "folder/sub/file"]
        member = tar.extractfile("folder/sub/file")
        assert member is not None and member.read() == b"content"


def test_listing_tells_modes_and_sizes(home: HomeFolder) -> None:
    put(home, "a.txt", b"four")
    listed = home.list("/home/work")
    assert listed.abspath == "/home/work"
    assert [(f.filename, f.mode, f.size) for f in listed.files] == [("a.txt", "-rw-r--r--", 4)]
    with pytest.raises(FileNotFound):
        home.list("missing")
