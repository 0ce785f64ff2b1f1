"""Rows of dotfiles and of bootstrap scripts."""

import sqlalchemy as sa

from ai.backend.common.ids import AccessKey, ProjectId

from ..db.schema import dotfiles, keypairs
from ..db.statement import update_row
from ..db.upsert import upsert
from .model import Dotfile, Owner, Scope

_OF_OWNER = (
    sa.select(dotfiles)
    .where(dotfiles.c.scope == sa.bindparam("scope"), dotfiles.c.owner == sa.bindparam("owner"))
    .order_by(dotfiles.c.path)
)
# Two columns together, so that the primary key's index finds them: for owners who have none, it costs three looks into it.
_OF_SESSION = sa.select(dotfiles).where(
    sa.or_(
        *(
            sa.and_(
                dotfiles.c.scope == sa.literal_column(f"'{scope}'"), dotfiles.c.owner == sa.bindparam(scope)
            )
            for scope in ("user", "project", "domain")
        )
    )
)
_SCRIPT = sa.select(keypairs.c.bootstrap_script).where(keypairs.c.access_key == sa.bindparam("access_key"))


def of_owner(conn: sa.Connection, owner: Owner) -> list[Dotfile]:
    found = conn.execute(_OF_OWNER, {"scope": owner.scope.value, "owner": owner.key})
    return [Dotfile(path=row.path, permission=row.permission, data=row.data) for row in found]


def for_session(
    conn: sa.Connection, access_key: AccessKey, project_id: ProjectId, domain_name: str
) -> list[tuple[Scope, Dotfile]]:
    """Those of the keypair, the project and the domain."""
    owners = {"user": access_key, "project": str(project_id), "domain": domain_name}
    return [
        (Scope(row.scope), Dotfile(path=row.path, permission=row.permission, data=row.data))
        for row in conn.execute(_OF_SESSION, owners)
    ]


def put(conn: sa.Connection, owner: Owner, file: Dotfile) -> None:
    row = {
        "scope": owner.scope.value,
        "owner": owner.key,
        "path": file.path,
        "permission": file.permission,
        "data": file.data,
    }
    upsert(conn, dotfiles, row, key=("scope", "owner", "path"), update=("permission", "data"))


def delete(conn: sa.Connection, owner: Owner, path: str) -> bool:
    done = conn.execute(
        sa.delete(dotfiles).where(
            dotfiles.c.scope == owner.scope.value, dotfiles.c.owner == owner.key, dotfiles.c.path == path
        )
    )
    return done.rowcount == 1


def script(conn: sa.Connection, access_key: AccessKey) -> str:
    return conn.execute(_SCRIPT, {"access_key": access_key}).scalar_one_or_none() or ""


def set_script(conn: sa.Connection, access_key: AccessKey, text: str) -> None:
    update_row(conn, keypairs, {"access_key": access_key}, {"bootstrap_script": text})
