"""What a machine is, on no work: frozen records whose numbers carry a unit in the name and a document behind them.

Everything is SI without prefixes: bytes, hertz, bytes per second, operations per second, seconds, watts. One
multiply-accumulate is two operations. A number that no trustworthy document gives is absent, and whatever needs it
raises `HardwareError` naming it; it is never guessed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, NoReturn, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from perfmodel.errors import PerfmodelError, UnknownNameError, shown

Dtype = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8", "int4"]
Accumulate = Literal["fp64", "fp32", "bf16", "fp16", "int32"]
Unit = Literal["matrix", "vector", "special"]

DTYPES: Final[tuple[str, ...]] = get_args(Dtype)
ACCUMULATES: Final[tuple[str, ...]] = get_args(Accumulate)

#: What a framework accumulates in when nobody asks otherwise: cuDNN, cuBLAS and their peers keep fp32 sums for every
#: narrow floating type, int32 sums for integers and fp64 sums for fp64.
DEFAULT_ACCUMULATE: Final[Mapping[str, Accumulate]] = {
    "fp64": "fp64",
    **dict.fromkeys(("fp32", "tf32", "bf16", "fp16", "fp8", "fp4"), "fp32"),
    **dict.fromkeys(("int8", "int4"), "int32"),
}

#: A published peak or bandwidth and the product of its parts may differ by this much (rounding in datasheets).
PRODUCT_TOLERANCE: Final = 0.05


class HardwareError(PerfmodelError):
    """A device lacks a number or a capability that was asked for, or its file is wrong; one sentence."""


K = TypeVar("K")
V = TypeVar("V")


class FrozenDict(dict[K, V]):
    """A dict that cannot change, so that records holding one are frozen to the bottom and hashable."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("this mapping is part of a frozen record and cannot change")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]  # dict declares itself unhashable; this one cannot change
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


def _whole(value: object) -> object:
    """24e9 is a float in TOML; where a whole number is meant, take it as one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sources(value: Mapping[str, str]) -> Mapping[str, str]:
    return FrozenDict(value)


def _documents(value: Mapping[str, Document]) -> Mapping[str, Document]:
    return FrozenDict(value)


def _visible(text: str) -> str:
    """Texts are printed to terminals and into tables: no escapes, no line breaks, nothing that turns the direction."""
    for character in text:
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
            raise ValueError(f"the control character {shown(character)} is not allowed in a text")
    return text


# The ranges catch a slip of a prefix (GB/s written where bytes per second are meant), not an unusual machine.
Hertz = Annotated[float, Field(ge=1e7, le=1e10, allow_inf_nan=False)]
BytesPerSecond = Annotated[float, Field(ge=1e9, le=1e14, allow_inf_nan=False)]
OpsPerSecond = Annotated[float, Field(ge=1e9, le=1e17, allow_inf_nan=False)]
OpsPerClock = Annotated[float, Field(ge=1e-2, le=1e6, allow_inf_nan=False)]
TransfersPerSecond = Annotated[float, Field(ge=1e8, le=1e11, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=1e-9, le=1.0, allow_inf_nan=False)]
Watts = Annotated[float, Field(ge=0.1, le=1e5, allow_inf_nan=False)]
DramBytes = Annotated[int, BeforeValidator(_whole), Field(ge=10**7, le=10**14)]
CacheBytes = Annotated[int, BeforeValidator(_whole), Field(ge=10**4, le=10**10)]
SharedBytes = Annotated[int, BeforeValidator(_whole), Field(ge=10**3, le=10**9)]
Bits = Annotated[int, BeforeValidator(_whole), Field(ge=8, le=2**17)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=10**7)]
Figure = Annotated[float, Field(ge=1e-12, le=1e18, allow_inf_nan=False)]

Text = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_visible)]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Date = Annotated[str, Field(pattern=r"^\d{4}(-\d{2}){0,2}$")]
DocumentDate = Annotated[str, Field(pattern=r"^(\d{4}(-\d{2}){0,2}|undated)$")]


class Record(BaseModel):
    """Base of all records here: frozen, no unknown fields, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Document(Record):
    """A document that numbers are taken from: precise enough to find it again. What a tool prints is "undated"."""

    title: Text
    publisher: Text
    date: DocumentDate


