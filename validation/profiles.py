"""Other profilers' output joined with a prediction, by layer or by kernel: Nsight Compute, TensorRT's trtexec, PyTorch's profiler.

What each format is, and how it is joined, is in docs/validation.md. Nothing is dropped: what cannot be joined is listed.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from perfmodel.errors import shown
from perfmodel.kernel import Kernel
from perfmodel.prediction import Prediction
from perfmodel.validation import ncu
from perfmodel.validation.comparison import Skipped
from perfmodel.validation.files import LONGEST_S, MeasurementFileError, number, read_text, table
from perfmodel.validation.statistics import Errors, Summary
from perfmodel.waterline import KernelTime

DURATION: Final = "gpu__time_duration.sum"
READ_AND_WRITTEN: Final = ("dram__bytes_read.sum", "dram__bytes_write.sum")
FEWER: Final = "profile fewer steps"
IN_ORDER: Final = "kernel"
NO_SUCH_LAYER: Final = "no layer of the network has this name"
_OF_ANOTHER: Final = "give the ONNX file that TensorRT ran as --model, or is it another network's profile?"

LAYOUT_CHANGE: Final = r"^reformatting copynode"
"""TensorRT: a copy into the layout of the layer that it names, which no layer of the network asks for."""

CLASSES: Final = (
    ("ignored", r"memset|memcpy"),
    ("pointwise", r"^triton_poi"),
    ("reduction", r"^triton_(red|per)|global_?(average|max)_?pool"),
    ("row norm", r"layer_?norm|rms_?norm"),
    ("norm", r"batch_norm|bn_fw|norm_elemt"),
    ("depthwise", r"depthwise|conv2d_c1_k1|dwconv"),
    (
        "product",
        r"gemm|nvjet|xmma|cutlass|convolve|winograd|scudnn|wgmma|matmul|implicit|conv2d|convolution|(^|[/ _.])conv[_\d]*( |$)",
    ),
    ("move", r"pool|concat|cat_?array|copy|transpose|nchw|nhwc|padding|transform|upsample|slice|gather"),
    ("reduction", r"reduce|mean|softmax"),
    ("pointwise", r"elementwise|pointwise|activation|bias|add|mul|relu|silu|gelu|sigmoid|clamp"),
)
"""Classes of kernels by what libraries name them; the first pattern that is found decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """One kernel or layer as a profiler saw it."""

    name: str
    duration_s: float
    """0 where the profiler gives none: it is listed, and not joined."""
    dram_bytes: float | None = None


class JoinedRow(BaseModel):
    """One kernel, or one class of kernels: measured beside predicted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Of the predicted kernel or the class."""
    measured_name: str
    kernels: int
    measured_s: float
    predicted_s: float
    measured_dram_bytes: float | None
    predicted_dram_bytes: float
    below_bound: bool | None
    """None where the bound is not known."""
    diagnosis: str | None


class ProfileComparison(Errors):
    """A profile beside a prediction. Errors are over the joined rows."""

    schema_version: int = 1
    file: str
    format: str
    model: str
    hardware: str
    joined_by: str
    """layer; or kernel, in order within its class; and by class those whose numbers of kernels differ."""
    measured_s: float
    predicted_s: float
    median_bytes_ape: float | None
    """Of DRAM bytes, where the profile has them and they are not 0."""
    skipped: tuple[Skipped, ...]
    rows: tuple[JoinedRow, ...]

    @property
    def doubt(self) -> str | None:
        """Why the profile may be of another network: it has names of layers, these are not the network's, nor are there as many."""
        if self.format != "trtexec" or self.joined_by == IN_ORDER:  # others have names of kernels
            return None
        if self.joined_by != "layer":
            return (
                f"no name in {shown(self.file)} is a layer of {self.model}, so that classes of kernels were joined; {_OF_ANOTHER}"
            )
        strange = sum(len(one.rows) for one in self.skipped if one.reason == NO_SUCH_LAYER)
        layers = sum(row.kernels for row in self.rows) + strange
        if 2 * strange <= layers:
            return None
        return f"{strange} of {layers} names in {shown(self.file)} are no layers of {self.model}; {_OF_ANOTHER}"


