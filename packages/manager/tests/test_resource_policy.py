"""Which resource groups somebody may use, what is left of limits, and what was used."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.common.errors import InvalidInput
from ai.backend.common.ids import AccessKey, UserId
from ai.backend.common.quantity import ResourceSlots
from ai.backend.manager.access.model import Principal, Role
from ai.backend.manager.resource.model import Holding, KernelUse, Limit, Preset, ResourceGroup, Room
from ai.backend.manager.resource.policy import (
    BIN,
    BINS,
    PERIOD_DAYS_MAX,
    bins_before,
    check,
    in_bins,
    least,
    month,
    per_project,
    period,
    standing,
    texts,
    usable,
)

GIB = 1 << 30
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
USER = Principal(
    user_id=UserId(UUID(int=1)),
    email="u@x",
    role=Role.USER,
    domain_name="default",
    access_key=AccessKey("MINE"),
    is_admin=False,
    rate_limit=1,
)
FREE = Limit(slots=ResourceSlots(), named=frozenset())


def group(name="g", **changes):
    plain = ResourceGroup(
        name=name,
        is_active=True,
        is_public=True,
        of_domain=False,
        of_project=False,
        of_keypair=False,
        wsproxy_addr=None,
    )
    return replace(plain, **changes)


@pytest.mark.parametrize("role", [Role.USER, Role.ADMIN, Role.MONITOR])
def test_a_resource_group_is_for_whom_it_was_given(role):
    who = replace(USER, role=role)
    assert usable([group()], who) == frozenset()
    for given_by in ("of_domain", "of_project", "of_keypair"):
        assert usable([group(**{given_by: True})], who) == {"g"}
        hidden = usable([group(is_public=False, **{given_by: True})], who)
        assert hidden == ({"g"} if role is Role.ADMIN else frozenset())
        assert usable([group(is_active=False, **{given_by: True})], who) == frozenset()


def test_superadministrators_use_all_that_are_active():
    who = replace(USER, role=Role.SUPERADMIN)
    assert usable([group("a"), group("b", is_active=False)], who) == {"a"}


def test_limits_in_published_words():
    limit = Limit(slots=ResourceSlots({"cpu": 2500}), named=frozenset({"cpu", "cuda.device"}))
    stands = standing(limit, [ResourceSlots({"cpu": 500, "mem": GIB})], {"cpu", "mem", "cuda.device"})
    assert texts(stands.limits) == {"cpu": "2.5", "cuda.device": "0", "mem": "Infinity"}
    assert texts(stands.using) == {"cpu": "0.5", "cuda.device": "0", "mem": str(GIB)}
    assert texts(stands.remaining) == {"cpu": "2", "cuda.device": "0", "mem": "Infinity"}
    strict = standing(replace(limit, rest_is_unlimited=False), [], {"cpu", "mem"})
    assert texts(strict.limits) == {"cpu": "2.5", "mem": "0"}


AMOUNTS = st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(0, 9))


@given(AMOUNTS, AMOUNTS)
def test_the_strictest_limit_counts(a, b):
    for name, amount in least(a, b).items():
        known = [one[name] for one in (a, b) if one.get(name) is not None]
        assert amount == (min(known) if known else None)


def holding(**changes):
    mine = Holding(
        access_key="MINE",
        user_id=USER.user_id,
        project_id=UUID(int=7),
        domain_name="default",
        resource_group="g",
        slots=ResourceSlots({"cpu": 1000, "mem": GIB}),
    )
    return replace(mine, **changes)


def limited(**slots):
    return Limit(slots=ResourceSlots(slots), named=frozenset(slots))


def checked(**changes):
    preset = Preset(
        id=UUID(int=3),
        name="p",
        slots=ResourceSlots({"cpu": 2000}),
        shared_memory_bytes=None,
        resource_group="",
    )
    arguments = {
        "names": frozenset({"cpu", "mem"}),
        "principal": USER,
        "project_id": UUID(int=7),
        "groups": frozenset({"g"}),
        "keypair_limit": FREE,
        "project_limit": FREE,
        "domain_limit": FREE,
        "holdings": [holding()],
        "rooms": [Room(resource_group="g", slots=ResourceSlots({"cpu": 4000, "mem": 8 * GIB}))],
        "presets": [preset],
        "project_visible": True,
    }
    return check(**(arguments | changes))


def test_what_is_left_is_within_every_limit():
    free = checked()
    assert texts(free.keypair.remaining) == {"cpu": "Infinity", "mem": "Infinity"}
    assert texts(free.groups["g"].remaining) == texts(free.remaining) == {"cpu": "4", "mem": str(8 * GIB)}
    assert texts(free.groups["g"].using) == {"cpu": "1", "mem": str(GIB)}
    for limit in ("keypair_limit", "project_limit", "domain_limit"):
        tight = checked(**{limit: limited(cpu=2500)})
        assert texts(tight.keypair.remaining)["cpu"] == "1.5", limit
        assert texts(tight.groups["g"].remaining)["cpu"] == "1.5"
        assert [able for _, able in tight.presets] == [False]
    assert [able for _, able in free.presets] == [True]


def test_each_limit_counts_its_own_holders():
    others = [
        holding(),
        holding(access_key="PEER", user_id=UUID(int=2)),
        holding(access_key="FAR", user_id=UUID(int=3), project_id=UUID(int=8)),
    ]
    found = checked(holdings=others, keypair_limit=limited(cpu=10_000))
    assert texts(found.keypair.using)["cpu"] == "1"
    assert texts(found.project.using)["cpu"] == "2"
    assert texts(checked(holdings=others, domain_limit=limited(cpu=3000)).keypair.remaining)["cpu"] == "0"
    assert checked(project_visible=False).project is None


def test_a_preset_needs_one_agent_with_room():
    small = ResourceSlots({"cpu": 1500, "mem": GIB})
    two_halves = [Room(resource_group="g", slots=small), Room(resource_group="g", slots=small)]
    assert [able for _, able in checked(rooms=two_halves).presets] == [False]
    elsewhere = [Room(resource_group="other", slots=ResourceSlots({"cpu": 9000}))]
    assert [able for _, able in checked(rooms=elsewhere).presets] == [False]
    assert texts(checked(rooms=elsewhere).remaining)["cpu"] == "0"


def test_months_and_periods():
    assert month("202602") == (datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))
    assert month("202512")[1] == datetime(2026, 1, 1, tzinfo=UTC)
    begin, end = period("20260101", "20260101")
    assert end - begin == timedelta(days=1)
    assert period("20260101", "20260410")[1] - begin == timedelta(days=PERIOD_DAYS_MAX)
    for bad in ("", "2026", "202613", "20260x", "２０２６01", "999912"):
        with pytest.raises(InvalidInput):
            month(bad)
    for start, last in (("20260102", "20260101"), ("20260101", "20260411"), ("20260230", "20260301")):
        with pytest.raises(InvalidInput):
            period(start, last)


def use(began, ended=None, **changes):
    one = KernelUse(
        kernel_id=UUID(int=5),
        session_id=UUID(int=6),
        session_name="s",
        is_main=True,
        container_id="",
        domain_name="default",
        project_id=UUID(int=7),
        project_name="p",
        user_id=USER.user_id,
        email="u@x",
        full_name="",
        access_key="MINE",
        agent_id="a1",
        image_name="python",
        slots=ResourceSlots({"cpu": 2000, "mem": GIB, "cuda.device": 1000, "cuda.mem": 5}),
        shm_bytes=10,
        stats={"cpu_used_us": 7, "memory_peak_bytes": 9},
        cluster_mode="single-node",
        status="TERMINATED",
        reason="",
        status_changed_at=NOW,
        status_history={},
        created_at=began,
        began_at=began,
        terminated_at=ended,
    )
    return replace(one, **changes)


def test_sums_of_projects():
    other = use(NOW, project_id=UUID(int=8), project_name="o")
    found = per_project([use(NOW), use(NOW, is_main=False), other])
    assert [one.project_name for one in found] == ["o", "p"]
    p = found[1]
    assert (p.cpu_milli, p.cpu_used_us, p.memory_bytes, p.memory_used_bytes, p.shm_bytes) == (
        4000,
        14,
        2 * GIB,
        18,
        20,
    )
    assert (p.devices, p.device_milli, p.device_memory_bytes) == (("cuda",), 2000, 10)


def test_bins():
    begin, end = bins_before(NOW)
    assert end - begin == timedelta(days=30) and begin.minute % 15 == 0
    assert end - BIN <= NOW < end
    kernels = [
        use(begin - timedelta(days=5), begin + timedelta(minutes=1)),
        use(begin + timedelta(minutes=20), begin + timedelta(minutes=40)),
        use(begin + timedelta(minutes=20), begin + timedelta(minutes=40), is_main=False),
        use(NOW - timedelta(minutes=1)),
        use(begin - timedelta(days=5), begin - timedelta(days=4)),
    ]
    bins = in_bins(kernels, begin, NOW)
    assert len(bins) == BINS == 2880
    assert [(b.sessions, b.cpu_milli) for b in bins[:4]] == [(1, 2000), (1, 4000), (1, 4000), (0, 0)]
    assert bins[-1].sessions == 1 and bins[-2].sessions in (0, 1)
    assert bins[1].begins_at == begin + BIN


@given(st.lists(st.tuples(st.integers(-100, 3000), st.integers(0, 500)), max_size=5))
def test_bins_are_never_negative_and_count_what_overlaps(spans):
    begin, _ = bins_before(NOW)
    kernels = [use(begin + BIN * a, begin + BIN * (a + n)) for a, n in spans]
    for number, one in enumerate(in_bins(kernels, begin, NOW)):
        assert one.sessions == sum(a <= number <= a + n for a, n in spans)
