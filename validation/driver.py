"""Machine code onto the GPU and started, through the driver's C interface."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Final

from perfmodel.validation.compile import Compiled, compiler_version
from perfmodel.validation.fused.configuration import Launch, TensorBox
from perfmodel.validation.fused.problem import GpuError
from perfmodel.validation.gpu import cupy_with_gpu

TENSOR_MAP_BYTES: Final = 128
TENSOR_MAP_ALIGNMENT: Final = 64
TENSOR_MAP_TYPES: Final = {"fp16": 6, "bf16": 9}
SWIZZLES: Final = {0: 0, 32: 1, 64: 2, 128: 3}
PROMOTE_L2_256: Final = 3
MAX_DYNAMIC_SHARED_SIZE_BYTES: Final = 8
NON_PORTABLE_CLUSTER_SIZE_ALLOWED: Final = 14
PORTABLE_CLUSTER: Final = 8
"""Blocks of a cluster that every device with clusters grants."""
PROGRAMMATIC_STREAM_SERIALIZATION: Final = 6
REASONS: Final = {
    2: "the GPU's memory is full; use a smaller batch or free what other programs hold",
    209: "the machine code is not for this GPU's architecture",
    218: "the machine code needs a newer driver",
    222: "the machine code needs a newer driver; CUDA 13 needs driver 580 or later",
}
"""What the commonest of the driver's error codes mean here."""


class _Attribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60))


class _LaunchConfig(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint),
    )


class _Driver:
    """libcuda, with its error codes as sentences."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise GpuError("no NVIDIA driver on this machine (libcuda.so.1)") from error

    def __getattr__(self, name: str) -> Any:
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise GpuError(f"the NVIDIA driver is too old: it has no {name}; CUDA 13 needs driver 580 or later") from error

        def checked(*arguments: Any) -> None:
            if code := function(*arguments):
                text = ctypes.c_char_p()
                self._library.cuGetErrorString(code, ctypes.byref(text))
                reason = REASONS.get(code) or (text.value or b"unknown error").decode()
                raise GpuError(f"{name} failed: {reason} (code {code})")

        return checked


@functools.cache
def _driver() -> _Driver:
    driver = _Driver()
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    require_driver(version.value, compiler_version())
    return driver


def require_driver(served: int, compiler: str) -> None:
    """Raise where the driver, which serves CUDA up to `served` (1000·major + 10·minor), is older than the compiler."""
    if served // 1000 < int(compiler.split(".", maxsplit=1)[0]):
        newest = f"{served // 1000}.{served % 1000 // 10}"
        raise GpuError(f"the NVIDIA driver serves CUDA up to {newest} and the compiler is CUDA {compiler}; update the driver")


def tensor_map(pointer: int, box: TensorBox) -> Any:
    """A CUtensorMap: zeros outside of the tensor, aligned as the driver asks."""
    rank = len(box.dims)
    buffer = ctypes.create_string_buffer(TENSOR_MAP_BYTES + TENSOR_MAP_ALIGNMENT)
    aligned = (ctypes.c_char * TENSOR_MAP_BYTES).from_buffer(buffer, -ctypes.addressof(buffer) % TENSOR_MAP_ALIGNMENT)
    _driver().cuTensorMapEncodeTiled(
        ctypes.byref(aligned),
        TENSOR_MAP_TYPES[box.dtype],
        rank,
        ctypes.c_void_p(pointer),
        (ctypes.c_uint64 * rank)(*box.dims),
        (ctypes.c_uint64 * (rank - 1))(*box.strides_bytes),
        (ctypes.c_uint32 * rank)(*box.box),
        (ctypes.c_uint32 * rank)(*[1] * rank),
        0,
        SWIZZLES[box.swizzle_bytes],
        PROMOTE_L2_256,
        0,
    )
    return aligned


class Function:
    """A compiled kernel on the current device."""

    def __init__(self, compiled: Compiled, shared_bytes: int, cluster: int = 1) -> None:
        self.compiled = compiled
        self._module, self._handle = ctypes.c_void_p(), ctypes.c_void_p()
        cupy_with_gpu().cuda.runtime.free(0)  # makes the device's context the current one
        driver = _driver()
        driver.cuModuleLoadData(ctypes.byref(self._module), compiled.cubin)
        driver.cuModuleGetFunction(ctypes.byref(self._handle), self._module, compiled.unit.name.encode())
        driver.cuFuncSetAttribute(self._handle, MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)
        if cluster > PORTABLE_CLUSTER:
            driver.cuFuncSetAttribute(self._handle, NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)

    def __call__(self, launch: Launch, leading: list[Any], stream: int) -> None:
        """Start it with the `leading` arguments (ctypes values), then the launch's own."""
        values = [*leading, *(ctypes.c_int(value) for value in launch.arguments)]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        attribute = _Attribute(id=PROGRAMMATIC_STREAM_SERIALIZATION, value=1)
        config = _LaunchConfig(
            grid=launch.grid,
            block=launch.block,
            shared_bytes=launch.shared_bytes,
            stream=stream,
            attributes=ctypes.pointer(attribute),
            attribute_count=int(launch.dependent),
        )
        _driver().cuLaunchKernelEx(ctypes.byref(config), self._handle, pointers, None)
