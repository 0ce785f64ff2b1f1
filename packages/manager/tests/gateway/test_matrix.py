"""Who may do what: every route and every root of GraphQL, by every kind of person, and what each of them learns by trying.

The tables (`matrix_table`) say it in words; the requests are real and signed. A route or a root that has no line fails, so that nobody
can add one without deciding. Wherever somebody gets nothing, the same is asked of a thing that does not exist: both answers must be the
same.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import pytest_asyncio
import sqlalchemy as sa
from graphql import (
    GraphQLField,
    GraphQLObjectType,
    get_named_type,
    is_interface_type,
    is_leaf_type,
    is_object_type,
    is_required_argument,
)

from ai.backend.common.wire import rpc
from ai.backend.common.wire.rest.form import OwnedForm
from ai.backend.gateway.app import ROUTES
from ai.backend.gateway.graphql.route import schema
from ai.backend.gateway.openapi import operation_of
from ai.backend.manager.db import schema as t

from .inprocess import Answer, without
from .matrix_table import ACCESS, ACTING, AGENT, FOUND, REST, ROOTS, Line, Root
from .matrix_world import (
    PEOPLE,
    TOKEN,
    World,
    open_world,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Built once; whatever a request writes is undone after it."""
    made = await open_world(tmp_path_factory.mktemp("matrix"))
    yield made
    told = ", ".join(f"{number} {what}" for what, number in sorted(made.cells.items()))
    print(f"\nauthorisation matrix: {told}")


def decided(access: str) -> dict[str, str]:
    return dict(zip(PEOPLE, access.split(), strict=True))


# -- what is asked ------------------------------------------------------------------------------------------------------------


async def ask(world: World, line: Line, person: str, *, ghost: bool = False) -> Answer:
    key = None if person == "anonymous" else person
    path, _, query = world.filled(line.path, person, ghost=ghost).partition("?")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    encoded = "&".join(f"{name}={quote(value)}" for name, _, value in pairs)
    target = quote(path) + (f"?{encoded}" if encoded else "")
    body = world.filled(line.body, person, ghost=ghost)
    world.gateway.restore()
    if line.upload:
        form = (
            b'--B\r\nContent-Disposition: form-data; name="src"; filename="a"\r\n'
            b"Content-Type: text/plain\r\n\r\nhello\r\n--B--\r\n"
        )
        kind = "multipart/form-data; boundary=B"
        return await world.gateway.call(line.method, target, key=key, body=form, content_type=kind)
    if line.method == "WS":
        return await world.gateway.call("WS", target, key=key, body=msgspec.json.encode(body or {}))
    return await world.gateway.call(line.method, target, body, key=key)


def told_code(answer: Answer) -> str:
    """The error code of a refusal, in whatever form it came."""
    if answer.status == 101:
        return next((frame["error_code"] for frame in answer.frames if "error_code" in frame), "")
    if answer.status < 400:
        return ""
    return str(answer.json["error_code"])


def outcome(world: World, line: Line, person: str, answer: Answer) -> str:
    """A, R, H, E, or what was answered instead."""
    code = told_code(answer)
    if answer.status in (401, 403) or code.startswith("access."):
        return "R"
    if answer.status == 404 and not line.ok.endswith("not-found"):
        return "H"
    asked_agent = bool(world.gateway.bus.asked)
    if line.ok == AGENT:
        # A stream may have been accepted before the agent was asked; its last frame says why it closed.
        reached = answer.status == 101 if line.method == "WS" else code == AGENT
        return "A" if reached and asked_agent else f"{answer.status} {code} {answer.frames}"
    if code != line.ok or (not code and not 200 <= answer.status < 300):
        return f"{answer.status} {answer.body.decode()[:300]}"
    shows = world.filled(line.shows, person)
    return "A" if shows in answer.body.decode() else "E"


def check_secrets(world: World, person: str, answer: Answer, *, tells: bool = False) -> None:
    """Nobody but the owner and a superadministrator ever sees the owner's secret key or the token of a resource group."""
    text = answer.body.decode()
    if person not in ("owner", "superadmin") and not tells:
        assert world.gateway.keys["owner"][1] not in text, f"{person} sees the owner's secret key"
    if person != "superadmin":
        assert TOKEN not in text, f"{person} sees the token of the app proxy"
    assert "$argon2" not in text, "a password's hash"


