"""From asking for a session to its first output, against `docker run` of the same image on the same engine.

`python -m bench.start [--rounds 15] [--json]`. Ours: create through the API, execute `print(1)`, until its output is here; the session's
end is outside the timing. The peer: `docker run --rm IMAGE python3 -c 'print(1)'`, with the engine's default network, until the command
ends. Each round does all three, in turn.
"""

import argparse
import json
import subprocess
from typing import Any

from ai.backend.client.sync import Client

from . import engine
from .cluster import python_image, running
from .measure import machine, ratio, summary, timed


def first_output(api: Client, image: str) -> float:
    """Seconds from create to output."""
    sessions = []

    def action() -> None:
        session = api.sessions.create(image=image, resources={"cpu": "1", "mem": "256m"})
        sessions.append(session)
        assert session.run("print(1)").stdout == "1\n"

    took_s = timed(action)
    for session in sessions:
        session.destroy(forced=True)
    return took_s


def docker_run(url: str, image: str) -> float:
    command = ["docker", "-H", url, "run", "--rm", image, "python3", "-c", "print(1)"]

    def action() -> None:
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"

    return timed(action)


def measure(rounds: int) -> dict[str, Any]:
    surroundings = machine()
    sandbox_s: list[float] = []
    docker_s: list[float] = []
    peer_s: list[float] = []
    with (
        engine.with_image() as (dockerd, image),
        running("sandbox") as sandbox,
        running("docker", "--docker-host", dockerd.url) as docker,
        Client(sandbox.config) as sandbox_api,
        Client(docker.config) as docker_api,
    ):
        sandbox_image = python_image(sandbox_api)
        for number in range(rounds + 1):
            figures = (
                first_output(sandbox_api, sandbox_image),
                docker_run(dockerd.url, image),
                first_output(docker_api, image),
            )
            if number:  # the first round fills caches on every side
                for samples, figure in zip((sandbox_s, peer_s, docker_s), figures, strict=True):
                    samples.append(figure)
        docker_version = engine.version(dockerd.url)
    return {
        "speedup_over_docker_run": {
            "sandbox_cold": ratio(peer_s, sandbox_s),
            "docker_cold": ratio(peer_s, docker_s),
        },
        "sandbox": summary(sandbox_s),
        "docker": summary(docker_s),
        "docker_run": summary(peer_s),
        "machine": {**surroundings, "docker": docker_version},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.start", description="Session start against docker run.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    given = parser.parse_args()
    result = measure(given.rounds)
    print(json.dumps(result, indent=None if given.json else 2))


if __name__ == "__main__":
    main()
