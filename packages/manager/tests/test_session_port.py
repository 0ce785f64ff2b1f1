"""Service ports: what an image's label and a user's wishes become, and every way in which they are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.common.errors import AppNotFound, InvalidInput
from ai.backend.manager.session.port import (
    LABEL_CHARS_MAX,
    PORT_MAX,
    PORT_MIN,
    PORTS_MAX,
    RESERVED,
    Protocol,
    ServicePort,
    environment,
    parse_label,
    parse_preopen,
    resolve,
    service_ports,
)

LABEL = "jupyter:http:8080,db:tcp:[5432,5433],shell:pty:3000"
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,10}", fullmatch=True)
PORTS = st.integers(PORT_MIN, PORT_MAX).filter(lambda port: port not in RESERVED)


@st.composite
def services(draw: st.DrawFn) -> tuple[ServicePort, ...]:
    names = draw(st.lists(NAMES, max_size=5, unique=True))
    ports = iter(draw(st.lists(PORTS, min_size=15, max_size=15, unique=True)))
    return tuple(
        ServicePort(
            name,
            draw(st.sampled_from(Protocol)),
            tuple(next(ports) for _ in range(draw(st.integers(1, 3)))),
        )
        for name in names
    )


@given(services())
def test_what_is_written_is_read(made: tuple[ServicePort, ...]) -> None:
    assert parse_label(",".join(map(str, made))) == made
    assert tuple(ServicePort.of_row(one.as_row()) for one in made) == made
    for one in made:
        assert resolve(made, one.name, None) == one.ports[0]
        assert [resolve(made, one.name, port) for port in one.ports] == list(one.ports)


@given(st.text(max_size=60) | st.text("abc:,[]0123456789httpc", max_size=60))
def test_any_text_is_services_or_invalid_input(text: str) -> None:
    try:
        found = parse_label(text)
    except InvalidInput:
        return
    ports = [port for one in found for port in one.ports]
    assert len(set(ports)) == len(ports)
    assert all(PORT_MIN <= port <= PORT_MAX and port not in RESERVED for port in ports)
    assert len({one.name for one in found}) == len(found)


VALUES = (
    st.integers()
    | st.text(max_size=6)
    | st.integers(1000, 70000).map(str)
    | st.none()
    | st.booleans()
    | st.floats()
)


@given(st.lists(VALUES, max_size=5))
def test_any_wishes_are_ports_or_invalid_input(values: list[object]) -> None:
    try:
        found = parse_preopen(values)
    except InvalidInput:
        return
    assert len(set(found)) == len(found) <= len(values)
    assert all(PORT_MIN <= port <= PORT_MAX and port not in RESERVED for port in found)


def test_an_image_without_a_label_has_none() -> None:
    assert service_ports("", []) == ()
    assert service_ports("a:http:8080 , b:tcp:[ 9000, 9001 ]", ["3000", 3001, 3000]) == (
        ServicePort("a", Protocol.HTTP, (8080,)),
        ServicePort("b", Protocol.TCP, (9000, 9001)),
        ServicePort("3000", Protocol.PREOPEN, (3000,)),
        ServicePort("3001", Protocol.PREOPEN, (3001,)),
    )


@pytest.mark.parametrize(
    "label",
    [
        "jupyter",
        "a:http:80",
        "a:http:1024",
        "a:http:65535",
        "a:http:99999",
        "a:ftp:8080",
        "a:HTTP:8080",
        "a:http:[]",
        "a:http:[8080",
        "a:http:[8080,]",
        "a:http:8080,a:tcp:8081",
        "a:http:8080,b:tcp:8080",
        "a:http:[8080,8080]",
        "a:http:8080;b:tcp:8081",
        "a:http:8080,,b:tcp:8081",
        ":http:8080",
        "-a:http:8080",
        *(f"a:tcp:{port}" for port in sorted(RESERVED)),
        "a:http:[" + ",".join(map(str, range(8000, 8001 + PORTS_MAX))) + "]",
        ",".join(f"s{number}:http:{8000 + number}" for number in range(65)),
        "x" * (LABEL_CHARS_MAX + 1),
    ],
)
def test_labels_that_are_wrong(label: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_label(label)
    assert "ai.backend.service-ports" in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "values",
    [[80], ["http"], [None], [True], [3000.5], [{}], [2200], list(range(3000, 3001 + PORTS_MAX)), ["-1"]],
)
def test_wishes_that_are_wrong(values: list[object]) -> None:
    with pytest.raises(InvalidInput):
        parse_preopen(values)


def test_a_port_has_one_owner() -> None:
    with pytest.raises(InvalidInput, match="jupyter"):
        service_ports(LABEL, [8080])
    with pytest.raises(InvalidInput, match="named '3000'"):
        service_ports("3000:http:8080", [3000])


def test_what_is_asked_for_and_is_not_there() -> None:
    made = service_ports(LABEL, [3001])
    assert resolve(made, "3001", None) == resolve(made, "3001", 3001) == 3001
    with pytest.raises(AppNotFound) as caught:
        resolve(made, "tensorboard", None)
    assert "jupyter, db, shell, 3001" in caught.value.hint
    with pytest.raises(AppNotFound):
        resolve((), "x" * 1000, 1)
    with pytest.raises(InvalidInput, match="no port 8081"):
        resolve(made, "jupyter", 8081)


def test_the_environment() -> None:
    assert environment(service_ports(LABEL, [3001, 3002])) == {
        "BACKENDAI_SERVICE_PORTS": LABEL,
        "BACKENDAI_PREOPEN_PORTS": "3001,3002",
    }
    assert environment(()) == {"BACKENDAI_SERVICE_PORTS": "", "BACKENDAI_PREOPEN_PORTS": ""}
