"""CUDA source to machine code, with NVRTC alone: no GPU, no driver, no nvcc. What was compiled once is kept."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import hashlib
import importlib.resources
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perfmodel.validation.fused.configuration import Config, Constants, short_names
from perfmodel.validation.fused.problem import GpuError

GENERATED: Final = "specialisation.h"
OPTIONS: Final = ("-std=c++17", "--ptxas-options=-v")
INCLUDED = re.compile(r'^\s*#include "([^"]+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """All that reaches the compiler."""

    name: str
    """Of the function, with its specialisation."""
    source: str
    headers: tuple[tuple[str, str], ...]
    """Ours, with the generated one: name and text."""
    options: tuple[str, ...]
    architecture: str

    def key(self, compiler: str) -> str:
        """A digest of everything that decides the machine code; `compiler` is its version."""
        digest = hashlib.sha256()
        for part in (
            self.source,
            *(text for header in self.headers for text in header),
            *self.options,
            self.architecture,
            compiler,
        ):
            digest.update(f"{len(part)}:{part}".encode())
        return digest.hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """Machine code, and what the assembler says about it."""

    unit: Unit
    cubin: bytes
    log: str

    @property
    def registers(self) -> int | None:
        """For each thread, at launch."""
        return _number(r"Used (\d+) registers", self.log)

    @property
    def spilled_bytes(self) -> int | None:
        """Stored to and loaded from local memory for want of registers."""
        stored, loaded = (_number(rf"(\d+) bytes spill {what}", self.log) for what in ("stores", "loads"))
        return None if stored is None or loaded is None else stored + loaded

    @property
    def serialised(self) -> bool:
        """Whether the assembler put waits between matrix instructions that the source does not ask for."""
        return "C75" in self.log and "wgmma" in self.log


def unit_of(config: Config, architecture: str, constants: Constants = ()) -> Unit:
    """The source of a kernel with the header that specialises it; `constants` are those of one of several launches."""
    folder = importlib.resources.files("perfmodel.validation") / "kernels"
    source = (folder / f"{config.kernel}.cu").read_text(encoding="utf-8")
    name = "_".join((config.name, *short_names(constants)))
    lines = [
        "#pragma once",
        f"#define KERNEL_NAME {name}",
        *(f"#define {constant} {value}" for constant, value in (*config.constants, *constants)),
    ]
    headers = ((GENERATED, "\n".join(lines) + "\n"), *headers_of(source))
    return Unit(name=name, source=source, headers=headers, options=OPTIONS, architecture=architecture)


def headers_of(source: str) -> tuple[tuple[str, str], ...]:
    """Name and text of each of our headers that a source includes, or that one of them includes."""
    folder = importlib.resources.files("perfmodel.validation") / "kernels"
    found: dict[str, str] = {}
    texts = [source]
    while texts:
        for included in INCLUDED.findall(texts.pop()):
            if included not in found and included != GENERATED:
                found[included] = (folder / included).read_text(encoding="utf-8")
                texts.append(found[included])
    return tuple(found.items())


def compile_unit(unit: Unit, *, cache: Path | None = None) -> Compiled:
    """Compile, or read what was compiled before. `cache` defaults to PERFMODEL_CACHE, else ~/.cache/perfmodel/kernels.

    Raises GpuError where there is no NVRTC, and where it refuses the source.
    """
    compiler = _library()
    folder = cache if cache is not None else default_cache()
    kept = folder / f"{unit.name}-{unit.key(compiler.version)}.cubin"
    log = kept.with_suffix(".log")
    if kept.is_file() and log.is_file():
        return Compiled(unit=unit, cubin=kept.read_bytes(), log=log.read_text(encoding="utf-8"))
    done = compiler.compile(unit)
    folder.mkdir(parents=True, exist_ok=True)
    for path, data in ((log, done.log.encode()), (kept, done.cubin)):  # the code last: it marks the pair as whole
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_bytes(data)
        fresh.replace(path)
    return done


def default_cache() -> Path:
    """Where machine code is kept."""
    named = os.environ.get("PERFMODEL_CACHE")
    return (Path(named) if named else Path.home() / ".cache" / "perfmodel") / "kernels"


def compiler_version() -> str:
    """Of NVRTC, such as 13.0."""
    return _library().version


def _number(pattern: str, text: str) -> int | None:
    found = re.findall(pattern, text)
    return max(map(int, found)) if found else None


class _Nvrtc:
    """The library behind a C interface: a handle for each program, codes for errors."""

    def __init__(self, library: ctypes.CDLL, include: tuple[Path, ...]) -> None:
        self._library, self._include = library, include
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        self.version = f"{major.value}.{minor.value}"

    def compile(self, unit: Unit) -> Compiled:
        """Source to cubin."""
        headers = [text.encode() for _, text in unit.headers]
        names = [name.encode() for name, _ in unit.headers]
        options = [f"-arch={unit.architecture}", *unit.options, *(f"-I{path}" for path in self._include)]
        encoded = [option.encode() for option in options]
        program = ctypes.c_void_p()
        strings = ctypes.c_char_p * len(headers)
        created = self._library.nvrtcCreateProgram(
            ctypes.byref(program),
            unit.source.encode(),
            f"{unit.name}.cu".encode(),
            len(headers),
            strings(*headers),
            strings(*names),
        )
        self._check(created)
        try:
            code = self._library.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded))
            log = self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            if code:
                reason = self._library.nvrtcGetErrorString(code).decode()
                raise GpuError(f"NVRTC {self.version} refuses {unit.name} for {unit.architecture} ({reason}): {log.strip()}")
            return Compiled(unit=unit, cubin=self._read(program, "CUBIN"), log=log)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _check(self, code: int) -> None:
        if code:
            raise GpuError(f"NVRTC failed: {self._library.nvrtcGetErrorString(code).decode()}")


@functools.cache
def _library() -> _Nvrtc:
    """From the PyPI packages of CUDA, else from CUDA_PATH or CUDA_HOME, else from where the system finds libraries."""
    homes = []
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        homes += [*sorted(Path(place).glob("cu[0-9]*"), reverse=True), Path(place) / "cuda_nvrtc"]
    homes += [Path(os.environ[name]) for name in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(name)]
    homes.append(Path("/usr/local/cuda"))
    include = tuple(path for home in homes for path in (home / "include", home / "include" / "cccl") if path.is_dir())
    found = [path for home in homes for sub in ("lib", "lib64") for path in sorted((home / sub).glob("libnvrtc.so*"))]
    system = ctypes.util.find_library("nvrtc")
    for candidate in [*map(str, found), *([system] if system else [])]:
        try:
            for builtins in Path(candidate).parent.glob("libnvrtc-builtins.so*"):
                ctypes.CDLL(str(builtins))  # NVRTC opens it by its bare name
            return _Nvrtc(ctypes.CDLL(candidate), include)
        except OSError:
            continue
    raise GpuError("no NVRTC to compile the kernels with; pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-cccl")
