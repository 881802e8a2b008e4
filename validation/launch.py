"""Machine code onto the GPU and started, through the driver's C interface; and the fused block as a callable."""

from __future__ import annotations

import ctypes
import functools
import importlib
from typing import Any, Final

from perfmodel.validation.compile import Compiled, compile_unit, compiler_version, unit_of
from perfmodel.validation.configuration import Config, Kernel, Launch, TensorBox, boxes_of, choose_config, launch_of
from perfmodel.validation.gpu import as_cupy, cupy_with_gpu, this_device
from perfmodel.validation.packing import Parameters, pack
from perfmodel.validation.problem import DeviceLimits, GpuError, Problem

TENSOR_MAP_BYTES: Final = 128
TENSOR_MAP_ALIGNMENT: Final = 64
TENSOR_MAP_FP16: Final = 6
SWIZZLE_128: Final = 3
PROMOTE_L2_256: Final = 3
MAX_DYNAMIC_SHARED_SIZE_BYTES: Final = 8
PROGRAMMATIC_STREAM_SERIALIZATION: Final = 6


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
                raise GpuError(f"{name} failed: {(text.value or b'unknown error').decode()} (code {code})")

        return checked


@functools.cache
def _driver() -> _Driver:
    driver = _Driver()
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    compiler = compiler_version()
    if version.value // 1000 < int(compiler.split(".", maxsplit=1)[0]):
        served = f"{version.value // 1000}.{version.value % 1000 // 10}"
        raise GpuError(f"the NVIDIA driver serves CUDA up to {served} and the compiler is CUDA {compiler}; update the driver")
    return driver


def tensor_map(pointer: int, box: TensorBox) -> Any:
    """A CUtensorMap of an fp16 tensor, 128-byte swizzle, zeros outside, aligned as the driver asks."""
    rank = len(box.dims)
    buffer = ctypes.create_string_buffer(TENSOR_MAP_BYTES + TENSOR_MAP_ALIGNMENT)
    aligned = (ctypes.c_char * TENSOR_MAP_BYTES).from_buffer(buffer, -ctypes.addressof(buffer) % TENSOR_MAP_ALIGNMENT)
    _driver().cuTensorMapEncodeTiled(
        ctypes.byref(aligned),
        TENSOR_MAP_FP16,
        rank,
        ctypes.c_void_p(pointer),
        (ctypes.c_uint64 * rank)(*box.dims),
        (ctypes.c_uint64 * (rank - 1))(*box.strides_bytes),
        (ctypes.c_uint32 * rank)(*box.box),
        (ctypes.c_uint32 * rank)(*[1] * rank),
        0,
        SWIZZLE_128,
        PROMOTE_L2_256,
        0,
    )
    return aligned


class Function:
    """A compiled kernel on the current device."""

    def __init__(self, compiled: Compiled, shared_bytes: int) -> None:
        self._module, self._handle = ctypes.c_void_p(), ctypes.c_void_p()
        cupy_with_gpu().cuda.runtime.free(0)  # makes the device's context the current one
        driver = _driver()
        driver.cuModuleLoadData(ctypes.byref(self._module), compiled.cubin)
        driver.cuModuleGetFunction(ctypes.byref(self._handle), self._module, compiled.unit.name.encode())
        driver.cuFuncSetAttribute(self._handle, MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)

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


class FusedConvFirst:
    """One ConvFirst block on the GPU: `block(x)` returns silu(conv(x)·We + be)·Wp + bp + x in one launch.

    `x` is N×H×W×C, a CuPy array or a torch tensor; what comes back is of the same kind, on the caller's current stream. `only` names a
    kernel instead of choosing it. The weights are packed once.
    """

    def __init__(
        self, problem: Problem, parameters: Parameters, *, only: Kernel | None = None, device: DeviceLimits | None = None
    ) -> None:
        cupy = cupy_with_gpu()
        self.problem = problem
        self.device = device or this_device()
        self.config: Config = choose_config(problem, self.device, only=only)
        self.launch: Launch = launch_of(problem, self.config, self.device)
        self.compiled: Compiled = compile_unit(unit_of(self.config, self.device.architecture))
        self._boxes = boxes_of(problem, self.config)
        self._function = Function(self.compiled, self.config.shared_bytes)
        try:
            self._weights = [cupy.asarray(buffer) for buffer in pack(problem, self.config, parameters)]
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise GpuError(f"{problem.name}: the weights do not fit the GPU's memory: {error}") from error

    def __call__(self, x: Any, out: Any = None) -> Any:
        """Into `out` if it is given. `out` must not be `x`: neighbouring tiles read what others write."""
        cupy = cupy_with_gpu()
        torch = importlib.import_module("torch") if type(x).__module__.split(".")[0] == "torch" else None
        source = as_cupy(x, self.problem, "the input")
        try:
            result = (torch.empty_like(x) if torch else cupy.empty_like(source)) if out is None else out
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise GpuError(f"{self.problem.name}: the output does not fit the GPU's memory: {error}") from error
        target = as_cupy(result, self.problem, "the output")
        begin, end, size = source.data.ptr, target.data.ptr, self.problem.tensor_bytes
        if abs(begin - end) < size:
            raise GpuError("the output overlaps the input; the kernel reads its neighbours' pixels, give it another buffer")
        stream = torch.cuda.current_stream().cuda_stream if torch else cupy.cuda.get_current_stream().ptr
        self._function(self.launch, self._arguments(begin, end), stream)
        return result

    def _arguments(self, source: int, target: int) -> list[Any]:
        weights = [ctypes.c_void_p(buffer.data.ptr) for buffer in self._weights]
        if self._boxes is None:
            return [ctypes.c_void_p(source), ctypes.c_void_p(target), *weights]
        return [tensor_map(source, self._boxes[0]), tensor_map(target, self._boxes[1]), *weights]
