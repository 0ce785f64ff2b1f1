"""Requests a second of one manager process, against a bare handler on the same server that only verifies the signature.

`python -m bench.api [--rounds 5] [--seconds 2] [--sessions 1000] [--json]`. 32 connections; each round runs every series in turn. Series: a
signed `GET` of one session, REST lists of 20 and 100 of the sessions, and the GraphQL list of 20 with the fields of `backend.ai ps`.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import structs

from ai.backend.client.config import ClientConfig
from ai.backend.client.sync import Client

from .cluster import python_image, running
from .load import Load, load, request_bytes
from .measure import machine

ORIGINAL_GRAPHQL_LIST_PER_S = 19.0
"""The original's manager, 20 sessions at 32 connections, on such a machine (a figure of ours, not measured in this run)."""
QUERY = """query($limit:Int!, $offset:Int!, $ak:String, $status:String) {
  compute_session_list(limit:$limit, offset:$offset, access_key:$ak, status:$status) {
    items { name access_key id group_name main_kernel_id image type status status_info status_changed result }
    total_count
  }
}"""
RAISE = """mutation($ak:String!, $props: ModifyKeyPairInput!) { modify_keypair(access_key:$ak, props:$props) { ok msg } }"""
UNLIMITED = """mutation($props: ModifyKeyPairResourcePolicyInput!) {
  modify_keypair_resource_policy(name:"default", props:$props) { ok msg } }"""


@contextmanager
def bare(config: ClientConfig) -> Iterator[ClientConfig]:
    """The peer, with the same keypair."""
    command = [sys.executable, "-m", "bench.bare"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(f"{config.access_key} {config.secret_key}\n")
        process.stdin.flush()
        yield structs.replace(config, endpoint=f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.wait()


def gql(api: Client, query: str, **variables: Any) -> Any:
    return api.graphql(query, variables)


def fill(api: Client, image: str, sessions: int) -> str:
    """Makes sessions, ended but for 20, and returns the id of one that waits."""
    newest = ""
    for number in range(sessions):
        session = api.sessions.create(
            image=image, name=f"bench-{number:05}", resources={"cpu": "1", "mem": "64m"}, enqueue_only=True
        )
        newest = str(session.id)
        if number < sessions - 20:
            session.destroy(forced=True)
    return newest


def measure(rounds: int, seconds: float, sessions: int) -> dict[str, Any]:
    surroundings = machine()
    with running("sandbox") as cluster, Client(cluster.config) as api, bare(cluster.config) as peer:
        image = python_image(api)
        gql(api, RAISE, ak=cluster.config.access_key, props={"rate_limit": 10_000_000})
        gql(api, UNLIMITED, props={"max_concurrent_sessions": 10_000})
        newest = fill(api, image, sessions)
        body = json.dumps({"query": QUERY, "variables": {"limit": 20, "offset": 0}}).encode()
        series = {
            "bare_get": (peer, request_bytes(peer, "GET", "/bare")),
            "bare_post": (peer, request_bytes(peer, "POST", "/bare", body)),
            "session": (cluster.config, request_bytes(cluster.config, "GET", f"/session/{newest}")),
            "list_20": (cluster.config, request_bytes(cluster.config, "GET", "/session?limit=20")),
            "list_100": (cluster.config, request_bytes(cluster.config, "GET", "/session?limit=100")),
            "graphql_20": (cluster.config, request_bytes(cluster.config, "POST", "/admin/gql", body)),
        }
        taken: dict[str, list[Load]] = {name: [] for name in series}
        for number in range(rounds + 1):
            for name, (config, request) in series.items():
                found = load(config, request, seconds=seconds)
                if number:
                    taken[name].append(found)
    rates = {name: statistics.median(one.requests_per_s for one in runs) for name, runs in taken.items()}
    return {
        "times_slower_than_bare": {
            "session": round(rates["bare_get"] / rates["session"], 2),
            "list_20": round(rates["bare_get"] / rates["list_20"], 2),
            "list_100": round(rates["bare_get"] / rates["list_100"], 2),
            "graphql_20": round(rates["bare_post"] / rates["graphql_20"], 2),
        },
        "graphql_20_over_original": round(rates["graphql_20"] / ORIGINAL_GRAPHQL_LIST_PER_S, 1),
        "requests_per_s": rates,
        "p99_ms": {name: statistics.median(one.p99_ms for one in runs) for name, runs in taken.items()},
        "sessions": sessions,
        "connections": 32,
        "machine": surroundings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.api", description="API requests against a bare handler.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each series in each round")
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    given = parser.parse_args()
    result = measure(given.rounds, given.seconds, given.sessions)
    print(json.dumps(result, indent=None if given.json else 2))


if __name__ == "__main__":
    main()
