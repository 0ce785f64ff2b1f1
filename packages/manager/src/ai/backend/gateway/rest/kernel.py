"""Calls that go straight to a running session: code, files, logs."""

import secrets
from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler
from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from ai.backend.common.errors import InvalidInput, TooLarge
from ai.backend.common.wire import rpc
from ai.backend.common.wire.rest import session as wire

from ..call import AnyRequest, acting, begin, empty, gateway_of, query_form, reply
from ..decode import upload_path
from ..limits import DOWNLOAD_FILES_MAX, UPLOAD_BYTES_MAX, UPLOAD_FILE_BYTES_MAX, UPLOAD_FILES_MAX
from ..openapi import Operation

KERNEL = (403, 404, 503)


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(tag="session", refusals=KERNEL, while_frozen=True, **fields)}


@post(
    "/session/{name:str}",
    opt=_opt(
        summary="Execute code",
        description="Returns at the end of the run, when it waits for input, at the end of a batch step, or after about two seconds; "
        "unless it is `finished`, call again with mode `continue` or `input` and the same `runId`.",
        form=wire.ExecuteCode,
        form_in="body",
        reply=wire.Executed,
    ),
)
async def execute_code(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.ExecuteCode)
    if form.mode == "complete" or (form.mode is None and "row" in form.options):
        found = await manager.sessions.complete(principal, name, form.code or "", form.options)
        return reply(wire.Completed(result=wire.Completions(completions=list(found))))
    if form.mode is None:
        raise InvalidInput("mode is missing", hint="One of query, batch, continue, input.", field="mode")
    ran = await manager.sessions.execute(
        principal,
        name,
        mode=form.mode,
        code=form.code or "",
        run_id=form.run_id or None,
        options=form.options,
    )
    result = wire.ExecuteResult(
        status=ran.status,
        run_id=ran.run_id,
        exit_code=ran.exit_code,
        options={"is_password": ran.is_password} if ran.status == "waiting-input" else None,
        console=ran.console,
    )
    return reply(wire.Executed(result=result))


@post(
    "/session/{name:str}/interrupt",
    opt=_opt(summary="Interrupt the code that runs", form=wire.GetSession, status=204),
)
async def interrupt_session(request: AnyRequest, name: FromPath[str]) -> Response[None]:
    manager, principal, _ = await begin(request, wire.GetSession)
    await manager.sessions.interrupt(principal, name)
    return empty()


@post(
    "/session/{name:str}/complete",
    opt=_opt(
        summary="Complete code at a cursor", form=wire.CompleteCode, form_in="body", reply=wire.Completed
    ),
)
async def complete_code(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.CompleteCode)
    found = await manager.sessions.complete(principal, name, form.code or "", form.options)
    return reply(wire.Completed(result=wire.Completions(completions=list(found))))


@get(
    "/session/{name:str}/logs",
    opt=_opt(
        summary="What a session's container printed",
        description="Also of a session that has ended.",
        form=wire.GetSession,
        reply=wire.LogsResult,
    ),
)
async def get_logs(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, _ = await begin(request, wire.GetSession)
    return reply(wire.LogsResult(result=wire.Logs(logs=await manager.sessions.logs(principal, name))))


@get(
    "/session/_/logs",
    opt=_opt(
        summary="What a batch session's command printed, as text",
        description="While it runs, and after its end. HEAD says whether there is anything.",
        form=wire.GetTaskLog,
        media_type="text/plain",
    ),
)
async def get_task_log(request: AnyRequest) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.GetTaskLog)
    text = await manager.task_logs.read(principal, form.task_id)
    return Response(text.encode("utf-8", "replace"), media_type="text/plain")


class _Upload:
    """Collects the `src` parts of a multipart body as it comes. Remembers the first refusal and goes on reading, so that the client gets
    an answer instead of a broken connection."""

    def __init__(self) -> None:
        self.files: list[rpc.UploadFile] = []
        self.refusal: InvalidInput | None = None
        self._path: str | None = None
        self._content = bytearray()

    def feed(self, event: MultipartSegment | bytearray | bytes | None) -> None:
        if self.refusal is not None:
            return
        try:
            if event is None:
                self._end()
            elif isinstance(event, MultipartSegment):
                self._begin(event)
            elif self._path is not None:
                self._take(event)
        except InvalidInput as refusal:
            self.refusal = refusal
            self.files.clear()
            self._content.clear()

    def _begin(self, segment: MultipartSegment) -> None:
        self._path = upload_path(segment.filename) if segment.name == "src" else None
        if self._path is not None and len(self.files) >= UPLOAD_FILES_MAX:
            raise InvalidInput(
                "Too many files", hint=f"At most {UPLOAD_FILES_MAX} in one upload.", limit=UPLOAD_FILES_MAX
            )

    def _take(self, chunk: bytearray | bytes) -> None:
        if len(self._content) + len(chunk) > UPLOAD_FILE_BYTES_MAX:
            raise TooLarge(
                "Too large file",
                hint=f"At most {UPLOAD_FILE_BYTES_MAX >> 20} MiB a file.",
                file=self._path,
                limit_bytes=UPLOAD_FILE_BYTES_MAX,
            )
        self._content += chunk

    def _end(self) -> None:
        if self._path is not None:
            self.files.append(rpc.UploadFile(path=self._path, content=bytes(self._content)))
        self._path = None
        self._content.clear()


