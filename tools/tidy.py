"""Small checks that no linter has: sizes, docstrings, banned calls, addresses of this machine, promises without tests.

Each check is a generator of findings over (path, text) pairs; the script prints them and fails if there is any. What is an address of "this
machine" is asked of the machine (where the checkout lies, which package indexes are configured), so that no address is written here.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
LINES_MAX = 700
BANNED = {
    "datetime.now": "ask the Clock that you were given",
    "datetime.utcnow": "ask the Clock that you were given",
    "datetime.today": "ask the Clock that you were given",
    "time.time": "ask the Clock that you were given",
    "uuid.uuid1": "use common.ids.new_uuid with the given Random",
    "uuid.uuid4": "use common.ids.new_uuid with the given Random",
    "uuid4": "use common.ids.new_uuid with the given Random",
}
RANDOM_ALLOWED = {"random.Random", "random.SystemRandom"}
PUBLIC_HOSTS = {"pypi.org", "files.pythonhosted.org", "registry.npmjs.org", "deb.debian.org"}
SHARED_FOLDERS = {
    Path("/", name) for name in ["home", "root", "tmp", "opt", "srv", "mnt", "var", "usr", "usr/src"]
} | {Path("/")}

File = tuple[Path, str]


def files(root: Path) -> Iterator[File]:
    """Every text file that is or would be tracked, with its path relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in sorted(set(listed.stdout.split("\0")) - {""}):
        path = root / name
        if not path.is_file() or path.is_symlink():
            continue
        try:
            yield Path(name), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def is_test(path: Path) -> bool:
    return "tests" in path.parts or path.name.startswith(("test_", "conftest"))


def sizes(tree: Iterable[File]) -> Iterator[str]:
    for path, text in tree:
        if path.suffix == ".py" and (lines := text.count("\n")) > LINES_MAX:
            yield f"{path}: {lines} lines, over {LINES_MAX}: split it"


def docstrings(tree: Iterable[File]) -> Iterator[str]:
    for path, text in tree:
        if path.suffix == ".py" and text.strip() and ast.get_docstring(ast.parse(text)) is None:
            yield f"{path}:1: no module docstring: say what it is and what it must never know"


def banned_calls(tree: Iterable[File]) -> Iterator[str]:
    """Time and chance are arguments. Main programs, tests and benchmarks are where they come from."""
    for path, text in tree:
        free = is_test(path) or path.parts[0] == "bench" or path.name in ("main.py", "clock.py")
        if path.suffix != ".py" or free:
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            called = name.removeprefix("datetime.") if name.startswith("datetime.datetime.") else name
            if called in BANNED:
                yield f"{path}:{node.lineno}: {name}(): {BANNED[called]}"
            elif name.startswith("random.") and name not in RANDOM_ALLOWED:
                yield f"{path}:{node.lineno}: {name}(): use the Random that you were given"


def machine_addresses() -> set[str]:
    """Texts that only this machine has: folders around the checkout and hosts of configured package indexes."""
    found = {str(ROOT)}
    if ROOT.parent not in SHARED_FOLDERS:
        found.add(f"{ROOT.parent}/")
    home = Path.home()
    configured = [
        value for name, value in os.environ.items() if re.search(r"INDEX|REGISTRY|PROXY", name, re.I)
    ]
    for path in (
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        home / ".config/pip/pip.conf",
        home / ".config/uv/uv.toml",
        Path("/etc/uv/uv.toml"),
        home / ".npmrc",
    ):
        if path.is_file():
            configured.append(path.read_text(errors="replace"))
    for text in configured:
        for url in re.findall(r"https?://[^\s\"',]+", text):
            host = urlsplit(url).hostname or ""
            if host and host not in PUBLIC_HOSTS and host not in ("localhost", "127.0.0.1"):
                found.add(host)
    return found


def addresses(tree: Iterable[File], forbidden: Iterable[str]) -> Iterator[str]:
    pattern = re.compile("|".join(rf"(?<![\w.-]){re.escape(text)}" for text in sorted(forbidden)))
    for path, text in tree:
        for number, line in enumerate(text.splitlines(), 1):
            if match := pattern.search(line):
                yield f"{path}:{number}: {match[0]!r} exists only on this machine"


def promises(tree: Iterable[File], root: Path) -> Iterator[str]:
    """Every test that SPECIFICATION.md names must exist: `[folder/]test_x.py` or `[folder/]test_x.py::test_name`."""
    known = list(tree)
    places = {path.name: root / path for path, _ in known}
    for path, text in known:
        if path != Path("SPECIFICATION.md"):
            continue
        named = re.findall(r"([\w./-]+\.(?:py|spec\.ts))(?:::([\w:]+))?", text)
        for name, test in sorted({(name, test) for name, test in named if "test" in name or "sim/" in name}):
            target = root / name if "/" in name else places.get(name, root / name)
            if not target.is_file():
                yield f"{path}: {name} does not exist"
            elif test and not re.search(
                rf"(def|class) {re.escape(test.rsplit('::', 1)[-1])}\b", target.read_text()
            ):
                yield f"{path}: {name} has no {test}"


def main() -> int:
    tree = list(files(ROOT))
    found = [
        *sizes(tree),
        *docstrings(tree),
        *banned_calls(tree),
        *addresses(tree, machine_addresses()),
        *promises(tree, ROOT),
    ]
    for finding in found:
        print(finding)
    print(f"tidy: {len(found)} findings in {len(tree)} files", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