class Sourced(Record):
    """A table whose numbers come from document `source`, but for the fields that `sources` names."""

    source: Key
    sources: Annotated[Mapping[str, Key], AfterValidator(_sources)] = Field(default_factory=FrozenDict)

    def numbers(self) -> Iterator[tuple[str, float]]:
        """The numbers that this table gives: (field, value)."""
        for field in type(self).model_fields:
            value = getattr(self, field)
            if isinstance(value, int | float):
                yield field, value

    def source_key(self, field: str) -> str:
        """The key of the document that stands behind `field`."""
        return self.sources.get(field, self.source)

    @model_validator(mode="after")
    def _sources_name_numbers(self) -> Self:
        given = [field for field, _ in self.numbers()]
        for field in self.sources:
            if field not in given:
                raise ValueError(f"sources names {field!r}, which is no number given in this table")
        return self


class Chip(Sourced):
    """The processor: how many multiprocessors, how fast, with what local memory.

    `boost_clock_hz` is the clock that the published peaks use. `max_clock_hz` is the highest clock the part really
    reaches (`nvidia-smi -q -d CLOCK`, "Max Clocks: SM"); a lower bound on latency needs it, so it must not be too low.
    The shared memory is what AMD calls LDS; per block it is the largest amount a program can opt in to.
    """

    multiprocessors: Count
    multiprocessor_name: Text
    boost_clock_hz: Hertz
    base_clock_hz: Hertz | None = None
    max_clock_hz: Hertz | None = None
    registers_per_multiprocessor: Count | None = None
    shared_memory_per_multiprocessor_bytes: SharedBytes | None = None
    shared_memory_per_block_bytes: SharedBytes | None = None
    max_threads_per_multiprocessor: Count | None = None


class Memory(Sourced):
    """The device memory and the caches between it and the multiprocessors.

    `l2_bytes` is the whole L2 (all dies, all partitions), as a program may see it. `last_level_cache_bytes` is given
    only where another level stands between the L2 and the memory: the Infinity Cache of AMD, the L3 of a CPU, the
    CMEM of a TPU v4.
    """

    kind: Text
    dram_bytes: DramBytes
    dram_bandwidth_bytes_per_s: BytesPerSecond
    dram_bus_width_bits: Bits | None = None
    dram_transfers_per_s: TransfersPerSecond | None = None
    l2_bytes: CacheBytes | None = None
    last_level_cache_bytes: CacheBytes | None = None

    @property
    def largest_cache_bytes(self) -> int | None:
        """The largest cache in front of the DRAM: what a kernel may find there without reading DRAM. None: unknown."""
        return max((size for size in (self.l2_bytes, self.last_level_cache_bytes) if size is not None), default=None)

    @property
    def highest_bandwidth_bytes_per_s(self) -> float:
        """For lower bounds: the published bandwidth, or bus width × rate where that is more (datasheets round down)."""
        if self.dram_bus_width_bits is None or self.dram_transfers_per_s is None:
            return self.dram_bandwidth_bytes_per_s
        return max(self.dram_bandwidth_bytes_per_s, self.dram_bus_width_bits / 8 * self.dram_transfers_per_s)


class Board(Sourced):
    """What the board or the driver adds."""

    power_w: Watts | None = None
    launch_overhead_s: Seconds | None = None


