"""What every test stands on, whichever folder it is in."""

import signal
from typing import Any


def _pass(number: int, frame: Any) -> None:
    """Ignores it, here alone: what is started begins with the default again."""


# A shell's background job and what `nohup` starts ignore some signals, and so would every program that a test starts and signals.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, _pass),
    (signal.SIGHUP, _pass),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