def read_ncu(path: Path) -> tuple[Profiled, ...]:
    """Launches of `ncu --csv` (long form: a row per launch and metric; wide form, `--page raw`: a row per launch)."""
    rows = ncu.table(read_text(path, otherwise=FEWER), str(path))
    if not rows:
        raise MeasurementFileError(
            f'{path} is no CSV of ncu: it has no rows under a header that starts with "ID"; make it with ncu --csv'
        )
    if "Metric Name" in rows[0]:
        found = ncu.launches(rows, str(path))
    elif DURATION in rows[0]:
        found = _wide(path, rows)
    else:
        raise MeasurementFileError(f"{path} lacks the metric {DURATION}; profile with --metrics {','.join(ncu.METRICS)}")
    if not any(DURATION in launch for launch in found):
        raise MeasurementFileError(f"{path} has no launch with {DURATION}; profile with --metrics {','.join(ncu.METRICS)}")
    return tuple(_launch(launch) for launch in found)


def _wide(path: Path, rows: Sequence[ncu.Row]) -> list[dict[str, str | float]]:
    units, *launches = rows  # the row under the header gives the units
    return [
        {
            ncu.KERNEL: row.get(ncu.KERNEL) or ncu.UNNAMED,
            **{key: ncu.in_si(f"{path}, launch {row['ID']}", key, row[key], units[key]) for key in ncu.METRICS if row.get(key)},
        }
        for row in launches
    ]


def _launch(values: Mapping[str, str | float]) -> Profiled:
    moved = [float(values[key]) for key in READ_AND_WRITTEN if key in values]
    return Profiled(
        name=str(values[ncu.KERNEL]),
        duration_s=float(values.get(DURATION, 0.0)),
        dram_bytes=sum(moved) if len(moved) == len(READ_AND_WRITTEN) else None,
    )


def read_trtexec(path: Path) -> tuple[Profiled, ...]:
    """Layers of `trtexec --exportProfile=FILE`: a list whose first entry counts runs, the others with `name` and `averageMs`."""
    given = _json(path)
    if not isinstance(given, list):
        raise MeasurementFileError(f"{path} is no profile of trtexec: it must be a list of layers; make it with --exportProfile")
    layers = [(index, table(f"{path}, entry {index}", "it", entry)) for index, entry in enumerate(given, 1)]
    layers = [(index, entry) for index, entry in layers if entry.keys() & {"name", "averageMs"}]
    if not any("averageMs" in layer for _, layer in layers):
        raise MeasurementFileError(
            f"{path} is no profile of trtexec: its layers lack name or averageMs; make it with --exportProfile"
        )
    return tuple(_trt_layer(path, index, layer) for index, layer in layers)


def _trt_layer(path: Path, index: int, layer: Mapping[str, Any]) -> Profiled:
    name = str(layer.get("name") or ncu.UNNAMED)
    where = f"{path}, entry {index} ({name[:80]})"
    took_ms = number(where, "averageMs", layer.get("averageMs"))
    if 1e-3 * took_ms > LONGEST_S:
        raise MeasurementFileError(f"{where}: averageMs is {took_ms:g}, more than a day; is it in another unit?")
    return Profiled(name=name, duration_s=took_ms * 1e-3)


def read_torch_trace(path: Path) -> tuple[Profiled, ...]:
    """Kernels of a trace that torch.profiler exported (`export_chrome_trace`), in the order they started."""
    given = _json(path)
    events = given.get("traceEvents") if isinstance(given, dict) else None
    if not isinstance(events, list):
        raise MeasurementFileError(
            f"{path} is no trace of torch.profiler: it lacks traceEvents; make it with export_chrome_trace"
        )
    kernels = [event for event in events if isinstance(event, dict) and event.get("cat") == "kernel" and event.get("ph") == "X"]
    if not kernels:
        raise MeasurementFileError(f"{path} has no GPU kernels; profile with activities=[ProfilerActivity.CUDA] on a GPU")
    kernels.sort(key=lambda event: number(str(path), "ts", event.get("ts")))
    return tuple(
        Profiled(name=str(event.get("name") or ncu.UNNAMED), duration_s=number(str(path), "dur", event.get("dur")) * 1e-6)
        for event in kernels
    )


READERS: Final = {"ncu": read_ncu, "trtexec": read_trtexec, "torch-trace": read_torch_trace}


def _json(path: Path) -> Any:
    text = read_text(path, otherwise=FEWER)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise MeasurementFileError(f"{path} is not JSON: {error}") from None