async def check_line(world: World, line: Line, expected: dict[str, str], kind: str) -> None:
    wrong = []
    for person, letter in expected.items():
        answer = await ask(world, line, person)
        found = outcome(world, line, person, answer)
        world.cells[f"cells of {kind}"] += 1
        if found != FOUND.get(letter, letter):
            wrong.append(f"{person}: {found}, not {letter}")
        if found != "A":
            assert not world.gateway.bus.asked, f"{person}: the agent was asked"
        check_secrets(world, person, answer, tells=line.tells_secret)
        if letter in "RHE" and world.names_a_thing((line.path, line.body)):
            ghost = await ask(world, line, person, ghost=True)
            world.cells["comparisons with what does not exist"] += 1
            if world.blurred(ghost) != world.blurred(answer):
                wrong.append(
                    f"{person} learns: {world.blurred(answer)}, but of nothing {world.blurred(ghost)}"
                )
    assert not wrong, f"{line.key}\n" + "\n".join(wrong)


@pytest.mark.parametrize("line", REST, ids=lambda line: f"{line.method} {line.path}")
async def test_rest(world: World, line: Line) -> None:
    await check_line(world, line, decided(ACCESS[line.access]), "REST")


def owned() -> Iterator[Line]:
    """Lines of calls that may be made for somebody else, made for the owner."""
    forms = {key: operation.form for key, operation in described().items()}
    for line in REST:
        form = forms.get(line.key)
        if form is not None and issubclass(form, OwnedForm):
            path = line.path + ("&" if "?" in line.path else "?") + "owner_access_key={access key}"
            yield replace(line, path=path)


def described() -> dict[str, Any]:
    """Every route by method and path."""
    found = {}
    for route in ROUTES:
        handler: Any = route
        for method in sorted(getattr(handler, "http_methods", ["WS"])):
            for path in handler.paths:
                plain = re.sub(r"{(\w+):\w+}", r"{\1}", path)
                names = {
                    "log_id": "error log",
                    "file_name": "graphiql file",
                    "template_id": _TEMPLATE_WORDS.get(path.rpartition("/")[0], ""),
                }
                for parameter, word in names.items():
                    plain = plain.replace("{" + parameter + "}", "{" + word + "}")
                found[f"{method} {plain}"] = operation_of(handler)
    return found


_TEMPLATE_WORDS = {"/template/session": "template", "/template/cluster": "cluster template"}


@pytest.mark.parametrize("line", list(owned()), ids=lambda line: f"{line.method} {line.path}")
async def test_acting_for_the_owner(world: World, line: Line) -> None:
    """Whoever may not be the owner does not learn whether there is such a key. A superadministrator does: nothing is hidden there."""
    # What is each person's own becomes the owner's.
    own = {**world.own, **dict.fromkeys(PEOPLE, world.own["owner"])}
    as_owner = decided(ACCESS[line.access])["owner"]
    expected = {person: as_owner if letter == "o" else letter for person, letter in decided(ACTING).items()}
    if as_owner in "SHE":
        expected |= {person: "S" for person, letter in expected.items() if letter == as_owner}
    await check_line(replace(world, own=own), line, expected, "acting for somebody else")


# -- GraphQL ------------------------------------------------------------------------------------------------------------------

CORE = schema._schema
assert CORE.query_type is not None
assert CORE.mutation_type is not None
ROOT_FIELDS: dict[str, GraphQLField] = {**CORE.query_type.fields, **CORE.mutation_type.fields}


def selection(kind: GraphQLObjectType, depth: int = 3) -> str:
    """All fields without arguments that must be given, some levels deep."""
    parts = []
    for name, inner in kind.fields.items():
        if any(map(is_required_argument, inner.args.values())):
            continue
        named = get_named_type(inner.type)
        if is_leaf_type(named):
            parts.append(name)
        elif depth and isinstance(named, GraphQLObjectType):
            parts.append(f"{name} {selection(named, depth - 1)}")
    return "{ " + " ".join(parts or ["__typename"]) + " }"


def aliased(kind: GraphQLObjectType) -> str:
    """Its plain fields, under names that no other type's have."""
    names = [name for name, one in kind.fields.items() if is_leaf_type(get_named_type(one.type))]
    return " ".join(f"{kind.name}_{name}: {name}" for name in names)


