"""What goes to a terminal's process in a session, over a stream: input and sizes, in order. What comes back is plain bytes.

A frame is a byte for its kind, four for the size of its content (big endian), and the content. The other side of this is
`ai.backend.kernel.terminal`, which runs in users' containers and imports nothing of ours; a test of the agent holds the two together.
"""

import struct

INPUT, RESIZE = b"i", b"r"
INPUT_BYTES_MAX = 1 << 20
SIZE_MAX = 1000
"""Rows and columns: far above any screen, and a terminal of that size costs nothing."""
_HEAD = struct.Struct("!cI")
_SIZE = struct.Struct("!HH")


def bounded_size(rows: int, columns: int) -> tuple[int, int]:
    """A size that a terminal can have."""
    return min(max(rows, 1), SIZE_MAX), min(max(columns, 1), SIZE_MAX)


def typed(data: bytes) -> bytes:
    """Frames of what was typed."""
    pieces = (data[start : start + INPUT_BYTES_MAX] for start in range(0, len(data), INPUT_BYTES_MAX))
    return b"".join(_HEAD.pack(INPUT, len(piece)) + piece for piece in pieces)


def resized(rows: int, columns: int) -> bytes:
    """The frame of a new size, within bounds."""
    content = _SIZE.pack(*bounded_size(rows, columns))
    return _HEAD.pack(RESIZE, len(content)) + content
