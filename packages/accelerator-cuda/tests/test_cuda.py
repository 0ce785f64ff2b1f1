"""The plugin with NVIDIA's own Python binding, on a library that stands in for the driver's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from ai.backend.accelerator_cuda.plugin import create
from ai.backend.plugin.accelerator import Given, wrongs

options, dev, pci, engine = json.loads(sys.argv[1])
one = create(options, dev=Path(dev), pci=Path(pci))
if one is None:
    print("null")
    sys.exit()
devices = one.devices()
given = [Given(device=device, milli=1000) for device in devices if not device.problem]
told = {"devices": [asdict(d) for d in devices], "facts": dict(one.facts()), "wrongs": wrongs(one, devices),
        "usage": {name: asdict(u) for name, u in one.usage().items()},
        "attached": asdict(one.attach(given, engine=engine)), "slots": [asdict(s) for s in one.slots]}
one.close()
print(json.dumps(told, default=str))
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of libnvidia-ml.so.1."""
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    target = folder / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(target), str(source)], check=True)
    return folder


def seen(
    library: Path | None,
    tmp_path: Path,
    options: dict[str, Any] | None = None,
    engine: bool = False,
    **told: int,
) -> Any:
    """What the plugin says; `told`: the library's variables."""
    dev, pci = tmp_path / "dev", tmp_path / "pci"
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        dev.mkdir(exist_ok=True)
        (dev / name).touch()
    (pci / "0000:0b:00.0").mkdir(parents=True, exist_ok=True)
    (pci / "0000:0b:00.0" / "numa_node").write_text("1\n")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([options or {}, str(dev), str(pci), engine])],
        env={
            **os.environ,
            **{name: str(value) for name, value in told.items()},
            "LD_LIBRARY_PATH": str(library or tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_without_a_driver_there_is_nothing(tmp_path: Path) -> None:
    assert seen(None, tmp_path) is None


def test_what_there_is(library: Path, tmp_path: Path) -> None:
    told = seen(library, tmp_path)
    assert told["wrongs"] == []
    assert told["facts"] == {"driver_version": "999.12", "cuda_version": "13.1"}
    first, second = told["devices"]
    assert first["id"] == "GPU-00000000-fake" and first["slot"] == "cuda.device"
    assert second["model"] == "NVIDIA H100 Fake" and second["memory_bytes"] == 80 << 30
    assert second["location"] == "0000:0b:00.0" and (first["numa_node"], second["numa_node"]) == (-1, 1)
    assert told["usage"]["GPU-00000001-fake"] == {"percent": 31.0, "memory_bytes": 1 << 30}


def test_how_containers_get_them(library: Path, tmp_path: Path) -> None:
    uuids = ["GPU-00000000-fake", "GPU-00000001-fake"]
    by_hand = seen(library, tmp_path)["attached"]
    assert by_hand["environ"]["NVIDIA_VISIBLE_DEVICES"] == ",".join(uuids)
    assert [node["target"] for node in by_hand["nodes"]] == [
        "/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm",
    ]  # fmt: skip
    assert by_hand["requests"] == []
    (request,) = seen(library, tmp_path, engine=True)["attached"]["requests"]
    assert request == {"driver": "nvidia", "ids": uuids, "capabilities": ["gpu", "compute", "utility"]}
    (request,) = seen(library, tmp_path, {"engine": "cdi"}, engine=True)["attached"]["requests"]
    assert request["driver"] == "cdi" and request["ids"] == [f"nvidia.com/gpu={uuid}" for uuid in uuids]


def test_what_is_broken_is_told_and_costs_nobody_else(library: Path, tmp_path: Path) -> None:
    told = seen(library, tmp_path, FAKE_COUNT=3, FAKE_LOST=1, FAKE_MIG=2)
    fine, lost, cut = told["devices"]
    assert not fine["problem"] and "GPU is lost" in lost["problem"] and "MIG" in cut["problem"]
    assert told["wrongs"] == []
    assert told["attached"]["environ"]["NVIDIA_VISIBLE_DEVICES"] == fine["id"]


def test_options(library: Path, tmp_path: Path) -> None:
    told = seen(library, tmp_path, {"fractional": True, "hidden": ["GPU-00000000-fake"]})
    (device,) = told["devices"]
    assert device["slot"] == "cuda.shares" and device["id"] == "GPU-00000001-fake"
    assert told["slots"][0]["shared"] and told["slots"][0]["quantum"] == 10
    with pytest.raises(AssertionError, match="shares_of"):
        seen(library, tmp_path, {"shares_of": 3})