def class_of_name(name: str) -> str:
    """The class of a kernel by its name; "other" where no pattern is found.

    >>> class_of_name("sm90_xmma_fprop_implicit_gemm_f16f16"), class_of_name("void at::native::vectorized_elementwise_kernel<4, ...>")
    ('product', 'pointwise')
    """
    return next((kind for kind, pattern in CLASSES if re.search(pattern, name, re.IGNORECASE)), "other")


def class_of_kernel(kernel: Kernel, *, compiled: bool = False) -> str:
    """The class of a predicted kernel, by its operations; a compiler knows no norms, only what is fused into one kernel."""
    roles = {operation.role for operation in kernel.operations}
    kinds = {operation.kind for operation in kernel.operations}
    if not kernel.operations or "matrix" in roles:
        return "depthwise" if kinds & {"depthwise_conv"} else "product"
    if compiled:
        return "reduction" if roles & {"reduction"} or kinds & {"layer_norm", "rms_norm"} else "pointwise"
    if kinds & {"layer_norm", "rms_norm"}:
        return "row norm"
    if "norm_helper" in kinds:
        return "norm" if kernel.cost.special_ops else "move"
    if "norm" in roles and len(kernel.operations) == 1:
        return "norm"
    if "reduction" in roles:
        return "reduction"
    return "move" if roles & {"window", "copy"} else "pointwise"


def compare_profile(prediction: Prediction, profiled: Sequence[Profiled], *, file: str, form: str) -> ProfileComparison:
    """Join a profile with a prediction: by layer names where they are there, else by kernel in order within each class, else by class.

    Raises MeasurementFileError where nothing can be joined.
    """
    timed = [one for one in profiled if one.duration_s > 0]
    if not timed:
        raise MeasurementFileError(f"{file}: nothing of it took any time; profile a run that did")
    twice: list[Profiled] = []
    if form == "trtexec":  # a layer has one line; launches of one kernel have many
        seen: set[str] = set()
        twice = [one for one in timed if one.name in seen or seen.add(one.name)]  # type: ignore[func-returns-value]
        timed = [one for one in timed if not any(one is other for other in twice)]
    layouts = [one for one in timed if re.match(LAYOUT_CHANGE, one.name, re.IGNORECASE)]
    timed = [one for one in timed if one not in layouts]
    rows, skipped, joined_by = _by_layer(prediction, timed)
    if not rows:
        rows, skipped, joined_by = _by_kernel(prediction, timed)
    if not rows:
        raise MeasurementFileError(
            f"{file}: no kernel or layer of it is one of {prediction.network.name}'s; is it of another network?"
        )
    summary = Summary.of([row.predicted_s for row in rows], [row.measured_s for row in rows])
    both = [abs(row.predicted_dram_bytes / row.measured_dram_bytes - 1) for row in rows if row.measured_dram_bytes]
    skipped += _reasons(
        ("a change of layout, which the network does not ask for", [one.name[:80] for one in layouts]),
        ("there twice, of which the first is taken", [one.name[:80] for one in twice]),
        ("took no time in the profile", [one.name[:80] for one in profiled if not one.duration_s]),
        ("measured without DRAM bytes, so that those have no error", [row.name for row in rows if row.measured_dram_bytes == 0]),
    )
    return ProfileComparison(
        file=file,
        format=form,
        model=prediction.network.name,
        hardware=prediction.device.slug,
        joined_by=joined_by,
        measured_s=sum(one.duration_s for one in (*timed, *layouts)),
        predicted_s=prediction.latency_s,
        **summary.errors,
        median_bytes_ape=statistics.median(both) if both else None,
        skipped=skipped,
        rows=tuple(rows),
    )


Joined = tuple[list[JoinedRow], tuple[Skipped, ...], str]


def _words(name: str) -> set[str]:
    """The layers that a profiler's name lists: `conv1 + relu`, `/layer1/layer1.0/conv1/Conv || PWN(...)`."""
    found = set()
    for part in re.split(r"\s*\+\s*|\s*\|\|\s*|[(),{}\[\]\s]+", name):
        found.add(part)
        pieces = [piece for piece in part.strip("/").split("/") if piece]
        if len(pieces) > 1:
            path = pieces[:-1]  # ONNX: the modules one inside the other, then the operator
            inner = [piece for piece, after in zip(path, [*path[1:], ""], strict=True) if not after.startswith(f"{piece}.")]
            found |= {".".join(inner), ".".join(path)}
    return {_dotted(word) for word in found if word}


