"""`admin scheduler simulate`: reads a file of workloads, and shows where they would start. What a row says is checked here as far as its
form goes, so that the line can be named; what the cluster knows of is checked by the cluster."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .command import State, command, drive

if TYPE_CHECKING:
    from ai.backend.common.wire.rest.scheduler import DryAgent, DryRefused, DryResult, DryWorkload

NUMBERS = ("kernels", "count", "priority")
TEXTS = ("name", "image", "architecture")
TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
BYTES_MAX = 8 << 20


class Row(NamedTuple):
    where: str
    """"line 3", or "workload 3"."""
    workload: "DryWorkload"


def _content(path: Path) -> str:
    """Raises click.BadParameter."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise click.BadParameter(f"{path} has more than {BYTES_MAX >> 20} MiB")
        return path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise click.BadParameter(f"{path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise click.BadParameter(f"{path} is no text in UTF-8") from exc


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        place = f", line {exc.lineno}" if isinstance(exc, json.JSONDecodeError) else ""
        raise click.BadParameter(f"{path}{place}: this is no JSON") from exc


def workloads_of(path: Path) -> tuple[list[Row], str | None]:
    """The workloads of a file, and the resource group that it names. Raises click.BadParameter, which says where."""
    text = _content(path)
    if path.suffix.lower() != ".json" and not text.lstrip().startswith(("{", "[")):
        return _csv(path, text), None
    given = _json(path, text)
    if isinstance(given, list):
        given = {"workloads": given}
    items = given.get("workloads") if isinstance(given, dict) else None
    group = given.get("resource_group") if isinstance(given, dict) else None
    if not isinstance(items, list) or not (group is None or isinstance(group, str)):
        raise click.BadParameter(
            f'{path}: write a list of workloads, or {{"resource_group": NAME, "workloads": [...]}}'
        )
    return [_row(path, f"workload {number}", item) for number, item in enumerate(items, 1)], group


def _row(path: Path, where: str, item: Any) -> Row:
    import msgspec

    from ai.backend.common.errors import InvalidInput
    from ai.backend.common.quantity import parse_slots
    from ai.backend.common.wire.rest.scheduler import DryWorkload

    try:
        made = msgspec.convert(item, DryWorkload)
        parse_slots(made.slots)
    except msgspec.ValidationError as exc:
        raise click.BadParameter(f"{path}, {where}: {exc}") from exc
    except InvalidInput as exc:
        raise click.BadParameter(f"{path}, {where}: {exc.message}. {exc.hint}") from exc
    return Row(where, made)


def _csv(path: Path, text: str) -> list[Row]:
    lines = csv.reader(text.splitlines())
    found: list[Row] = []
    try:
        head = [name.strip() for name in next(lines, [])]
        known = {*NUMBERS, *TEXTS, "single_node", "cpu", "mem"}
        for name in head:
            if (name not in known and "." not in name) or head.count(name) > 1:
                raise click.BadParameter(
                    f"{path}, line 1: no column {name!r}, or one twice. Columns: {', '.join(sorted(known))}, and slots such as cuda.device."
                )
        for cells in lines:
            where = f"line {lines.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(head):
                raise click.BadParameter(f"{path}, {where}: {len(cells)} cells, but {len(head)} columns")
            found.append(_row(path, where, _item(path, where, dict(zip(head, cells, strict=True)))))
    except csv.Error as exc:
        raise click.BadParameter(f"{path}, line {lines.line_num}: {exc}") from exc
    return found


def _item(path: Path, where: str, cells: dict[str, str]) -> dict[str, Any]:
    """A workload as JSON has it. Empty cells say nothing; memory without a unit is in MiB, as everywhere on this command line."""
    from .command import slot_amounts

    item: dict[str, Any] = {}
    slots: list[tuple[str, str]] = []
    for name, cell in cells.items():
        value = cell.strip()
        if not value:
            continue
        if name in TEXTS:
            item[name] = value
        elif name in NUMBERS:
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise click.BadParameter(f"{path}, {where}: {name} is a number, not {value[:40]!r}")
            item[name] = int(value)
        elif name == "single_node":
            if value.lower() not in TRUTHS:
                raise click.BadParameter(f"{path}, {where}: single_node is true or false, not {value[:40]!r}")
            item[name] = TRUTHS[value.lower()]
        else:
            slots.append((name, value))
    try:
        item["slots"] = slot_amounts(tuple(slots))
    except click.BadParameter as exc:
        raise click.BadParameter(f"{path}, {where}: {exc.message}") from exc
    return item


def agents_of(path: Path) -> "list[DryAgent]":
    """Raises click.BadParameter."""
    import msgspec

    from ai.backend.common.wire.rest.scheduler import DryAgent

    given = _json(path, _content(path))
    items = given.get("agents") if isinstance(given, dict) else given
    if not isinstance(items, list):
        raise click.BadParameter(f'{path}: write {{"agents": [{{"id": "a1", "slots": {{"cpu": 8}}}}]}}')
    found = []
    for number, item in enumerate(items, 1):
        try:
            found.append(msgspec.convert(item, DryAgent))
        except msgspec.ValidationError as exc:
            raise click.BadParameter(f"{path}, agent {number}: {exc}") from exc
    return found


@click.group("scheduler")
def scheduler() -> None:
    """What the scheduler would do."""


@command("simulate", parent=scheduler)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--sgroup", "resource_group", help="Resource group. [default: the file's, else default]")
@click.option(
    "--snapshot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Agents instead of the live cluster's.",
)
@click.pass_obj
def simulate(state: State, file: Path, resource_group: str | None, snapshot: Path | None) -> None:
    """Show where the workloads of FILE would start now, and why not. Nothing is started.

    FILE is CSV with a line of column names, or JSON with a list of objects with these names.

    \b
    cpu, mem, cuda.device, ...  amounts for each kernel; memory in CSV without
                                a unit is in MiB (in JSON: slots: {cpu: 1, mem: "1g"})
    name                        what it is called in the answer
    count                       how many such sessions [1]; at most 10,000 in all
    kernels                     containers of one session [1]
    single_node                 whether they share a node [true]
    image                       [any]      architecture  [x86_64]
    priority                    0 to 100 [10]

    Without --snapshot they stand in the queue behind the sessions that really wait. A snapshot is JSON:
    {"agents": [{"id": "a1", "slots": {"cpu": 8, "mem": "32g"}, "occupied": {}, "architecture": "x86_64",
    "images": ["NAME", ...], "schedulable": true}]}; only id and slots are needed.
    """
    from ai.backend.client.error import ApiError

    from .display import print_json

    rows, named = workloads_of(file)
    agents = None if snapshot is None else agents_of(snapshot)
    group = resource_group or named or "default"
    try:
        found = drive(
            state,
            lambda api: api.settings.dry_run(
                [row.workload for row in rows], resource_group=group, agents=agents
            ),
        )
    except ApiError as exc:
        number = exc.data.get("workload") if isinstance(exc.data, dict) else None
        if isinstance(number, int) and 0 <= number < len(rows):
            exc.message = f"{file}, {rows[number].where}: {exc.message}"
        raise
    if state.json:
        print_json(found)
        return
    _show(rows, found)


def _show(rows: list[Row], found: "DryResult") -> None:
    from .display import print_table, remark

    where: dict[str, Counter[str]] = {}
    starts: Counter[str] = Counter()
    waits: Counter[str] = Counter()
    first: dict[str, DryRefused] = {}
    for placed in found.placements:
        starts[placed.name] += 1
        where.setdefault(placed.name, Counter()).update(placed.agents)
    for refused in found.refusals:
        waits[refused.name] += 1
        first.setdefault(refused.name, refused)
    table = []
    for name in dict.fromkeys(row.workload.name for row in rows):
        used = where.get(name, Counter()).most_common(4)
        shown = ", ".join(f"{agent} ({count})" for agent, count in used[:3]) + (
            ", ..." if len(used) > 3 else ""
        )
        why = first.get(name)
        table.append((name, starts[name], waits[name], shown, why.rule if why else ""))
    print_table(("WORKLOAD", "START", "WAIT", "KERNELS ON", "FIRST REFUSED BY"), table, empty="No workloads.")
    for name, one in first.items():
        when = f" Estimated: {one.estimated_start}." if one.estimated_start else ""
        click.echo(f"{name}: {one.message} {one.hint}{when}")
    remark(f"{found.agents} agents; {found.waiting} sessions really wait in that queue. Nothing was started.")