class Peak(Sourced):
    """A dense peak: `ops_per_s` = multiprocessors × `ops_per_clock_per_multiprocessor` × clock.

    Dense always; a multiply-accumulate counts two operations. `sparse_ops_per_s` is the figure published for 2:4
    structured sparsity, kept apart. On unit "special" one operation is one transcendental evaluation (ex2, rcp, tanh).
    `clock_hz` is given where the published figure uses another clock than `chip.boost_clock_hz`.
    """

    unit: Unit
    dtype: Dtype
    accumulate: Accumulate
    ops_per_s: OpsPerSecond
    ops_per_clock_per_multiprocessor: OpsPerClock
    sparse_ops_per_s: OpsPerSecond | None = None
    clock_hz: Hertz | None = None

    @property
    def path(self) -> str:
        """The name of this peak in `DeviceSpec.source_of`: `peak.matrix.fp16.fp32`."""
        return f"peak.{self.unit}.{self.dtype}.{self.accumulate}"

    @property
    def label(self) -> str:
        """For people: `matrix fp16 (accumulate fp32)`."""
        return f"{self.unit} {self.dtype} (accumulate {self.accumulate})"

    @model_validator(mode="after")
    def _sparse_is_more(self) -> Self:
        if self.sparse_ops_per_s is not None and self.sparse_ops_per_s <= self.ops_per_s:
            raise ValueError(
                f"sparse_ops_per_s ({self.sparse_ops_per_s:g}) is not above ops_per_s ({self.ops_per_s:g}), "
                "which must be the dense peak"
            )
        return self


class Measured(Record):
    """A number that was measured on the device; the unit of `value` is what the name of `quantity` ends with."""

    quantity: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*_(bytes_per_s|ops_per_s|per_s|s|hz|bytes|w)$")]
    value: Figure
    kernel: Text
    date: Date
    driver: Text
    where: Text
    clock_hz: Hertz | None = None


