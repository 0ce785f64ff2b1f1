"""How far an agent is with making an image of a session: what comes over the stream that `rpc.Commit` opens. One JSON object a line."""

import msgspec

from ..errors import StreamClosed
from .rpc import ImageReport

LINE_BYTES_MAX = 1 << 20


class CommitStep(msgspec.Struct, frozen=True, kw_only=True):
    done_bytes: int
    total_bytes: int
    """May grow: how much there is to do is found out on the way."""
    message: str = ""
    image: ImageReport | None = None
    """In the last step alone: what was made. `size_bytes` is the archive's where one was written."""


_decoder = msgspec.json.Decoder(CommitStep)


def encode(step: CommitStep) -> bytes:
    return msgspec.json.encode(step) + b"\n"


class StepReader:
    """Bytes in, in any portions; steps out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[CommitStep]:
        """Raises StreamClosed for what is none."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise StreamClosed("the agent tells its progress in no form that is known here")
        try:
            return [_decoder.decode(line) for line in lines]
        except msgspec.DecodeError as exc:
            raise StreamClosed("the agent tells its progress in no form that is known here") from exc