async def read_upload(request: AnyRequest) -> list[rpc.UploadFile]:
    """The files of a multipart body. Raises InvalidInput or TooLarge."""
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    if media_type != "multipart/form-data" or not options.get("boundary"):
        raise InvalidInput(
            "the body must be multipart/form-data", hint="Send each file as a field named src."
        )
    upload = _Upload()
    try:
        with PushMultipartParser(options["boundary"], max_segment_count=1000) as parser:
            async for chunk in request.stream():
                if chunk and not parser.closed:
                    for event in parser.parse(chunk):
                        upload.feed(event)
    except ParserLimitReached as exc:
        raise InvalidInput("Too many files", limit=UPLOAD_FILES_MAX) from exc
    except MultipartError as exc:
        raise InvalidInput("Malformed body", hint="The body must be multipart/form-data.") from exc
    if upload.refusal is not None:
        raise upload.refusal
    if not upload.files:
        raise InvalidInput("no file was sent", hint="Send each file as a field named src.", field="src")
    return upload.files


@post(
    "/session/{name:str}/upload",
    request_max_body_size=UPLOAD_BYTES_MAX,
    opt=_opt(
        summary="Upload files into the home folder",
        description="At most 20 files of 1 MiB; file names are paths relative to /home/work, whose folders are made.",
        form=wire.UploadFiles,
        form_in="multipart",
        status=204,
    ),
)
async def upload_files(request: AnyRequest, name: FromPath[str]) -> Response[None]:
    files = await read_upload(request)
    principal = await acting(request, query_form(request, wire.UploadFiles))
    await gateway_of(request).manager.sessions.upload(principal, name, files)
    return empty()


def multipart_mixed(archives: list[bytes], boundary: str) -> bytes:
    """A multipart/mixed body with one plain tar in each part."""
    parts = [
        b"--%b\r\nContent-Type: application/octet-stream\r\nContent-Encoding: identity\r\nContent-Length: %d\r\n\r\n%b\r\n"
        % (boundary.encode(), len(archive), archive)
        for archive in archives
    ]
    return b"".join(parts) + b"--%b--\r\n" % boundary.encode()


async def _download(request: AnyRequest, name: str) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.DownloadFiles)
    if not 1 <= len(form.files) <= DOWNLOAD_FILES_MAX:
        text = "Too many files" if form.files else "files is missing"
        raise InvalidInput(text, hint=f"Ask for 1 to {DOWNLOAD_FILES_MAX} paths.", field="files")
    archives = await manager.sessions.download(principal, name, form.files)
    boundary = secrets.token_hex(16)
    body = multipart_mixed(list(archives), boundary)
    return Response(body, status_code=200, media_type=f"multipart/mixed; boundary={boundary}")


@get(
    "/session/{name:str}/download",
    opt=_opt(
        summary="Download files",
        description="One part for each path, each an uncompressed tar archive.",
        form=wire.DownloadFiles,
        media_type="multipart/mixed",
    ),
)
async def download_files(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    return await _download(request, name)


@post(
    "/session/{name:str}/download",
    opt=_opt(
        summary="Download files (paths in a body)",
        description="One part for each path, each an uncompressed tar archive.",
        form=wire.DownloadFiles,
        form_in="body",
        media_type="multipart/mixed",
    ),
)
async def download_files_by_body(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    return await _download(request, name)


@get(
    "/session/{name:str}/download_single",
    opt=_opt(
        summary="Download one file as it is", form=wire.DownloadFile, media_type="application/octet-stream"
    ),
)
async def download_file(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.DownloadFile)
    content = await manager.sessions.read_file(principal, name, form.file)
    return Response(content, media_type="application/octet-stream")


@get(
    "/session/{name:str}/files",
    opt=_opt(summary="List a folder of a session", form=wire.ListFiles, reply=wire.FileList),
)
async def list_files(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.ListFiles)
    listed = await manager.sessions.list_files(principal, name, form.path)
    return reply(wire.FileList(files=msgspec.json.encode(listed.files).decode(), abspath=listed.abspath))


ROUTES: tuple[ControllerRouterHandler, ...] = (
    execute_code,
    interrupt_session,
    complete_code,
    get_logs,
    get_task_log,
    upload_files,
    download_files,
    download_files_by_body,
    download_file,
    list_files,
)
