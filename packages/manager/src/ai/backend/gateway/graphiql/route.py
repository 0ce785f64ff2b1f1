"""GraphiQL for administrators: a page to write GraphQL queries in, served from our own files alone.

A browser signs nothing, so the page is of session mode: at `/func/admin/graphiql` it uses the web session's cookie, and posts to
`/func/admin/gql` beside it, where the same rules hold as for every call by cookie (`web.from_our_pages`). Whoever is not logged in, or
not as an administrator, gets a page to log in, with the refusal's status. The files hold no secret and are open to anybody.

It must never know a query, a password or what the schema says: all of that happens in the browser.
"""

import secrets
from functools import cache
from pathlib import Path
from typing import Any

from litestar import Request, Response, get
from litestar.types import ControllerRouterHandler

from ai.backend.common.errors import Forbidden, NotFound, NotPrivileged, Unauthenticated
from ai.backend.manager.access.policy import Action, demand

from ..auth import principal_of
from ..call import AnyRequest
from ..decode import prefers_html
from ..openapi import Operation
from ..problem import problem_of
from ..problem import respond as respond_problem

FOLDER = Path(__file__).parent
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css"}
FILES = {
    path.name: path
    for folder in (FOLDER, FOLDER / "vendor")
    for path in folder.iterdir()
    if path.suffix in MEDIA_TYPES
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' {nonce}; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing of another host, and no script or style but from a file; the editor's dialogs add one style, which needs the nonce. Small
pictures of the editor are in its style sheet."""
NONCE = b"NONCE"


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


def _page(name: str, status: int = 200) -> Response[bytes]:
    nonce = secrets.token_urlsafe(16)
    content = _content(FOLDER / name).replace(NONCE, nonce.encode())
    headers = {
        "Content-Security-Policy": POLICY.format(nonce=f"'nonce-{nonce}'"),
        "Referrer-Policy": "no-referrer",
        "Vary": "Accept, Cookie",
    }
    return Response(content, status_code=status, media_type="text/html", headers=headers)


def _respond(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The page to log in, where a person looks at it; else a problem as always."""
    if not prefers_html(request.headers.get("accept", "")):
        return respond_problem(request, error)
    status, _ = problem_of(error)
    return _page("login.html", status)


@get(
    "/admin/graphiql",
    exception_handlers={Unauthenticated: _respond, NotPrivileged: _respond, Forbidden: _respond},
    opt={
        "operation": Operation(
            summary="GraphiQL, for administrators",
            description="A page for browsers, at `/func/admin/graphiql`: it uses the web session of `/server/login`, and asks to log in "
            "without one.",
            tag="admin",
            media_type="text/html",
            reply=str,
        )
    },
)
async def get_graphiql(request: AnyRequest) -> Response[bytes]:
    demand(principal_of(request), Action.CONSOLE_USE)
    return _page("page.html")


@get(
    "/admin/graphiql/{file_name:str}",
    opt={
        "operation": Operation(
            summary="A file of GraphiQL",
            tag="admin",
            media_type="text/plain",
            reply=str,
            anonymous=True,
            refusals=(404,),
        )
    },
)
async def get_graphiql_file(request: AnyRequest) -> Response[bytes]:
    file_name = request.path_params["file_name"]
    path = FILES.get(file_name)
    if path is None:
        raise NotFound(f"GraphiQL has no file {file_name[:64]!r}")
    return Response(_content(path), media_type=MEDIA_TYPES[path.suffix])


ROUTES: tuple[ControllerRouterHandler, ...] = (get_graphiql, get_graphiql_file)
