"""The system call filter of the sandbox: a policy file compiled to a classic BPF program.

`seccomp.toml` says what is allowed and why, `syscall.tsv` has the numbers; this module turns both into the
bytes that `bwrap --seccomp` loads. The program kills a process that enters the kernel through a foreign
architecture (i386, x32), then finds the call's number by binary search. It knows nothing of processes,
bubblewrap or the agent: files in, bytes out.
"""

import errno
import struct
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
NO_SYSCALL = 0xFFFFFFFF

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

# Classic BPF: load an absolute word, jump if equal / greater-or-equal / any bit set, jump always, return.
LOAD, JEQ, JGE, JSET, JUMP, RETURN = 0x20, 0x15, 0x35, 0x45, 0x05, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

Instruction = tuple[int, int, int, int]
"""(code, jump if true, jump if false, value), as the kernel's `struct sock_filter`."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Looks at the low 32 bits of one argument. `test` is "one_of", "none_of" or "no_bits_of"; `otherwise` is
    a return value."""

    argument: int
    test: str
    values: tuple[int, ...]
    otherwise: int


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to a call: `action` is a seccomp return value, given only when `condition` (if any)
    holds."""

    action: int
    condition: Condition | None = None


DEFAULT = Rule(_ERRNO | errno.ENOSYS)


def _action(name: str) -> int:
    return ALLOW if name == "allow" else _ERRNO | int(getattr(errno, name))


@cache
def numbers(machine: str) -> dict[str, int]:
    """System call numbers by name for "x86_64" or "aarch64". Raises KeyError for another machine."""
    column = {"x86_64": 1, "aarch64": 2}[machine]
    lines = Path(__file__).with_name("syscall.tsv").read_text("ascii").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


@cache
def policy() -> dict[str, Rule]:
    """The policy file as rules by system call name. Raises ValueError where the file contradicts itself."""
    rules: dict[str, Rule] = {}
    known = numbers("x86_64").keys() | numbers("aarch64").keys()
    for group in tomllib.loads(Path(__file__).with_name("seccomp.toml").read_text("utf-8"))["group"]:
        condition = None
        if "argument" in group:
            (test,) = {"one_of", "none_of", "no_bits_of"} & group.keys()
            condition = Condition(group["argument"], test, tuple(group[test]), _action(group["otherwise"]))
        for name in group["syscalls"].split():
            if name not in known or name in rules:
                raise ValueError(f"seccomp.toml: {name} is unknown or named twice")
            rules[name] = Rule(_action(group["action"]), condition)
    return rules


def compile_policy(machine: str) -> bytes:
    """The filter for "x86_64" or "aarch64" as an array of `struct sock_filter` in the machine's
    (little-endian) order."""
    table = numbers(machine)
    by_number = {table[name]: rule for name, rule in policy().items() if name in table}
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in _program(machine, by_number))


def _program(machine: str, rules: dict[int, Rule]) -> list[Instruction]:
    head: list[Instruction] = [
        (LOAD, 0, 0, _ARCH),
        (JEQ, 1, 0, AUDIT_ARCH[machine]),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":  # -1 is what a tracer leaves when it skips a call, not an x32 call
        head += [(JEQ, 2, 0, NO_SYSCALL), (JGE, 0, 1, X32_BIT), (RETURN, 0, 0, KILL_PROCESS)]
    return head + _search(_ranges(rules))


def _ranges(rules: dict[int, Rule]) -> list[tuple[int, Rule]]:
    """Neighbouring numbers with the same rule merged: (first number, rule), ascending, the first starting at
    0."""
    ranges: list[tuple[int, Rule]] = []
    for number in range(max(rules) + 2):
        rule = rules.get(number, DEFAULT)
        if not ranges or ranges[-1][1] != rule:
            ranges.append((number, rule))
    return ranges


def _search(ranges: list[tuple[int, Rule]]) -> list[Instruction]:
    if len(ranges) == 1:
        return _leaf(ranges[0][1])
    middle = len(ranges) // 2
    low, high = _search(ranges[:middle]), _search(ranges[middle:])
    # Conditional jumps reach 255 instructions, the unconditional one reaches everything.
    return [(JGE, 0, 1, ranges[middle][0]), (JUMP, 0, 0, len(low)), *low, *high]


def _leaf(rule: Rule) -> list[Instruction]:
    condition = rule.condition
    if condition is None:
        return [(RETURN, 0, 0, rule.action)]
    jump = JSET if condition.test == "no_bits_of" else JEQ
    hit, miss = rule.action, condition.otherwise
    if condition.test != "one_of":
        hit, miss = miss, hit
    count = len(condition.values)
    tests: list[Instruction] = [
        (jump, count - index, 0, value) for index, value in enumerate(condition.values)
    ]
    load = (LOAD, 0, 0, _ARGUMENTS + 8 * condition.argument)
    return [load, *tests, (RETURN, 0, 0, miss), (RETURN, 0, 0, hit)]


def verdict(rules: dict[str, Rule], name: str, arguments: Iterable[int] = ()) -> int:
    """What the policy says about one call, without BPF: the reference that the compiled program is checked
    against."""
    rule = rules.get(name, DEFAULT)
    if rule.condition is None:
        return rule.action
    value = [*arguments][rule.condition.argument] & 0xFFFFFFFF
    values = rule.condition.values
    holds = {
        "one_of": value in values,
        "none_of": value not in values,
        "no_bits_of": not any(value & bits for bits in values),
    }[rule.condition.test]
    return rule.action if holds else rule.condition.otherwise