def _dotted(name: str) -> str:
    """A path of modules with dots, however it was written."""
    return name.strip("/").replace("/", ".")


def _by_layer(prediction: Prediction, profiled: Sequence[Profiled]) -> Joined:
    origins = prediction.network.graph.origins
    owner = {
        name: time
        for time in prediction.times
        for layer in time.kernel.layers
        for name in (layer, _dotted(origins.get(layer, layer)))
    }
    groups: dict[str, tuple[KernelTime, list[Profiled]]] = {}
    lost = []
    for one in profiled:
        time = next((owner[word] for word in sorted(_words(one.name), key=len, reverse=True) if word in owner), None)
        if time is None:
            lost.append(one.name[:80])
        else:
            groups.setdefault(time.kernel.name, (time, []))[1].append(one)
    rows = [_row(prediction, time.kernel.name, [time], found) for time, found in groups.values()]
    unseen = [time.kernel.name for time in prediction.times if time.kernel.name not in groups]
    return rows, _reasons((NO_SUCH_LAYER, lost), ("not in the profile", unseen)), "layer"


def _by_kernel(prediction: Prediction, profiled: Sequence[Profiled]) -> Joined:
    measured: dict[str, list[Profiled]] = {}
    for one in profiled:
        measured.setdefault(class_of_name(one.name), []).append(one)
    predicted: dict[str, list[KernelTime]] = {}
    for time in prediction.times:
        predicted.setdefault(class_of_kernel(time.kernel, compiled=prediction.schedule == "pointwise"), []).append(time)
    ignored = [one.name[:80] for one in measured.pop("ignored", [])]
    rows: list[JoinedRow] = []
    lost: list[str] = []
    unseen: list[str] = []
    in_order = True
    for kind in sorted({*measured, *predicted}):
        ours, theirs = predicted.get(kind, []), measured.get(kind, [])
        if not ours or not theirs:
            lost += [f"{kind}: {one.name[:60]}" for one in theirs]
            unseen += [f"{kind}: {time.kernel.name}" for time in ours]
        elif len(ours) == len(theirs):
            rows += [_row(prediction, time.kernel.name, [time], [one]) for time, one in zip(ours, theirs, strict=True)]
        else:
            in_order = False
            rows.append(_row(prediction, f"{kind} ({len(ours)} predicted, {len(theirs)} measured)", ours, theirs))
    reasons = _reasons(
        ("no kernel of this class is predicted", lost), ("not in the profile", unseen), ("fills and copies", ignored)
    )
    return rows, reasons, IN_ORDER if in_order else f"{IN_ORDER}, and class where the numbers of kernels differ"


def _row(prediction: Prediction, name: str, ours: Sequence[KernelTime], theirs: Sequence[Profiled]) -> JoinedRow:
    from perfmodel.hardware.spec import HardwareError
    from perfmodel.waterline import Limits, kernel_times

    measured_s = sum(one.duration_s for one in theirs)
    moved = [one.dram_bytes for one in theirs if one.dram_bytes is not None]
    bound_s: float | None
    try:
        limits = Limits.bound(prediction.device, prediction.peak)
        bound_s = sum(time.latency_s for time in kernel_times([time.kernel for time in ours], limits))
    except HardwareError:
        bound_s = None
    below = None if bound_s is None else measured_s < bound_s
    named = next((time.diagnosis for time in ours if time.diagnosis), None)
    return JoinedRow(
        name=name,
        measured_name=theirs[0].name[:100],
        kernels=len(theirs),
        measured_s=measured_s,
        predicted_s=sum(time.latency_s for time in ours),
        measured_dram_bytes=sum(moved) if len(moved) == len(theirs) else None,
        predicted_dram_bytes=float(sum(time.kernel.cost.dram_bytes for time in ours)),
        below_bound=below,
        diagnosis="below the bound: another type, sparsity, other work, or a wrong measurement" if below else named,
    )


def _reasons(*given: tuple[str, Sequence[str]]) -> tuple[Skipped, ...]:
    return tuple(Skipped(reason=reason, rows=tuple(names)) for reason, names in given if names)
