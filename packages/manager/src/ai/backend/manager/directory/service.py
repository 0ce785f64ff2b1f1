"""What administrators do to the directory, and what everybody may look up in it. Each change is checked whole before it is written."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa

from ai.backend.common.clock import Clock
from ai.backend.common.errors import Conflict, Forbidden, InvalidInput, NotFound, UserNotFound
from ai.backend.common.ids import ProjectId, Random, UserId, new_uuid
from ai.backend.scheduler.queue import QUEUES

from ..access.model import Principal, Role
from ..access.policy import Action, Reach, administered, may, reach
from ..audit import store as audit_store
from ..audit.model import note
from ..db import schema as t
from ..db.database import Database, UniqueViolation
from ..db.statement import update_row
from ..identity.model import UserDraft
from ..identity.policy import check_password
from ..identity.service import IdentityService
from . import model, policy, store
from .reader import DirectoryReader

V = TypeVar("V")
Given = Mapping[str, Any]
LIVE = "It still has live sessions: end them first."


class Directory(DirectoryReader):
    def __init__(
        self,
        database: Database,
        clock: Clock,
        rng: Random,
        identity: IdentityService,
        *,
        wake: Callable[[], None] = lambda: None,
        queues: Collection[str] = QUEUES,
    ) -> None:
        """`wake`: where sessions may be placed has changed. `queues`: those that there are."""
        super().__init__(database, identity)
        self._clock = clock
        self._rng = rng
        self._wake = wake
        self._queues = queues

    # -- writing -------------------------------------------------------------------------------------------------------------

    async def _write(
        self, by: Principal, action: str, target: object, op: Callable[[sa.Connection, datetime], V]
    ) -> V:
        """One transaction, with its note in the audit log; afterwards whatever is remembered of identities is looked up anew."""
        now = self._clock.now()
        told = note(by, action, str(target), now)

        def noted(conn: sa.Connection) -> V:
            done = op(conn, now)
            audit_store.write(conn, told)
            return done

        try:
            return await self._database.run(noted)
        except UniqueViolation as exc:
            raise Conflict(
                "one of that name exists already", hint="Choose another name.", constraint=exc.constraint
            ) from exc
        finally:
            self._identity.forget()
            self._wake()  # whoever waits for a limit may be let go by now

    @staticmethod
    def _refer(conn: sa.Connection, values: Given) -> None:
        """Foreign names exist. Raises InvalidInput."""
        tables = {
            "domain_name": t.domains.c.name,
            "resource_group": t.resource_groups.c.name,
        }
        for column, key in tables.items():
            if column in values and conn.execute(sa.select(key).where(key == values[column])).first() is None:
                raise InvalidInput(f"no {column.replace('_', ' ')} {values[column]!r}", field=column)

    @staticmethod
    def _policy_exists(conn: sa.Connection, table: sa.Table, values: Given) -> None:
        name = values.get("policy_name")
        if (
            name is not None
            and conn.execute(sa.select(table.c.name).where(table.c.name == name)).first() is None
        ):
            raise InvalidInput(f"no resource policy {name!r}", field="resource_policy")

    async def _insert_named(self, by: Principal, table: sa.Table, name: str, values: dict[str, Any]) -> None:
        policy.check_name(name)
        await self._write(
            by,
            f"{table.name}:create",
            name,
            lambda conn, now: conn.execute(
                sa.insert(table).values(name=name, created_at=now, **values)
            ).close(),
        )

    async def _update_named(
        self,
        by: Principal,
        table: sa.Table,
        name: str,
        values: dict[str, Any],
        what: str,
        *,
        then: Callable[[sa.Connection], None] = lambda _conn: None,
    ) -> None:
        """`then` is done in the same transaction: all of it happens, or nothing."""

        def op(conn: sa.Connection, now: datetime) -> None:
            known = conn.execute(sa.select(table.c.name).where(table.c.name == name)).first()
            if known is None:
                raise NotFound(f"no {what} {name[:64]!r}")
            stamped = {**values, "modified_at": now} if "modified_at" in table.c and values else values
            if stamped:
                update_row(conn, table, {"name": name}, stamped)
            then(conn)

        await self._write(by, f"{table.name}:modify", name, op)

    async def _delete_named(
        self, by: Principal, table: sa.Table, name: str, what: str, used: Mapping[str, sa.Column[Any]]
    ) -> None:
        def op(conn: sa.Connection, _now: datetime) -> None:
            for users, column in used.items():
                number = store.count(conn, column.table, column == name)
                if number:
                    raise Conflict(
                        f"the {what} {name!r} is used by {number} {users}", hint="Change these first."
                    )
            if conn.execute(sa.delete(table).where(table.c.name == name)).rowcount == 0:
                raise NotFound(f"no {what} {name[:64]!r}")

        await self._write(by, f"{table.name}:delete", name, op)

    # Domains.

    async def create_domain(self, principal: Principal, name: str, given: Given) -> None:
        self._only_all(principal, Action.DOMAIN_WRITE)
        await self._insert_named(principal, t.domains, name, policy.changes(policy.DOMAIN, given))

    async def modify_domain(self, principal: Principal, name: str, given: Given) -> None:
        self._only_all(principal, Action.DOMAIN_WRITE)
        values, renamed = policy.changes(policy.DOMAIN, given), given.get("name")
        if renamed in (None, name):
            await self._update_named(principal, t.domains, name, values, "domain")
            return
        new_name = policy.check_name(str(renamed))
        await self._update_named(
            principal,
            t.domains,
            name,
            values,
            "domain",
            then=lambda conn: store.rename_domain(conn, name, new_name),
        )

    async def delete_domain(self, principal: Principal, name: str) -> None:
        """Closes it: what it has stays."""
        self._only_all(principal, Action.DOMAIN_WRITE)
        await self._update_named(principal, t.domains, name, {"is_active": False}, "domain")

    async def purge_domain(self, principal: Principal, name: str) -> None:
        self._only_all(principal, Action.DOMAIN_WRITE)

        def op(conn: sa.Connection, _now: datetime) -> None:
            for what, table in (("users", t.users), ("projects", t.projects)):
                number = store.count(conn, table, table.c.domain_name == name)
                if number:
                    raise Conflict(
                        f"the domain {name!r} still has {number} {what}", hint=f"Purge its {what} first."
                    )
            conn.execute(
                sa.delete(t.dotfiles).where(t.dotfiles.c.scope == "domain", t.dotfiles.c.owner == name)
            )
            if conn.execute(sa.delete(t.domains).where(t.domains.c.name == name)).rowcount == 0:
                raise NotFound(f"no domain {name[:64]!r}")

        await self._write(principal, "domain:purge", name, op)

    # Projects.

    def _may_change_project(
        self, principal: Principal, action: Action, domain_name: str, project_id: UUID | None = None
    ) -> None:
        if not may(principal, action, domain_name=domain_name, project_id=project_id):
            raise Forbidden("only administrators of its domain may change that of a project")

    @staticmethod
    def _refuse_others(principal: Principal, action: Action) -> None:
        """Whoever may do this to no project at all does not learn which ones there are."""
        if reach(principal, action) is Reach.NOTHING and not administered(principal, action):
            raise Forbidden("only administrators may change a project")

    async def create_project(self, principal: Principal, name: str, given: Given) -> UUID:
        domain_name = str(given.get("domain_name") or principal.domain_name)
        self._may_change_project(principal, Action.PROJECT_WRITE, domain_name)
        values = policy.changes(policy.PROJECT, {**given, "name": name}) | {"domain_name": domain_name}
        project_id = new_uuid(self._rng)

        def op(conn: sa.Connection, now: datetime) -> None:
            self._refer(conn, values)
            self._policy_exists(conn, t.project_policies, values)
            conn.execute(sa.insert(t.projects).values(id=project_id, created_at=now, **values))

        await self._write(principal, "project:create", name, op)
        return project_id

    def _project(
        self, conn: sa.Connection, principal: Principal, project_id: UUID, action: Action
    ) -> model.Project:
        found = store.projects.one(conn, *store.visible_projects(principal), t.projects.c.id == project_id)
        if found is None:
            raise NotFound(f"no project {project_id}")
        self._may_change_project(principal, action, found.domain_name, project_id)
        return found

    async def modify_project(self, principal: Principal, project_id: UUID, given: Given) -> None:
        """`user_update_mode` "add" or "remove" with `user_uuids` changes its members; with `as_admin`, who of them administers it:
        removed from that, they stay members."""
        action = Action.PROJECT_MANAGE if policy.is_managing(given) else Action.PROJECT_WRITE
        self._refuse_others(principal, action)
        values = policy.changes(policy.PROJECT, given)
        mode, members = given.get("user_update_mode"), list(given.get("user_uuids") or ())
        if mode not in (None, "add", "remove"):
            raise InvalidInput("user_update_mode is add or remove", field="user_update_mode")
        as_admin = bool(given.get("as_admin"))
        if as_admin and mode is None:
            raise InvalidInput("as_admin says how user_update_mode is meant", field="user_update_mode")
        try:
            member_ids = {UUID(str(one)) for one in members}
        except ValueError:
            raise InvalidInput("user_uuids is a list of user ids", field="user_uuids") from None

        def op(conn: sa.Connection, now: datetime) -> None:
            project = self._project(conn, principal, project_id, action)
            self._policy_exists(conn, t.project_policies, values)
            if values:
                update_row(conn, t.projects, {"id": project_id}, {**values, "modified_at": now})
            if mode == "add":
                self._known_in(conn, project, member_ids)
                store.join(conn, project_id, member_ids, as_admin=as_admin)
            elif mode == "remove" and as_admin:
                store.set_admin(conn, project_id, member_ids, is_admin=False)
            elif mode == "remove":
                self._spare_administrators(conn, principal, project, member_ids)
                store.leave(conn, project_id, member_ids)

        await self._write(principal, "project:modify", project_id, op)

    @staticmethod
    def _spare_administrators(
        conn: sa.Connection, principal: Principal, project: model.Project, member_ids: set[UUID]
    ) -> None:
        """Administrators of a project do not depose each other. Raises Forbidden."""
        if may(principal, Action.PROJECT_WRITE, domain_name=project.domain_name):
            return
        if member_ids.intersection(store.administrators(conn, project.id)) - {principal.user_id}:
            raise Forbidden("only administrators of its domain may remove a project's administrators")

    @staticmethod
    def _known_in(conn: sa.Connection, project: model.Project, member_ids: set[UUID]) -> None:
        """Raises InvalidInput unless all are users of the project's domain."""
        known = set(
            conn.execute(
                sa.select(t.users.c.id).where(
                    t.users.c.id.in_(member_ids), t.users.c.domain_name == project.domain_name
                )
            ).scalars()
        )
        unknown = sorted(str(one) for one in member_ids - known)
        if unknown:
            raise InvalidInput(
                f"no users of the domain {project.domain_name!r}: {', '.join(unknown)}", field="user_uuids"
            )

    async def delete_project(self, principal: Principal, project_id: UUID) -> None:
        """Closes it: what it has stays."""
        await self.modify_project(principal, project_id, {"is_active": False})

    async def purge_project(self, principal: Principal, project_id: UUID) -> None:
        self._refuse_others(principal, Action.PROJECT_WRITE)

        def op(conn: sa.Connection, _now: datetime) -> None:
            self._project(conn, principal, project_id, Action.PROJECT_WRITE)
            theirs = t.sessions.c.project_id == project_id
            if store.live_sessions(conn, theirs):
                raise Conflict("the project has live sessions", hint=LIVE)
            store.purge_sessions(conn, theirs)
            conn.execute(
                sa.delete(t.dotfiles).where(
                    t.dotfiles.c.scope == "project", t.dotfiles.c.owner == str(project_id)
                )
            )
            conn.execute(sa.delete(t.projects).where(t.projects.c.id == project_id))

        await self._write(principal, "project:purge", project_id, op)

    # Users.

    async def create_user(self, principal: Principal, email: str, given: Given) -> model.Account:
        """With its first keypair. Raises InvalidInput, or Conflict for a taken e-mail or name."""
        self._only_all(principal, Action.USER_WRITE)
        values = policy.changes(
            policy.USER,
            {k: v for k, v in given.items() if k not in ("username", "role", "main_access_key")},
        )
        if given.get("is_active") is False:
            values["status"] = "inactive"
        role = policy.changes(policy.USER, {"role": given.get("role") or "user"})["role"]
        try:
            project_ids = tuple(ProjectId(UUID(str(one))) for one in given.get("group_ids") or ())
        except ValueError:
            raise InvalidInput("group_ids is a list of project ids", field="group_ids") from None
        draft = UserDraft(
            email=email,
            username=str(given.get("username") or email.partition("@")[0]),
            password=str(given.get("password") or ""),
            role=Role(role),
            domain_name=str(given.get("domain_name") or "default"),
            project_ids=project_ids,
        )
        told = note(principal, "user:create", email, self._clock.now())

        def also(conn: sa.Connection, user_id: UserId) -> None:
            self._policy_exists(conn, t.user_policies, values)
            if values:
                update_row(conn, t.users, {"id": user_id}, values)
            audit_store.write(conn, told)

        await self._identity.create_user(draft, also)
        return await self._account(email)

    async def modify_user(self, principal: Principal, email: str, given: Given) -> model.Account:
        self._only_all(principal, Action.USER_WRITE)
        values = policy.changes(policy.USER, given)
        if (active := given.get("is_active")) is not None and "status" not in values:
            values["status"] = "active" if active else "inactive"
        if given.get("domain_name") is not None:
            values["domain_name"] = str(given["domain_name"])
        if given.get("totp_activated") is False:
            values |= {"totp_activated_at": None, "totp_key_sealed": None}
        password = given.get("password")
        if password:
            refusal = check_password(str(password))
            if refusal is not None:
                raise refusal
            values["password_hash"] = await self._identity.hash_password(str(password))
        group_ids = given.get("group_ids")

        def op(conn: sa.Connection, now: datetime) -> None:
            user = store.users.one(conn, t.users.c.email == email)
            if user is None:
                raise UserNotFound(f"no user {email[:254]!r}")
            self._refer(conn, values)
            self._policy_exists(conn, t.user_policies, values)
            main = values.get("main_access_key")
            if main is not None and not store.count(
                conn, t.keypairs, sa.and_(t.keypairs.c.access_key == main, t.keypairs.c.user_id == user.id)
            ):
                raise InvalidInput("that access key is not the user's", field="main_access_key")
            stamped = {**values, "modified_at": now}
            if password:
                stamped["password_changed_at"] = now
            update_row(conn, t.users, {"id": user.id}, stamped)
            if "role" in values:
                admin = values["role"] in (Role.SUPERADMIN, Role.ADMIN)
                update_row(conn, t.keypairs, {"user_id": user.id}, {"is_admin": admin})
            if group_ids is not None:
                self._move(conn, user, values.get("domain_name", user.domain_name), group_ids)

        await self._write(principal, "user:modify", email, op)
        return await self._account(email)

    async def _account(self, email: str) -> model.Account:
        (found,) = await self._find(store.users, t.users.c.email == email)
        return found

    def _move(
        self, conn: sa.Connection, user: model.Account, domain_name: str, group_ids: Sequence[Any]
    ) -> None:
        """Makes the user a member of these projects and of no others; where it stays one, it stays what it was there."""
        wanted = []
        for one in group_ids:
            try:
                project_id = UUID(str(one))
            except ValueError:
                raise InvalidInput("group_ids is a list of project ids", field="group_ids") from None
            project = store.projects.one(
                conn, t.projects.c.id == project_id, t.projects.c.domain_name == domain_name
            )
            if project is None:
                raise InvalidInput(
                    f"no project {project_id} in the domain {domain_name!r}", field="group_ids"
                )
            wanted.append(project_id)
        members = t.project_members.c
        others = (members.user_id == user.id, members.project_id.not_in(wanted))
        conn.execute(sa.delete(t.project_members).where(*others))
        for project_id in wanted:
            store.join(conn, project_id, [user.id], as_admin=False)

    async def delete_user(self, principal: Principal, email: str) -> None:
        """From now on it can't log in, and its keypairs authenticate nobody; its data stays."""
        self._only_all(principal, Action.USER_WRITE)

        def op(conn: sa.Connection, now: datetime) -> None:
            user = self._other(conn, principal, email)
            update_row(conn, t.users, {"id": user.id}, {"status": "deleted", "modified_at": now})
            update_row(conn, t.keypairs, {"user_id": user.id}, {"is_active": False, "modified_at": now})

        await self._write(principal, "user:delete", email, op)

    @staticmethod
    def _other(conn: sa.Connection, principal: Principal, email: str) -> model.Account:
        user = store.users.one(conn, t.users.c.email == email)
        if user is None:
            raise UserNotFound(f"no user {email[:254]!r}")
        if user.id == principal.user_id:
            raise InvalidInput("you can't remove yourself", hint="Let another administrator do it.")
        return user

    async def purge_user(self, principal: Principal, email: str) -> None:
        self._only_all(principal, Action.USER_WRITE)

        def op(conn: sa.Connection, _now: datetime) -> None:
            user = self._other(conn, principal, email)
            theirs = t.sessions.c.user_id == user.id
            if store.live_sessions(conn, theirs):
                raise Conflict(f"the user {email!r} has live sessions", hint=LIVE)
            store.purge_sessions(conn, theirs)
            keys = sa.select(t.keypairs.c.access_key).where(t.keypairs.c.user_id == user.id)
            conn.execute(
                sa.delete(t.dotfiles).where(t.dotfiles.c.scope == "user", t.dotfiles.c.owner.in_(keys))
            )
            conn.execute(sa.delete(t.users).where(t.users.c.id == user.id))

        await self._write(principal, "user:purge", email, op)

    # Keypairs.

    async def create_keypair(self, principal: Principal, email: str, given: Given) -> tuple[str, str]:
        """Returns the access key and the secret key."""
        self._only_all(principal, Action.KEYPAIR_WRITE)
        values = policy.changes(policy.KEYPAIR, given)
        values.setdefault("rate_limit", 10_000)
        values.setdefault("policy_name", "default")
        access_key, secret_key, sealed = self._identity.new_keypair()

        def op(conn: sa.Connection, now: datetime) -> None:
            user = store.users.one(conn, t.users.c.email == email)
            if user is None:
                raise UserNotFound(f"no user {email[:254]!r}")
            self._policy_exists(conn, t.keypair_policies, values)
            conn.execute(
                sa.insert(t.keypairs).values(
                    access_key=access_key, secret_key_sealed=sealed, user_id=user.id, created_at=now, **values
                )
            )

        await self._write(principal, "keypair:create", access_key, op)
        return access_key, secret_key

    async def modify_keypair(self, principal: Principal, access_key: str, given: Given) -> None:
        self._only_all(principal, Action.KEYPAIR_WRITE)
        values = policy.changes(policy.KEYPAIR, given)

        def op(conn: sa.Connection, now: datetime) -> None:
            self._policy_exists(conn, t.keypair_policies, values)
            if update_row(conn, t.keypairs, {"access_key": access_key}, {**values, "modified_at": now}) == 0:
                raise NotFound(f"no keypair {access_key[:20]!r}")

        await self._write(principal, "keypair:modify", access_key, op)

    async def delete_keypair(self, principal: Principal, access_key: str) -> None:
        self._only_all(principal, Action.KEYPAIR_WRITE)
        if access_key == principal.access_key:
            raise InvalidInput("you can't remove the keypair that you use")

        def op(conn: sa.Connection, _now: datetime) -> None:
            if store.live_sessions(conn, t.sessions.c.access_key == access_key):
                raise Conflict(f"the keypair {access_key!r} has live sessions", hint=LIVE)
            conn.execute(
                sa.delete(t.dotfiles).where(t.dotfiles.c.scope == "user", t.dotfiles.c.owner == access_key)
            )
            if conn.execute(sa.delete(t.keypairs).where(t.keypairs.c.access_key == access_key)).rowcount == 0:
                raise NotFound(f"no keypair {access_key[:20]!r}")

        await self._write(principal, "keypair:delete", access_key, op)

    # Policies.

    async def create_policy(self, principal: Principal, kind: str, name: str, given: Given) -> None:
        """`kind`: keypair, user or project."""
        self._only_all(principal, Action.POLICY_WRITE)
        table, rules, _ = _POLICIES[kind]
        values = policy.changes(rules, given)
        if kind == "keypair":
            values.setdefault("max_concurrent_sessions", 30)
            values.setdefault("max_containers_per_session", 1)
        await self._insert_named(principal, table, name, values)

    async def modify_policy(self, principal: Principal, kind: str, name: str, given: Given) -> None:
        self._only_all(principal, Action.POLICY_WRITE)
        table, rules, _ = _POLICIES[kind]
        await self._update_named(principal, table, name, policy.changes(rules, given), "resource policy")

    async def delete_policy(self, principal: Principal, kind: str, name: str) -> None:
        self._only_all(principal, Action.POLICY_WRITE)
        table, _, used = _POLICIES[kind]
        await self._delete_named(principal, table, name, "resource policy", used)

    # Resource groups.

    async def create_resource_group(self, principal: Principal, name: str, given: Given) -> None:
        self._only_all(principal, Action.RESOURCE_GROUP_WRITE)
        await self._insert_named(principal, t.resource_groups, name, self._resource_group(given))

    def _resource_group(self, given: Given) -> dict[str, Any]:
        values = policy.changes(policy.RESOURCE_GROUP, given)
        wanted = values.get("scheduler", "fifo")
        if wanted not in self._queues:
            raise InvalidInput(
                f"no scheduler {wanted!r}",
                hint=f"One of {', '.join(sorted(self._queues))}.",
                field="scheduler",
            )
        return values

    async def modify_resource_group(self, principal: Principal, name: str, given: Given) -> None:
        self._only_all(principal, Action.RESOURCE_GROUP_WRITE)
        values = self._resource_group(given)
        await self._update_named(principal, t.resource_groups, name, values, "resource group")

    async def delete_resource_group(self, principal: Principal, name: str) -> None:
        self._only_all(principal, Action.RESOURCE_GROUP_WRITE)
        used = {"agents": t.agents.c.resource_group}
        await self._delete_named(principal, t.resource_groups, name, "resource group", used)

    async def associate(self, principal: Principal, name: str, *, add: bool, **who: Any) -> None:
        """Lets a domain (`domain_name`), a project (`project_id`) or a keypair (`access_key`) use a resource group, or no more."""
        self._only_all(principal, Action.RESOURCE_GROUP_WRITE)
        ((column, value),) = who.items()
        table = _ASSOCIATIONS[column]
        target = {
            "domain_name": t.domains.c.name,
            "project_id": t.projects.c.id,
            "access_key": t.keypairs.c.access_key,
        }[column]

        def op(conn: sa.Connection, _now: datetime) -> None:
            self._refer(conn, {"resource_group": name})
            if conn.execute(sa.select(target).where(target == value)).first() is None:
                raise NotFound(f"no {column.partition('_')[0]} {value}")
            conn.execute(sa.delete(table).where(table.c.resource_group == name, table.c[column] == value))
            if add:
                conn.execute(sa.insert(table).values({"resource_group": name, column: value}))

        await self._write(principal, "resource-group:associate", name, op)

    async def disassociate_all(self, principal: Principal, **who: Any) -> None:
        self._only_all(principal, Action.RESOURCE_GROUP_WRITE)
        ((column, value),) = who.items()
        table = _ASSOCIATIONS[column]
        await self._write(
            principal,
            "resource-group:disassociate-all",
            value,
            lambda conn, _now: conn.execute(sa.delete(table).where(table.c[column] == value)).close(),
        )

    # Presets and agents.

    async def create_preset(self, principal: Principal, name: str, given: Given) -> None:
        self._only_all(principal, Action.PRESET_WRITE)
        policy.check_name(name)
        values = policy.changes(policy.PRESET, given)
        if "resource_slots" not in values:
            raise InvalidInput("a preset needs resource_slots", field="resource_slots")
        row = {
            "id": new_uuid(self._rng),
            "name": name,
            "resource_group": str(given.get("scaling_group_name") or ""),
        }
        await self._write(
            principal,
            "preset:create",
            name,
            lambda conn, _now: conn.execute(sa.insert(t.resource_presets).values(**row, **values)).close(),
        )

    async def modify_preset(self, principal: Principal, name: str, given: Given) -> None:
        self._only_all(principal, Action.PRESET_WRITE)
        await self._update_named(
            principal, t.resource_presets, name, policy.changes(policy.PRESET, given), "resource preset"
        )

    async def delete_preset(self, principal: Principal, name: str) -> None:
        self._only_all(principal, Action.PRESET_WRITE)
        await self._delete_named(principal, t.resource_presets, name, "resource preset", {})

    async def modify_agent(self, principal: Principal, agent_id: str, given: Given) -> None:
        """`schedulable`, `scaling_group`."""
        self._only_all(principal, Action.AGENT_WRITE)
        values = policy.changes(policy.AGENT, given)

        def op(conn: sa.Connection, _now: datetime) -> None:
            self._refer(conn, values)
            if store.count(conn, t.agents, t.agents.c.id == agent_id) == 0:
                raise NotFound(f"no agent {agent_id[:64]!r}")
            if values:
                update_row(conn, t.agents, {"id": agent_id}, values)

        await self._write(principal, "agent:modify", agent_id, op)


_POLICIES: Mapping[str, tuple[sa.Table, Mapping[str, policy.Rule], Mapping[str, sa.Column[Any]]]] = {
    "keypair": (t.keypair_policies, policy.KEYPAIR_POLICY, {"keypairs": t.keypairs.c.policy_name}),
    "user": (t.user_policies, policy.USER_POLICY, {"users": t.users.c.policy_name}),
    "project": (t.project_policies, policy.PROJECT_POLICY, {"projects": t.projects.c.policy_name}),
}
_ASSOCIATIONS: Mapping[str, sa.Table] = {
    "domain_name": t.resource_group_domains,
    "project_id": t.resource_group_projects,
    "access_key": t.resource_group_keypairs,
}
