"""Opening a service of a session through the app proxy of its resource group.

The published protocol: this server asks the proxy's coordinator for its status, tells it by `POST /v2/conf` where the service is
(`kernel_host`, `kernel_port`), and hands the token that it gets to the client, who goes to the coordinator with it.

**Where the service is.** The proxy's workers dial a plain TCP address, and there is none: nothing of a user's session listens on a network
address (invariant 11). So this server opens a relay (`relay`): a port of its own, which leads to that one service on the way that the
route `tcpproxy` takes too, through `SessionService.connect` and the session's runner. A relay lets in the coordinator's own addresses and
the networks that an administrator names, nobody else: what listens there is a door for the proxy, and users still pass the proxy's own
guard. By default relays listen on this machine's loopback, for a coordinator beside this server; a coordinator elsewhere is refused with
what to configure, rather than told an address that it can't reach. To tell it the API's address instead would be no service: a worker can
neither sign requests nor speak WebSocket to what it takes for a TCP server.

Each connection acts as the session's owner, as of then: who is deactivated is cut off. A relay goes with its session, with
`shutdown-service`, and with this process; after a restart of the server a service has to be started again.
"""

import functools
from collections.abc import Sequence

from ai.backend.common.ids import AccessKey, SessionId
from ai.backend.common.stream import Stream

from ..access.model import Principal
from ..config import CoordinatorConfig
from ..db.database import Database
from ..event.model import Event
from ..identity.service import IdentityService
from ..session.model import Session
from ..session.port import ServicePort, named
from ..session.service import SessionService
from . import store
from .client import CoordinatorClient
from .model import Coordinator, NoCoordinator, Opened, Place
from .policy import (
    Address,
    address_of,
    advertised,
    check_config,
    check_login,
    check_reach,
    conf_of,
    coordinator_of,
    may_use,
    networks_of,
    token_of,
)
from .relay import Relays

ENDINGS = frozenset({"session_terminated", "session_cancelled"})


class CoordinatorService:
    def __init__(
        self,
        database: Database,
        sessions: SessionService,
        identity: IdentityService,
        config: CoordinatorConfig,
    ) -> None:
        """Raises ConfigError."""
        self._database = database
        self._sessions = sessions
        self._identity = identity
        self._config = config
        check_config(config)
        self._networks = networks_of(config)
        self._told_host = config.relay_told_host or config.relay_host
        self._client = CoordinatorClient(config.timeout_s)
        self._relays: Relays[tuple[SessionId, int]] = Relays(config.relay_host, config.relay_ports)

    async def start_service(
        self,
        principal: Principal,
        ref: str,
        app: str,
        *,
        port: int | None = None,
        login_session_token: str | None = None,
    ) -> Opened:
        """Opens a service of a running session for its resource group's proxy.

        Raises NoCoordinator before anything of the service is looked at, for without one no service can be opened; then AppNotFound,
        InvalidInput or InvalidSessionState; then the errors of coordinators and NoRelay. After an error nothing stays open.
        """
        check_login(login_session_token)
        session, _ = await self._used(principal, ref)
        coordinator = await self._coordinator(session.resource_group)
        inside = await self._sessions.app_port(principal, str(session.id), app, port)
        addresses = await self._client.addresses(coordinator)
        check_reach(self._config, addresses)
        url = advertised(await self._client.status(coordinator), coordinator)
        guard = functools.partial(self._lets_in, addresses)
        dial = functools.partial(self._dial, session.access_key, session.id, inside)
        async with self._relays.hold((session.id, inside), guard, dial) as relay:
            # The relay is known by now to whoever hears of the session's end; the session may have ended before that.
            await self._sessions.app_port(principal, str(session.id), app, port)
            place = Place(self._told_host, relay.port)
            answer = await self._client.configure(coordinator, conf_of(session, place, login_session_token))
            return Opened(token=token_of(answer), url=url)

    async def shutdown_service(self, principal: Principal, ref: str, app: str) -> None:
        """Closes what `start_service` opened, and all connections through it; the program in the session is not touched. Nothing
        happens when it is not open. Raises SessionNotFound or AppNotFound."""
        session, services = await self._used(principal, ref)
        ports = named(services, app).ports
        self._relays.close(lambda key: key[0] == session.id and key[1] in ports)

    def heard(self, event: Event) -> None:
        """A listener of the event hub."""
        if event.name in ENDINGS:
            self._relays.close(lambda key: key[0] == event.session_id)

    async def close(self) -> None:
        await self._relays.aclose()

    async def _used(self, principal: Principal, ref: str) -> tuple[Session, Sequence[ServicePort]]:
        """A session and its services, for whom may use it. Raises SessionNotFound, AmbiguousSession or Forbidden."""
        services = await self._sessions.apps(principal, ref)
        return await self._sessions.get(principal, ref), services

    async def _coordinator(self, group: str) -> Coordinator:
        found = await self._database.read(lambda conn: store.coordinator(conn, group))
        if found is None:
            raise NoCoordinator(
                f"the resource group {group!r} has no app proxy",
                hint="Connect with 'backend.ai app', which needs none.",
            )
        return coordinator_of(*found)

    def _lets_in(self, coordinator: frozenset[Address], peer: str) -> bool:
        address = address_of(peer)
        return address is not None and may_use(address, self._networks, coordinator)

    async def _dial(self, access_key: AccessKey, session_id: SessionId, port: int) -> Stream:
        owner, _ = await self._identity.authenticate(access_key)
        return await self._sessions.connect(owner, str(session_id), port)
