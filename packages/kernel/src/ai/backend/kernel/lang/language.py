"""What the runner knows of programming languages: one table, no code per language.

A language has an interpreter (when it has one), perhaps a worker (a query mode), and rules for batch mode:
the first rule whose patterns all match a name in the home folder gives the command. `{runtime}` in a command
becomes the interpreter's quoted path.
"""

from __future__ import annotations

from ..record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Rule(NamedTuple):
    patterns: tuple[str, ...]
    """File names, or "*.ext"."""
    command: str


class Language(NamedTuple):
    runtime_path: str
    """The interpreter's name as looked up on PATH when the image names none; "" when there is none."""
    worker: str
    """The module of `ai.backend.kernel.lang` that is its query mode; "" when there is none."""
    build: tuple[Rule, ...]
    exec: tuple[Rule, ...]


class NotFound(NamedTuple):
    """No rule matched: what was looked for, for people."""

    looked_for: str


_NOTHING = Rule((), ":")
_MAKE = tuple(Rule((name,), "make") for name in ("Makefile", "makefile", "GNUmakefile"))
_BINARY = (Rule(("main",), "./main"), Rule(("a.out",), "./a.out"))
_LIBS = "-lrt -lm -pthread -ldl"


def _script(runtime: str, *names: str) -> Language:
    """A language whose programs need no build: run the first of `names` that is there."""
    return Language(runtime, "", (_NOTHING,), tuple(Rule((name,), "{runtime} " + name) for name in names))


LANGUAGES: dict[str, Language] = {
    "python": Language(
        "python3",
        "python_worker",
        (Rule(("setup.py",), "{runtime} -m pip install --user ."), _NOTHING),
        (Rule(("main.py",), "{runtime} main.py"), Rule(("__main__.py",), "{runtime} .")),
    ),
    "c": Language("", "", (Rule(("*.c",), f'"${{CC:-gcc}}" -Wall -o main *.c {_LIBS}'),), _BINARY),
    "cpp": Language(
        "",
        "",
        tuple(
            Rule((f"*.{e}",), f'"${{CXX:-g++}}" -Wall -o main *.{e} {_LIBS}') for e in ("cpp", "cc", "cxx")
        ),
        _BINARY,
    ),
    "go": Language(
        "",
        "",
        (Rule(("go.mod",), "go build -o main ."), Rule(("*.go",), "go build -o main *.go")),
        (Rule(("main",), "./main"), Rule(("main.go",), "go run main.go")),
    ),
    "rust": Language(
        "",
        "",
        (Rule(("Cargo.toml",), "cargo build --release"), Rule(("main.rs",), "rustc -O -o main main.rs")),
        (Rule(("Cargo.toml",), "cargo run --release --quiet"), *_BINARY),
    ),
    "java": Language(
        "",
        "",
        (Rule(("*.java",), "javac -encoding UTF-8 *.java"),),
        (
            Rule(("Main.class",), "java Main"),
            Rule(("main.class",), "java main"),
            Rule(("*.jar",), "java -jar *.jar"),
        ),
    ),
    "haskell": Language(
        "",
        "",
        (Rule(("main.hs",), "ghc --make main"),),
        (Rule(("main",), "./main"), Rule(("main.hs",), "runhaskell main.hs")),
    ),
    "nodejs": Language(
        "node",
        "",
        (Rule(("package.json",), "npm install"), _NOTHING),
        tuple(Rule((name,), "{runtime} " + name) for name in ("main.js", "main.mjs", "index.js")),
    ),
    "r": _script("Rscript", "main.R", "main.r"),
    "ruby": _script("ruby", "main.rb"),
    "julia": _script("julia", "main.jl"),
    "lua": _script("lua", "main.lua"),
    "octave": _script("octave-cli", "main.m"),
    "php": _script("php", "main.php"),
    "perl": _script("perl", "main.pl"),
    "scheme": Language("scheme", "", (_NOTHING,), (Rule(("main.scm",), "{runtime} --quiet < main.scm"),)),
    "shell": _script("sh", "main.sh", "run.sh"),
    "app": Language("", "", (_NOTHING,), (Rule(("main.sh",), "sh main.sh"), *_BINARY)),
}
LANGUAGES["golang"] = LANGUAGES["go"]
LANGUAGES["bash"] = LANGUAGES["shell"]


def modes(language: Language) -> str:
    """For people: the modes it supports."""
    return "query, batch" if language.worker else "batch"


def heuristic(language: Language, step: str, names: Sequence[str], runtime_path: str) -> str | NotFound:
    """The shell command of a step ("clean", "build", "exec") in a folder that holds `names`."""
    if step == "clean":
        return _NOTHING.command
    rules = (*_MAKE, *language.build) if step == "build" else language.exec
    for rule in rules:
        if all(any(_matches(name, pattern) for name in names) for pattern in rule.patterns):
            return rule.command.replace("{runtime}", quote(runtime_path or language.runtime_path))
    return NotFound(", ".join(dict.fromkeys(pattern for rule in rules for pattern in rule.patterns)))


def quote(text: str) -> str:
    """One word for sh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _matches(name: str, pattern: str) -> bool:
    return name.endswith(pattern[1:]) and not name.startswith(".") if pattern[0] == "*" else name == pattern
