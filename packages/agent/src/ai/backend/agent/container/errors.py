"""All errors that leave a container backend."""

from ai.backend.common.errors import BackendError, Fault, Kind


class ContainerError(BackendError):
    """Root of the backend's errors."""

    kind = Kind.INTERNAL
    code = "container.failed"
    fault = Fault.INFRASTRUCTURE


class BackendUnavailable(ContainerError):
    """The engine does not answer, or this node lacks something the backend needs."""

    kind = Kind.UNAVAILABLE
    code = "container.backend-unavailable"


class ContainerFailed(ContainerError):
    """The runtime refused to create or start the container, or it ended at once."""


class ContainerExists(ContainerError):
    kind = Kind.CONFLICT
    code = "container.exists"


class ContainerNotFound(ContainerError):
    kind = Kind.NOT_FOUND
    code = "container.not-found"


class ImageNotFound(ContainerError):
    kind = Kind.NOT_FOUND
    code = "image.not-on-node"


class AddressesExhausted(ContainerError):
    """No part of the range for sessions' networks is free."""

    kind = Kind.EXHAUSTED
    code = "node.no-addresses"


class NoSpace(ContainerError):
    """The node's disk is full."""

    kind = Kind.EXHAUSTED
    code = "node.no-space"
