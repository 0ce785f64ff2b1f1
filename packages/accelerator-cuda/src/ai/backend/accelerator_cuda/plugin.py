"""NVIDIA GPUs by way of NVML, the library of the driver: whole ones, or shares of them.

Shares are shares of what is given out: who gets half a GPU has another half of it as a neighbour at most, and is told how much memory is
half. Nothing keeps a program from taking more; where that matters, give whole GPUs.

Options (`[agent.accelerators.cuda]`), all optional:

    fractional = true        shares are given (cuda.shares), else whole GPUs (cuda.device)
    engine = "cdi"           how Docker is asked for them: nvidia (NVIDIA's runtime; the default) or cdi (nvidia.com/gpu=UUID)
    hidden = ["GPU-..."]     UUIDs of those that are not offered
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
import pynvml

from ai.backend.plugin.accelerator import (
    WHOLE,
    Accelerator,
    Attachment,
    Device,
    EngineRequest,
    Given,
    Node,
    SlotInfo,
    Usage,
)

SHARE_QUANTUM = 10
_CONTROL = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
"""Device files that every program needs beside its GPU's own."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    fractional: bool = False
    engine: Literal["nvidia", "cdi"] = "nvidia"
    hidden: tuple[str, ...] = ()


class Cuda:
    key = "cuda"

    def __init__(self, options: Options, dev: Path, pci: Path) -> None:
        """`dev` and `pci`: where the node's device files and PCI devices are told."""
        self._options = options
        self._dev, self._pci = dev, pci
        self._minors: dict[str, int] = {}
        self._slot = "cuda.shares" if options.fractional else "cuda.device"
        self.slots: Sequence[SlotInfo] = (
            SlotInfo(
                slot=self._slot,
                description="Shares of NVIDIA GPUs" if options.fractional else "NVIDIA GPUs",
                name="GPU",
                unit="share" if options.fractional else "GPU",
                shared=options.fractional,
                quantum=SHARE_QUANTUM if options.fractional else WHOLE,
            ),
        )

    def facts(self) -> Mapping[str, str]:
        version = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return {
            "driver_version": pynvml.nvmlSystemGetDriverVersion(),
            "cuda_version": f"{version // 1000}.{version % 1000 // 10}",
        }

    def devices(self) -> Sequence[Device]:
        found = [self._device(number) for number in range(pynvml.nvmlDeviceGetCount())]
        return [one for one in found if one.id not in self._options.hidden]

    def _device(self, number: int) -> Device:
        """A GPU of which the driver does not say who it is has its number as id: it can't be given anyway."""
        uuid, model, problem = f"gpu-{number}", "unknown", ""
        memory_bytes, numa_node, location = 0, -1, ""
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            uuid, model = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
            memory_bytes = pynvml.nvmlDeviceGetMemoryInfo(handle).total
            location = pynvml.nvmlDeviceGetPciInfo(handle).busId.lower()[-12:]
            numa_node = self._numa_node(location)
            self._minors[uuid] = pynvml.nvmlDeviceGetMinorNumber(handle)
            if _is_cut(handle):
                problem = "it is in MIG mode; only whole GPUs and shares of them can be given"
        except pynvml.NVMLError as exc:
            problem = f"the driver says: {exc}"
        return Device(
            id=uuid,
            slot=self._slot,
            model=model,
            memory_bytes=memory_bytes,
            numa_node=numa_node,
            location=location,
            problem=problem,
        )

    def _numa_node(self, location: str) -> int:
        try:
            return int((self._pci / location / "numa_node").read_text())
        except (OSError, ValueError):
            return -1

    def usage(self) -> Mapping[str, Usage]:
        found = {}
        for number in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(number)
                found[pynvml.nvmlDeviceGetUUID(handle)] = Usage(
                    percent=float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu),
                    memory_bytes=pynvml.nvmlDeviceGetMemoryInfo(handle).used,
                )
            except pynvml.NVMLError:
                continue  # its `problem` is told by `devices`
        return found

    def attach(self, given: Sequence[Given], *, engine: bool) -> Attachment:
        uuids = tuple(one.device.id for one in given)
        environ = {"NVIDIA_VISIBLE_DEVICES": ",".join(uuids), "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
        if engine and self._options.engine == "cdi":
            names = tuple(f"nvidia.com/gpu={uuid}" for uuid in uuids)
            return Attachment(environ=environ, requests=(EngineRequest(driver="cdi", ids=names),))
        if engine:
            request = EngineRequest(driver="nvidia", ids=uuids, capabilities=("gpu", "compute", "utility"))
            return Attachment(environ=environ, requests=(request,))
        files = [f"nvidia{self._minors[uuid]}" for uuid in uuids] + list(_CONTROL)
        nodes = tuple(
            Node(source=self._dev / name, target=PurePosixPath("/dev", name))
            for name in files
            if (self._dev / name).exists()
        )
        return Attachment(environ=environ, nodes=nodes)

    def close(self) -> None:
        pynvml.nvmlShutdown()


def _is_cut(handle: Any) -> bool:
    try:
        return bool(pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE)
    except pynvml.NVMLError_NotSupported:
        return False


def create(
    options: Mapping[str, Any], *, dev: Path = Path("/dev"), pci: Path = Path("/sys/bus/pci/devices")
) -> Accelerator | None:
    """None where there is no driver. Raises msgspec.ValidationError for options that are wrong, and NVMLError when the driver is there
    and does not work."""
    converted = msgspec.convert(options, Options)
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return None
    return Cuda(converted, dev, pci)
