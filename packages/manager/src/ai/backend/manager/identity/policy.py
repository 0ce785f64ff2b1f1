"""Who may act for whom. Pure."""

from ai.backend.common.errors import BackendError, Forbidden

from ..access.model import Principal, Role


def refuse_delegation(asking: Principal, owner: Principal) -> BackendError | None:
    """Why `asking` may not act as `owner`, or None: itself always; superadmins for all; domain admins for their domain's users."""
    if asking.access_key == owner.access_key or asking.role is Role.SUPERADMIN:
        return None
    same_domain = asking.role is Role.ADMIN and asking.domain_name == owner.domain_name
    if same_domain and owner.role is not Role.SUPERADMIN:
        return None
    return Forbidden("you may not act for the owner of that access key")