def text_of(root: Root) -> str:
    asked = ROOT_FIELDS[root.name]
    assert set(root.args) <= set(asked.args), root.name
    needed = {name for name, one in asked.args.items() if is_required_argument(one)}
    assert needed <= set(root.args), f"{root.name} needs {needed}"
    variables = ", ".join(f"${name}: {asked.args[name].type}" for name in root.args)
    arguments = ", ".join(f"{name}: ${name}" for name in root.args)
    named = get_named_type(asked.type)
    depth = 3 if root.name.endswith("_nodes") else 1 if root.name.endswith(("_list", "s")) else 2
    chosen = selection(named, depth) if is_object_type(named) else ""
    if is_interface_type(named):
        kinds = CORE.get_possible_types(named)
        chosen = "{ " + " ".join(f"... on {kind.name} {{ {aliased(kind)} }}" for kind in kinds) + " }"
    assert CORE.mutation_type is not None
    verb = "mutation" if root.name in CORE.mutation_type.fields else "query"
    return (
        f"{verb}{f'({variables})' if variables else ''} "
        f"{{ it: {root.name}{f'({arguments})' if arguments else ''} {chosen} }}"
    )


async def ask_root(world: World, root: Root, person: str, *, ghost: bool = False) -> Answer:
    body = {"query": text_of(root), "variables": world.filled(root.args, person, ghost=ghost)}
    world.gateway.restore()
    key = None if person == "anonymous" else person
    return await world.gateway.call("POST", "/admin/gql", body, key=key)


def root_outcome(world: World, root: Root, person: str, answer: Answer) -> str:
    if answer.status in (401, 403):
        return "R"
    assert answer.status == 200, answer.body
    for error in answer.json.get("errors", ()):
        code = error.get("extensions", {}).get("code", "")
        return "R" if code.startswith("access.") else "H" if code.endswith("not-found") else str(error)
    found = answer.json["data"]["it"]
    if (
        found is None
        or found == []
        or (isinstance(found, dict) and [] in (found.get("items"), found.get("edges")))
    ):
        return "E"
    if isinstance(found, dict) and "ok" in found and not found["ok"]:
        message = str(found["msg"])
        if message == f"no permission to execute {root.name}":
            return "R"
        return "H" if message.startswith("no ") else message
    text = json.dumps(without(answer.json, ["it"])) if not root.shows else answer.body.decode()
    return "A" if world.filled(root.shows, person) in text else "E"


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: f"{root.name} {sorted(root.args)}")
async def test_graphql(world: World, root: Root) -> None:
    wrong = []
    for person, letter in decided(ACCESS[root.access]).items():
        answer = await ask_root(world, root, person)
        found = root_outcome(world, root, person, answer)
        world.cells["cells of GraphQL"] += 1
        if found != FOUND.get(letter, letter):
            wrong.append(f"{person}: {found}, not {letter}")
        check_secrets(world, person, answer)
        if letter in "RHE" and world.names_a_thing(root.args):
            ghost = await ask_root(world, root, person, ghost=True)
            world.cells["comparisons with what does not exist"] += 1
            if world.blurred(ghost) != world.blurred(answer):
                wrong.append(
                    f"{person} learns: {world.blurred(answer)}, but of nothing {world.blurred(ghost)}"
                )
    assert not wrong, f"{root.name} {root.args}\n" + "\n".join(wrong)


async def test_a_role_that_is_lost_is_lost_at_once(world: World) -> None:
    """Where a session runs is remembered for the next call; that its caller was allowed to reach it must not be."""
    gateway = world.gateway
    gateway.restore()
    gateway.bus.reply = rpc.Done()
    try:
        target = world.filled("/session/{session}/interrupt", "domain admin")
        assert (await gateway.call("POST", target, key="domain admin")).status == 204
        await gateway.database.run(
            lambda conn: conn.execute(
                sa.update(t.users).where(t.users.c.username == "the-domain-admin").values(role="user")
            ).close()
        )
        gateway.identity.forget()
        assert (await gateway.call("POST", target, key="domain admin")).status == 404
        assert len(gateway.bus.asked) == 1
    finally:
        gateway.bus.reply = None


# -- that nothing is missing --------------------------------------------------------------------------------------------------


async def test_every_route_is_decided() -> None:
    routes, lines = set(described()), {line.key for line in REST}
    assert not sorted(routes - lines), "routes without a line in REST: decide who may use them"
    assert not sorted(lines - routes), "lines of no route"


async def test_every_root_is_decided() -> None:
    roots = {root.name for root in ROOTS}
    assert not sorted(set(ROOT_FIELDS) - roots), "roots without a line in ROOTS: decide who may ask for them"
    assert not sorted(roots - set(ROOT_FIELDS)), "lines of no root"


async def test_only_what_is_meant_to_be_is_anonymous() -> None:
    decided_public = {line.key for line in REST if line.access in ("public", "off")}
    assert {key for key, operation in described().items() if operation.anonymous} == decided_public
