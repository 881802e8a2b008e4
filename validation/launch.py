"""A fused block as a callable: its kernels compiled, its weights packed, its arguments in their order."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

from perfmodel.validation.compile import Compiled, compile_unit, unit_of
from perfmodel.validation.driver import Function, tensor_map
from perfmodel.validation.fused.catalog import family_of
from perfmodel.validation.fused.configuration import Config, Launch, Operand
from perfmodel.validation.fused.packing import Parameters
from perfmodel.validation.fused.problem import DeviceLimits, GpuError, Problem
from perfmodel.validation.gpu import as_cupy, cupy_with_gpu, in_memory, this_device


class FusedBlock:
    """One residual block on the GPU: `block(x)` is what its family's `reference` says, in one launch; around a global mean in three.

    `x` is N×H×W×C, a CuPy array or a torch tensor; what comes back is of the same kind, on the caller's current stream. `only` names a
    kernel instead of choosing it, `config` gives a configuration of one. The weights are packed once. Calls of one block share its scratch:
    on several streams make a block for each. Raises GpuError for whatever cannot run, before anything is launched.
    """

    def __init__(
        self,
        problem: Problem,
        parameters: Parameters,
        *,
        only: str | None = None,
        config: Config | None = None,
        device: DeviceLimits | None = None,
    ) -> None:
        cupy, family = cupy_with_gpu(), family_of(problem)
        if not isinstance(parameters, family.parameters):
            raise GpuError(f"{problem.name} needs {family.parameters.__name__}, not {type(parameters).__name__}")
        parameters.check(problem)
        self.problem = problem
        self.device = device or this_device()
        self.config: Config = config or family.choose(problem, self.device, only=only)
        kernel = family.by_name[self.config.kernel]
        self.launches: tuple[Launch, ...] = kernel.launches(problem, self.config, self.device)
        units = [unit_of(self.config, self.device.architecture, launch.constants) for launch in self.launches]
        self.compiled: tuple[Compiled, ...] = tuple(compile_unit(unit) for unit in units)
        self._functions = [
            Function(code, launch.shared_bytes, launch.cluster) for code, launch in zip(self.compiled, self.launches, strict=True)
        ]
        self._scratch_records = kernel.scratch(problem, self.config)
        with in_memory(f"{problem.name}: the weights and what lies between the launches"):
            self._weights = [cupy.asarray(buffer) for buffer in kernel.pack(problem, self.config, parameters)]
            self._scratch = [cupy.zeros(record.bytes, cupy.uint8) for record in self._scratch_records]
            cupy.cuda.get_current_stream().synchronize()  # calls may come on other streams

    def __call__(self, x: Any, out: Any = None) -> Any:
        """Into `out` if it is given. `out` must not be `x`: neighbouring tiles read what others write."""
        cupy, problem = cupy_with_gpu(), self.problem
        torch = importlib.import_module("torch") if type(x).__module__.split(".")[0] == "torch" else None
        source = as_cupy(x, problem, "the input", problem.input_shape)
        if out is None:
            with in_memory(f"{problem.name}: the output"):
                out = x.new_empty(problem.output_shape) if torch else cupy.empty(problem.output_shape, source.dtype)
        target = as_cupy(out, problem, "the output", problem.output_shape)
        begin, end = source.data.ptr, target.data.ptr
        if begin < end + problem.output_bytes and end < begin + problem.input_bytes:
            raise GpuError("the output overlaps the input; the kernel reads its neighbours' pixels, give it another buffer")
        stream = torch.cuda.current_stream().cuda_stream if torch else cupy.cuda.get_current_stream().ptr
        for record, buffer in zip(self._scratch_records, self._scratch, strict=True):
            if record.zeroed:
                cupy.cuda.runtime.memsetAsync(buffer.data.ptr, 0, record.bytes, stream)
        for function, launch in zip(self._functions, self.launches, strict=True):
            function(launch, [self._value(operand, begin, end) for operand in launch.operands], stream)
        return out

    def _value(self, operand: Operand, source: int, target: int) -> Any:
        buffers = {
            "x": (source,),
            "y": (target,),
            "weights": tuple(buffer.data.ptr for buffer in self._weights),
            "scratch": tuple(buffer.data.ptr for buffer in self._scratch),
        }
        pointer = buffers[operand.buffer][operand.index]
        return ctypes.c_void_p(pointer) if operand.box is None else tensor_map(pointer, operand.box)
