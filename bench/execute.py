"""The round trip of one small execution, against a local Jupyter kernel without any cluster around it.

`python -m bench.execute [--rounds 50] [--backend sandbox] [--json]`. Ours: over one kept WebSocket, over a new WebSocket each time, and
over plain HTTP, each through gateway, manager, bus, agent and runner. The peer: `jupyter_client`'s `execute_interactive` on an ipykernel
child process. Each round does all four, in turn.
"""

import argparse
import json
from importlib import metadata
from typing import Any

from jupyter_client.manager import start_new_kernel

from ai.backend.client.sync import Client

from .cluster import python_image, running
from .measure import machine, ratio, summary, timed

CODE = "print(6 * 7)"
OUTPUT = "42\n"


def measure(rounds: int, backend: str = "sandbox") -> dict[str, Any]:
    surroundings = machine()
    samples: dict[str, list[float]] = {"websocket_keep": [], "websocket": [], "http": [], "jupyter": []}
    manager, kernel = start_new_kernel(kernel_name="python3")
    try:
        with running(backend) as cluster, Client(cluster.config) as api:
            session = api.sessions.create(image=python_image(api), resources={"cpu": "1", "mem": "256m"})
            with session, session.console() as console:

                def jupyter() -> None:
                    printed: list[str] = []

                    def collect(message: dict[str, Any]) -> None:
                        if message["msg_type"] == "stream":
                            printed.append(message["content"]["text"])

                    kernel.execute_interactive(CODE, output_hook=collect, timeout=60)
                    assert "".join(printed) == OUTPUT

                def kept() -> None:
                    assert console.run(CODE).stdout == OUTPUT

                def once() -> None:
                    assert session.run(CODE).stdout == OUTPUT

                def http() -> None:
                    assert session.run(CODE, transport="http").stdout == OUTPUT

                actions = {"websocket_keep": kept, "websocket": once, "http": http, "jupyter": jupyter}
                for number in range(rounds + 3):
                    for name, action in actions.items():
                        took_s = timed(action)
                        if number >= 3:  # the first rounds warm every side
                            samples[name].append(took_s)
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)
    return {
        "speedup_over_jupyter": {
            name: ratio(samples["jupyter"], samples[name]) for name in ("websocket_keep", "websocket", "http")
        },
        **{name: summary(taken) for name, taken in samples.items()},
        "machine": {
            **surroundings,
            "ipykernel": metadata.version("ipykernel"),
            "jupyter_client": metadata.version("jupyter_client"),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.execute", description="Execution round trip against Jupyter."
    )
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--backend", default="sandbox")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    given = parser.parse_args()
    result = measure(given.rounds, given.backend)
    print(json.dumps(result, indent=None if given.json else 2))


if __name__ == "__main__":
    main()
