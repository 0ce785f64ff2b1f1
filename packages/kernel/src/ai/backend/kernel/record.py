"""`NamedTuple` without the import of `typing`.

Importing `typing` and making two dozen `typing.NamedTuple` classes costs 15 ms, more than the whole start of
a Python interpreter, and the runner's start is on the path of every session. Type checkers see the real
`NamedTuple`; at run time this small class gives the same fields, equality, order of arguments, pattern
matching and pickling (but no default values).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple  # noqa: PLC0414 -- an explicit re-export
else:
    from _operator import itemgetter

    class NamedTuple(tuple):
        __slots__ = ()
        _fields = ()

        def __init_subclass__(cls):
            cls._fields = cls.__match_args__ = tuple(cls.__dict__.get("__annotations__", ()))
            for index, name in enumerate(cls._fields):
                setattr(cls, name, property(itemgetter(index)))

        def __new__(cls, *values, **named):
            if named:
                values += tuple(named.pop(name) for name in cls._fields[len(values) :] if name in named)
            if named or len(values) != len(cls._fields):
                raise TypeError(f"{cls.__name__} takes exactly the fields {', '.join(cls._fields)}")
            return tuple.__new__(cls, values)

        def __getnewargs__(self):
            return tuple(self)

        def _replace(self, **named):
            return type(self)(**{**self._asdict(), **named})

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            fields = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({fields})"
