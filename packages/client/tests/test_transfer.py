"""Archives come from a place where users' code runs: nothing in them may lead out of the folder."""

import io
import tarfile
from pathlib import Path

import pytest

from ai.backend.client.error import ApiError
from ai.backend.client.transfer import unpack


def packed(*members: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
    return info


def test_files_and_folders_come_out(tmp_path: Path) -> None:
    archive = packed(member("d", tarfile.DIRTYPE), member("d/f"))
    assert unpack(archive, tmp_path) == [tmp_path / "d/f"]
    assert (tmp_path / "d/f").read_bytes() == b"x"


@pytest.mark.parametrize(
    "bad",
    [
        [member("../outside")],
        [member("link", tarfile.SYMTYPE, "OUTSIDE"), member("link/victim")],
        [member("link", tarfile.SYMTYPE, "../..")],
        [member("hard", tarfile.LNKTYPE, "../victim")],
        [member("device", tarfile.CHRTYPE)],
    ],
)
def test_nothing_leads_out(tmp_path: Path, bad: list[tarfile.TarInfo]) -> None:
    # What is aimed at lies in the test's own folder: a broken unpacking must fail the test, not harm the machine.
    folder, outside = tmp_path / "inner" / "folder", tmp_path / "outside-folder"
    outside.mkdir()
    for one in bad:
        one.linkname = one.linkname.replace("OUTSIDE", str(outside))
    with pytest.raises(ApiError):
        unpack(packed(*bad), folder)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_what_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(ApiError):
        unpack(b"nonsense" * 100, tmp_path)
