"""What happened in a run, in order, for people; and its fingerprint, by which a replay is recognised.

The story is all that a failing seed prints. It must never know what it tells of.
"""

import hashlib
from collections import deque

LINES_KEPT = 2000


class Story:
    """Lines with their virtual time. Only the newest are kept; the fingerprint covers all of them."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.told = 0

    def tell(self, now_s: float, text: str) -> None:
        line = f"{now_s:10.3f}  {text}"
        self._lines.append(line)
        self._hash.update(line.encode() + b"\n")
        self.told += 1

    @property
    def fingerprint(self) -> str:
        return self._hash.hexdigest()[:16]

    def lines(self) -> list[str]:
        return list(self._lines)