class DeviceSpec(Record):
    """A machine as its documents describe it.

    `slug` is the name of its file; `measured` stays apart from the datasheet, and is empty where no run of `hardware measure` is recorded.
    """

    slug: Slug = "device"
    name: Text
    vendor: Text
    kind: Literal["gpu", "tpu", "npu", "cpu", "apu"]
    architecture: Text
    released: Date
    compute_capability: Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")] | None = None
    aliases: Annotated[tuple[Slug, ...], Field(strict=False)] = ()
    documents: Annotated[Mapping[Key, Document], AfterValidator(_documents)]
    chip: Chip
    memory: Memory
    board: Board | None = None
    peak: Annotated[tuple[Peak, ...], Field(strict=False, min_length=1)]
    measured: Annotated[tuple[Measured, ...], Field(strict=False)] = ()

    # -- numbers and their documents -------------------------------------------------------------------------------

    def _tables(self) -> Iterator[tuple[str, Sourced]]:
        yield "chip", self.chip
        yield "memory", self.memory
        if self.board is not None:
            yield "board", self.board
        for peak in self.peak:
            yield peak.path, peak

    def numbers(self) -> Iterator[tuple[str, float, Document]]:
        """Every number from the documents: (path, value, document), paths as `source_of` and `require` take them."""
        for table_path, table in self._tables():
            for field, value in table.numbers():
                yield f"{table_path}.{field}", value, self.documents[table.source_key(field)]

    def require(self, path: str) -> float:
        """The number at `path` ("chip.shared_memory_per_block_bytes"); raises `HardwareError` where it is absent."""
        return self._find(path)[0]

    def source_of(self, path: str) -> Document:
        """The document behind the number at `path` ("memory.l2_bytes", "peak.matrix.fp16.fp32.ops_per_s")."""
        return self._find(path)[1]

    def _find(self, path: str) -> tuple[float, Document]:
        table_path, _, field = path.rpartition(".")
        for name, table in self._tables():
            if name == table_path and field in type(table).model_fields:
                value = getattr(table, field)
                if isinstance(value, int | float):
                    return value, self.documents[table.source_key(field)]
        if not _is_number_path(table_path, field):
            raise HardwareError(
                f"{self.slug}: '{shown(path)}' is no number of a device; it reads like 'chip.max_clock_hz' or "
                "'peak.matrix.fp16.fp32.ops_per_s'."
            )
        raise HardwareError(
            f"{self.slug}: {shown(path, 120)} is not known (no trustworthy document gives it); "
            "copy the device's TOML file, add the number with its source, and pass the path of that file."
        )

    @property
    def hypothetical(self) -> tuple[str, ...]:
        """What was set of it by `perfmodel.hardware.what_if`, and is in no document; empty for a real machine."""
        return tuple(document.title for key, document in self.documents.items() if key.startswith("what_if"))

    # -- peaks -----------------------------------------------------------------------------------------------------

    def matrix_peak(self, dtype: str, accumulate: str | None = None) -> Peak:
        """The dense peak for products of `dtype` matrices summed in `accumulate` (default: what frameworks use).

        Where the device has no matrix unit for `dtype` but its vector units compute it, that vector peak is returned,
        and its `unit` says "vector": fp32 on a GPU of NVIDIA is plain FMA on the vector units, never tf32. Without a
        given `accumulate` the vector peak may then be one that accumulates in `dtype` itself (packed fp16).
        Raises `HardwareError` where the device computes no such product, naming those it does.
        """
        _check_names(dtype, accumulate)
        wanted = accumulate or DEFAULT_ACCUMULATE[dtype]
        matrix = [peak for peak in self.peak if peak.unit == "matrix" and peak.dtype == dtype]
        vector = [peak for peak in self.peak if peak.unit == "vector" and peak.dtype == dtype]
        for peak in matrix or vector:
            if peak.accumulate == wanted:
                return peak
        if not matrix and vector and accumulate is None:
            return vector[0]
        return self._no_peak(f"{dtype} products that accumulate in {wanted}")

    def vector_peak(self, dtype: str = "fp32") -> Peak:
        """The peak of fused multiply-adds in `dtype` on the vector units; raises `HardwareError` where unknown."""
        return self._peak_on("vector", dtype)

    def special_peak(self, dtype: str = "fp32") -> Peak:
        """The peak of transcendental evaluations in `dtype`; raises `HardwareError` where unknown."""
        return self._peak_on("special", dtype)

    def op_byte_ratio(self, dtype: str, accumulate: str | None = None) -> float:
        """The ridge point: `matrix_peak` ÷ DRAM bandwidth, in operations per byte."""
        return self.matrix_peak(dtype, accumulate).ops_per_s / self.memory.dram_bandwidth_bytes_per_s

    def clock_of(self, peak: Peak) -> float:
        """The clock that the published `peak` uses, in hertz."""
        return peak.clock_hz or self.chip.boost_clock_hz

    def max_clock_ratio(self, peak: Peak) -> float:
        """`chip.max_clock_hz` ÷ the clock of `peak`: what the peak rises to when the part runs at its highest clock."""
        return self.require("chip.max_clock_hz") / self.clock_of(peak)

    def highest_ops_per_s(self, peak: Peak) -> float:
        """For lower bounds: `peak` at `chip.max_clock_hz`, from its parts where the published figure is rounded down."""
        product = self.chip.multiprocessors * peak.ops_per_clock_per_multiprocessor * self.require("chip.max_clock_hz")
        return max(product, peak.ops_per_s * self.max_clock_ratio(peak))

    def _peak_on(self, unit: Unit, dtype: str) -> Peak:
        _check_names(dtype, None)
        for peak in self.peak:
            if peak.unit == unit and peak.dtype == dtype:
                return peak
        return self._no_peak(f"{unit} {dtype}")

    def _no_peak(self, wanted: str) -> NoReturn:
        has = ", ".join(peak.label for peak in self.peak)
        raise HardwareError(f"{self.slug} ({self.name}) has no known peak for {wanted}; it has {has}.")

    # -- what must hold between the tables -------------------------------------------------------------------------

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._documents_exist_and_are_used()
        self._clocks_are_ordered()
        self._peaks_are_products()
        self._bandwidth_is_a_product()
        self._measured_once()
        return self

    def _documents_exist_and_are_used(self) -> None:
        used: set[str] = set()
        for path, table in self._tables():
            keys = {"source": table.source, **{f"sources.{field}": key for field, key in table.sources.items()}}
            for field, key in keys.items():
                if key not in self.documents:
                    raise ValueError(f"{path}.{field} names document {key!r}, but there is no table [documents.{key}]")
            used |= {table.source_key(field) for field, _ in table.numbers()}
        for key in self.documents:
            if key not in used:
                raise ValueError(f"documents.{key} stands behind no number; remove it or name it as a source")

    def _clocks_are_ordered(self) -> None:
        chip = self.chip
        if chip.base_clock_hz is not None and chip.base_clock_hz > chip.boost_clock_hz:
            raise ValueError(f"chip.base_clock_hz ({chip.base_clock_hz:g}) is above boost_clock_hz ({chip.boost_clock_hz:g})")
        highest = max(self.clock_of(peak) for peak in self.peak)
        if chip.max_clock_hz is not None and chip.max_clock_hz < max(highest, chip.boost_clock_hz):
            raise ValueError(
                f"chip.max_clock_hz ({chip.max_clock_hz:g}) is below a clock that the peaks use "
                f"({max(highest, chip.boost_clock_hz):g})"
            )

    def _peaks_are_products(self) -> None:
        seen: set[str] = set()
        for peak in self.peak:
            if peak.path in seen:
                raise ValueError(f"{peak.path} is given twice")
            seen.add(peak.path)
            units, width, clock = (
                self.chip.multiprocessors,
                peak.ops_per_clock_per_multiprocessor,
                self.clock_of(peak),
            )
            product = units * width * clock
            if abs(product / peak.ops_per_s - 1) > PRODUCT_TOLERANCE:
                raise ValueError(
                    f"{peak.path}.ops_per_s is {peak.ops_per_s:.4g}, but {units} multiprocessors × {width:g} "
                    f"operations per clock × {clock:.4g} Hz = {product:.4g} operations per second"
                )

    def _measured_once(self) -> None:
        seen: set[str] = set()
        for entry in self.measured:
            if entry.quantity in seen:
                raise ValueError(f"measured.{entry.quantity} is given twice")
            seen.add(entry.quantity)

    def _bandwidth_is_a_product(self) -> None:
        memory = self.memory
        if memory.dram_bus_width_bits is None or memory.dram_transfers_per_s is None:
            return
        product = memory.dram_bus_width_bits / 8 * memory.dram_transfers_per_s
        if abs(product / memory.dram_bandwidth_bytes_per_s - 1) > PRODUCT_TOLERANCE:
            raise ValueError(
                f"memory.dram_bandwidth_bytes_per_s is {memory.dram_bandwidth_bytes_per_s:.4g}, but "
                f"{memory.dram_bus_width_bits} bits ÷ 8 × {memory.dram_transfers_per_s:.4g} transfers per second "
                f"= {product:.4g} bytes per second"
            )


_TABLES: Final[Mapping[str, type[Sourced]]] = {"chip": Chip, "memory": Memory, "board": Board, "peak": Peak}
_NOT_NUMBERS: Final = {"source", "sources", "multiprocessor_name", "kind", "unit", "dtype", "accumulate"}


def figures() -> tuple[str, ...]:
    """The path of every number that a device's file may have, but for those of its peaks."""
    return tuple(
        f"{table}.{field}"
        for table, record in _TABLES.items()
        if record is not Peak
        for field in record.model_fields
        if field not in _NOT_NUMBERS
    )


def _is_number_path(table_path: str, field: str) -> bool:
    table = _TABLES.get(table_path.partition(".")[0])
    if table is None or (table is Peak) != (table_path.count(".") == 3):
        return False
    return field in table.model_fields and field not in _NOT_NUMBERS


def _check_names(dtype: str, accumulate: str | None) -> None:
    if dtype not in DTYPES:
        raise UnknownNameError("number type", dtype, DTYPES)
    if accumulate is not None and accumulate not in ACCUMULATES:
        raise UnknownNameError("accumulate type", accumulate, ACCUMULATES)
