"""Every error has its place on the wire, and a document that published clients can print."""

import pytest

from ai.backend.common import errors
from ai.backend.common.wire import problem


def all_errors(root=errors.BackendError):
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from all_errors(kind)


@pytest.mark.parametrize("kind", sorted(set(all_errors()), key=lambda kind: kind.__name__))
def test_every_error_has_a_document(kind):
    error = kind("what happened", hint="what to do", number=1)
    form = problem.published(error)
    body = problem.body_of(error)
    assert 400 <= form.status < 600
    assert body["type"] == problem.TYPE_PREFIX + form.slug
    assert body["title"]
    assert (body["msg"], body["hint"], body["data"]) == ("what happened", "what to do", {"number": 1})
    assert body["error_code"] == kind.code
    assert body["fault"] in {"user", "quota", "infrastructure"}


@pytest.mark.parametrize(
    ("error", "status", "slug", "title"),
    [
        (errors.InvalidInput(), 400, "invalid-api-params", "Missing or invalid API parameters."),
        (
            errors.BadAuthParameters(),
            400,
            "invalid-auth-params",
            "Missing or invalid authorization parameters.",
        ),
        (errors.Unauthenticated(), 401, "auth-failed", "Credential/signature mismatch."),
        (errors.Forbidden(), 403, "generic-forbidden", "Forbidden operation."),
        (errors.SessionNotFound(), 404, "object-not-found", "No such session."),
        (errors.ImageNotFound(), 404, "object-not-found", "No such environment image."),
        (errors.AmbiguousSession(), 404, "too-many-sessions-matched", "Too many sessions matched."),
        (errors.QuotaExceeded(), 412, "quota-exceeded", "You have reached your resource limit."),
        (errors.RateLimited(), 429, "rate-limit-exceeded", "You have reached your API query rate limit."),
        (errors.KernelCreationFailed(), 500, "kernel-creation-failed", "Kernel creation has failed."),
        (errors.NoAgent(), 503, "instance-not-available", "There is no available instance."),
    ],
)
def test_published_places(error, status, slug, title):
    assert problem.published(error) == (status, slug, title)


def test_codes_are_unique():
    codes = [kind.code for kind in set(all_errors())]
    shared = {code for code in codes if codes.count(code) > 1}
    assert not shared


def test_plain_documents():
    assert problem.plain(problem.URL_NOT_FOUND, "/x") == {
        "type": "https://api.backend.ai/probs/url-not-found",
        "title": "Unknown URL path.",
        "error_code": "url-not-found",
        "data": "/x",
    }
