"""The GPU of this machine: its limits, its state, and arrays that a kernel may be given. CuPy is imported only inside functions."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from perfmodel.validation.fused.problem import DeviceLimits, DType, GpuError, Problem

INSTALL: Final = "pip install 'perfmodel[gpu]'"
ALIGNMENT_BYTES: Final = 16
NUMPY_TYPES: Final[dict[DType, tuple[str, ...]]] = {"fp16": ("float16",), "bf16": ("bfloat16", "uint16", "int16")}


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What `nvidia-smi` reads off a GPU at one moment."""

    sm_clock_hz: float
    memory_clock_hz: float
    power_w: float
    temperature_c: float


def cupy_with_gpu() -> Any:
    """The module, once it has seen a GPU. Raises GpuError with what to install where there is none."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise GpuError(f"CuPy is not installed, and the kernels are launched on its arrays; {INSTALL}") from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if "InsufficientDriver" in str(error):
            raise GpuError(
                f"the NVIDIA driver is older than CuPy's CUDA; update it, CUDA 13 needs 580 or later: {error}"
            ) from error
        raise GpuError(f"no NVIDIA GPU that CUDA can use: {error}") from error
    if not count:
        raise GpuError("no NVIDIA GPU that CUDA can use")
    return cupy


def this_device() -> DeviceLimits:
    """Limits of CuPy's current device."""
    cupy = cupy_with_gpu()
    device = cupy.cuda.Device()
    found = cupy.cuda.runtime.getDeviceProperties(device.id)
    return DeviceLimits(
        name=found["name"].decode(),
        compute_capability=(found["major"], found["minor"]),
        multiprocessors=found["multiProcessorCount"],
        shared_bytes_per_block=found["sharedMemPerBlockOptin"],
        shared_bytes_per_multiprocessor=found["sharedMemPerMultiprocessor"],
        l2_bytes=found["l2CacheSize"],
    )


def driver_version() -> str:
    """Of the kernel driver, such as 580.159.04; empty where nvidia-smi is missing."""
    return _smi("driver_version").strip()


def state() -> State | None:
    """Clocks, power and temperature; None where nvidia-smi does not say."""
    try:
        sm, memory, power, temperature = map(float, _smi("clocks.sm,clocks.mem,power.draw,temperature.gpu").split(","))
    except ValueError:
        return None
    return State(sm_clock_hz=sm * 1e6, memory_clock_hz=memory * 1e6, power_w=power, temperature_c=temperature)


def _smi(fields: str) -> str:
    """Of CuPy's current device, by its PCI bus: the indices of nvidia-smi do not follow CUDA_VISIBLE_DEVICES."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [
        program,
        f"--id={cupy_with_gpu().cuda.Device().pci_bus_id}",
        f"--query-gpu={fields}",
        "--format=csv,noheader,nounits",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@contextlib.contextmanager
def in_memory(what: str) -> Iterator[None]:
    """CuPy's or torch's want of memory as one sentence that says what did not fit."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        said = str(error).splitlines()[0].rstrip(".")
        raise GpuError(f"{what} do not fit the GPU's memory, use a smaller batch: {said}") from error


def as_cupy(array: Any, problem: Problem, what: str, shape: tuple[int, ...]) -> Any:
    """A CuPy view of an N×H×W×C array of that shape: CuPy's own, or any that speaks DLPack, such as a torch tensor.

    bf16 comes as ml_dtypes' bfloat16, as its bits (uint16), or as a torch tensor. Raises GpuError for another shape, type, layout or
    place: nothing is copied.
    """
    cupy = cupy_with_gpu()
    if type(array).__module__.split(".")[0] == "torch":
        torch = importlib.import_module("torch")
        wanted = {"fp16": torch.float16, "bf16": torch.bfloat16}[problem.dtype]
        if array.dtype is not wanted:
            raise GpuError(f"{what} has the type {array.dtype}; {problem.name} needs {wanted}")
        if not array.is_cuda:
            raise GpuError(f"{what} is on {array.device}; move it to the GPU")
        array = array.detach().view(torch.int16) if problem.dtype == "bf16" else array.detach()
    if not isinstance(array, cupy.ndarray):
        if not hasattr(array, "__dlpack__"):
            raise GpuError(f"{what} is a {type(array).__name__}; a CuPy array or one that speaks DLPack is needed")
        try:
            array = cupy.from_dlpack(array)
        except (BufferError, TypeError, ValueError, RuntimeError) as error:
            raise GpuError(f"{what} is not on this GPU, or DLPack cannot hand it over: {error}") from error
    if str(array.dtype) not in NUMPY_TYPES[problem.dtype]:
        raise GpuError(f"{what} has the type {array.dtype}; {problem.name} needs {' or '.join(NUMPY_TYPES[problem.dtype])}")
    if array.shape != shape:
        raise GpuError(f"{what} has the shape {array.shape}; {problem.name} needs {shape}: N, H, W, C, channels last")
    if not array.flags.c_contiguous:
        raise GpuError(
            f"{what} is not contiguous in the order N, H, W, C; a torch tensor in channels_last needs permute(0, 2, 3, 1)"
        )
    if array.data.ptr % ALIGNMENT_BYTES:
        raise GpuError(f"{what} starts at an address that is not a multiple of {ALIGNMENT_BYTES} bytes")
    return array
