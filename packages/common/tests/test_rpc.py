"""Bus messages go round, tolerate what a later release adds, and refuse what is no message."""

from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.backend.common.wire import rpc

ID = UUID(int=1)
REPORT = rpc.AgentReport(
    agent_id="i-1",
    started_at_us=1,
    sequence=2,
    generation=3,
    version="1",
    backend="fake",
    architecture="x86_64",
    address="",
    capacity={"cpu": 1000},
    images=[rpc.ImageReport(name="a:1", digest="d", architecture="x86_64", size_bytes=1, labels={})],
    kernels=[
        rpc.KernelReport(
            kernel_id=ID, session_id=ID, incarnation=1, state=rpc.KernelState.RUNNING, stats={"pids": 1}
        )
    ],
)
EXAMPLES: list[rpc.Message] = [
    rpc.Sync(generation=1, kernels=[rpc.DesiredKernel(kernel_id=ID, session_id=ID, target="run")]),
    rpc.Sync(
        generation=2,
        kernels=[
            rpc.DesiredKernel(
                kernel_id=ID,
                session_id=ID,
                target="run",
                hostname="sub1",
                cluster_hosts=("main1", "sub1", "sub2"),
                local_hosts=("main1", "sub1"),
                cluster_key=rpc.ClusterKey(private="p", public="q"),
            )
        ],
    ),
    rpc.Execute(kernel_id=ID, run_id="r", mode="query", code="print(1)"),
    rpc.Interrupt(kernel_id=ID),
    rpc.Complete(kernel_id=ID, code="pri"),
    rpc.Upload(kernel_id=ID, files=[rpc.UploadFile(path="a", content=b"\0")]),
    rpc.Download(kernel_id=ID, paths=["a"], bytes_max=1),
    rpc.ReadFile(kernel_id=ID, path="a", bytes_max=1),
    rpc.ListFiles(kernel_id=ID, path="."),
    rpc.GetLogs(kernel_id=ID),
    rpc.SyncReply(accepted=True, generation=1),
    rpc.ExecuteReply(run_id="r", status="finished", console=[("stdout", "x"), ("media", ("image/png", "d"))]),
    rpc.CompleteReply(completions=[]),
    rpc.DownloadReply(archives=[b""]),
    rpc.ReadFileReply(content=b""),
    rpc.ListFilesReply(abspath="/", files=[]),
    rpc.GetLogsReply(text=""),
    rpc.Done(),
    rpc.Failure(code="c", text="t"),
    rpc.Connect(kernel_id=ID, port=8080),
    rpc.OpenTerminal(kernel_id=ID, rows=24, columns=80),
    rpc.Commit(
        kernel_id=ID, image="a:1", labels={"a": "b"}, left_out=[".x"], folder="f", filename="a.tar.gz"
    ),
]


def decode(message: rpc.Message, data: bytes) -> Any:
    if isinstance(message, rpc.AgentReport):
        return rpc.decode_report(data)
    if type(message) in get_args(rpc.Request):
        return rpc.decode_request(data)
    if type(message) in get_args(rpc.StreamRequest):
        return rpc.decode_stream_request(data)
    return rpc.decode_reply(data)


def test_every_message_has_an_example() -> None:
    assert {type(example) for example in EXAMPLES} == {
        *get_args(rpc.Request),
        *get_args(rpc.Reply),
        *get_args(rpc.StreamRequest),
    }


@pytest.mark.parametrize("message", [*EXAMPLES, REPORT], ids=lambda message: type(message).__name__)
def test_messages_go_round(message: rpc.Message) -> None:
    assert decode(message, rpc.encode(message)) == message


@pytest.mark.parametrize("message", [*EXAMPLES, REPORT], ids=lambda message: type(message).__name__)
def test_fields_of_a_later_release_are_ignored(message: rpc.Message) -> None:
    raw = msgspec.msgpack.decode(rpc.encode(message))
    raw["from-the-future"] = {"any": ["thing"]}
    for nested in ("kernels", "files", "images"):
        for one in raw.get(nested, []):
            one["new"] = 1
    assert decode(message, msgspec.msgpack.encode(raw)) == message


def test_fields_that_an_older_release_does_not_send_have_defaults() -> None:
    raw = {"kind": "execute", "kernel_id": str(ID), "run_id": "r", "mode": "query"}
    assert rpc.decode_request(msgspec.msgpack.encode(raw)) == rpc.Execute(
        kernel_id=ID, run_id="r", mode="query"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode(None),
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode({"kind": "no-such"}),
        msgspec.msgpack.encode({"kind": "complete", "kernel_id": "x", "code": ""}),
        msgspec.msgpack.encode({"kind": "execute", "kernel_id": str(ID), "run_id": "r", "mode": "sideways"}),
        msgspec.msgpack.encode({"kind": "done"}),
    ],
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, msgspec.ValidationError)):
        rpc.decode_request(data)


@given(st.binary(max_size=200))
def test_noise_never_breaks_the_decoder_otherwise(data: bytes) -> None:
    for decoder in (rpc.decode_request, rpc.decode_reply, rpc.decode_report):
        try:
            decoder(data)
        except msgspec.MsgspecError:
            continue
