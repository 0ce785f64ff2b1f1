"""Seals everything anew after the installation's key was replaced. It knows no people and no sessions: only what is sealed, and for whom.

First all is opened, and when something does not open nothing is changed. Then rows are written in small transactions, each one only if it
still is what was read. Killed at any line, some rows have the new key and some the old one: the next run goes on with these.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from ai.backend.common.errors import BackendError, Fault

from ..account.service import ssh_context
from ..db.database import Database
from ..login.service import totp_context
from ..secret import FileSecrets, SecretUnreadable
from . import store
from .store import Place

BATCH = 200
NAMED_MAX = 10

CONTEXTS: Mapping[Place, Callable[[Any], str]] = {
    store.SECRET_KEYS: str,
    store.SSH_KEYS: ssh_context,
    store.TOTP_KEYS: totp_context,
}
"""For whom each of them is sealed."""


class KeyMissing(BackendError):
    """Something sealed opens with none of the keys at hand."""

    code = "secret.key-missing"
    fault = Fault.USER


@dataclass(frozen=True, slots=True, kw_only=True)
class Resealed:
    """How many rows were sealed anew, and how many had the newest key already."""

    resealed: int
    already: int


class Rotation:
    """`secrets`: with the newest key in front, which seals, and all older ones that may be needed."""

    def __init__(self, database: Database, secrets: FileSecrets) -> None:
        self._database = database
        self._secrets = secrets

    async def reseal(self) -> Resealed:
        """Afterwards everything opens with the newest key alone. Any number of times. Raises KeyMissing; then nothing was changed."""
        await self._check()
        resealed = already = 0
        for place, context in CONTEXTS.items():
            async for rows in self._pages(place):
                old = [(key, sealed) for key, sealed in rows if not self._secrets.is_newest(sealed)]
                already += len(rows) - len(old)
                resealed += await self._write(place, context, old)
        return Resealed(resealed=resealed, already=already)

    async def _pages(self, place: Place) -> AsyncIterator[list[tuple[Any, bytes]]]:
        after: Any = None
        while rows := await self._database.read(partial(store.page, place=place, after=after, limit=BATCH)):
            after = rows[-1][0]
            yield rows

    async def _check(self) -> None:
        total, unreadable = 0, []
        for place, context in CONTEXTS.items():
            async for rows in self._pages(place):
                total += len(rows)
                for key, sealed in rows:
                    try:
                        self._secrets.unseal(sealed, context=context(key))
                    except SecretUnreadable:
                        unreadable.append(f"{place.name} of {key}")
        if unreadable:
            more = ", ..." if len(unreadable) > NAMED_MAX else ""
            raise KeyMissing(
                f"{len(unreadable)} of {total} sealed secrets open with none of these keys: "
                f"{', '.join(unreadable[:NAMED_MAX])}{more}. Nothing was changed.",
                hint="Name the key file that they were sealed with as an old one too.",
                count=len(unreadable),
                total=total,
            )

    async def _write(self, place: Place, context: Callable[[Any], str], rows: list[tuple[Any, bytes]]) -> int:
        if not rows:
            return 0
        changes = []
        for key, sealed in rows:
            plain = self._secrets.unseal(sealed, context=context(key))
            changes.append((key, sealed, self._secrets.seal(plain, context=context(key))))

        def op(conn: sa.Connection) -> int:
            return store.replace(conn, place, changes)

        return await self._database.run(op)
