"""Signed requests of one person, exactly as they go onto the wire, whatever a generator made of them."""

import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import requests

from ai.backend.common.wire import signature

VERSION = "v8.20240915"
PATIENCE_S = 30.0
"""Only ends a broken test: nothing that is asked here takes so long."""
SEED = int(os.environ.get("FUZZ_SEED", "20261125"))
SCALE = int(os.environ.get("FUZZ_SCALE", "1"))
"""How many times as much as the tests do: for a long look by hand."""


@dataclass
class Caller:
    endpoint: str
    access_key: str
    secret_key: str
    session: requests.Session = field(default_factory=requests.Session)
    answers: Counter[int] = field(default_factory=Counter)
    """How many of each status came."""

    @property
    def host(self) -> str:
        return self.endpoint.partition("://")[2]

    def send(self, method: str, **described: Any) -> requests.Response:
        """`described`: what requests.Request takes; `url` is a path. A stream of events is not read."""
        described["url"] = self.endpoint + described["url"].removeprefix(self.endpoint)
        described["headers"] = {
            name: value
            for name, value in (described.get("headers") or {}).items()
            if name.lower() not in ("authorization", "date")
        }
        prepared = self.session.prepare_request(requests.Request(method, **described))
        now = datetime.now(UTC)
        text = signature.string_to_sign(
            method=method,
            target=prepared.path_url,
            date=now.isoformat(),
            host=self.host,
            content_type=str(prepared.headers.get("Content-Type", "")),
            version=VERSION,
        )
        proof = signature.sign(self.secret_key, now, self.host, text)
        prepared.headers["Date"] = now.isoformat()
        prepared.headers["X-BackendAI-Version"] = VERSION
        prepared.headers["Authorization"] = signature.authorization(self.access_key, proof)
        answer = self.session.send(prepared, stream=True, timeout=PATIENCE_S, allow_redirects=False)
        if answer.headers.get("Content-Type", "").startswith("text/event-stream"):
            answer.close()
        else:
            _ = answer.content
        self.answers[answer.status_code] += 1
        return answer

    def json(self, method: str, url: str, **described: Any) -> Any:
        answer = self.send(method, url=url, **described)
        answer.raise_for_status()
        return answer.json() if answer.content else None
