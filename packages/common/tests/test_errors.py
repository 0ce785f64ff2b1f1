"""The error tree: codes are stable and unique, and each class says whose fault it is."""

import pytest

from ai.backend.common import errors
from ai.backend.common.errors import BackendError, Fault, InvalidInput, Kind, NotFound

ALL = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BackendError)
]


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in ALL]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_class_is_complete(kind: type[BackendError]) -> None:
    assert isinstance(kind.kind, Kind)
    assert isinstance(kind.fault, Fault)
    assert kind.code == kind.code.lower().strip()
    error = kind("what happened", hint="what to do", number=1)
    assert str(error) == f"{kind.code}: what happened"
    assert (error.message, error.hint, error.detail) == ("what happened", "what to do", {"number": 1})
    assert str(kind()) == kind.code


def test_faults_of_families() -> None:
    assert InvalidInput.fault is Fault.USER
    assert errors.QuotaExceeded.fault is Fault.QUOTA
    assert errors.NoAgent.fault is Fault.INFRASTRUCTURE
    assert all(kind.what for kind in ALL if issubclass(kind, NotFound))
