"""docs/hardware.md explains every field of a device file, and its examples work."""

from __future__ import annotations

import re
from pathlib import Path

from perfmodel import hardware
from perfmodel.hardware import Measured

PAGE = Path(__file__).parents[1] / "docs" / "hardware.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_example_in_the_page_is_a_device() -> None:
    (example,) = [block for block in blocks("toml") if "[chip]" in block]
    device = hardware.load_text(example, where="docs/hardware.md")
    assert device.matrix_peak("fp16").ops_per_s == 40e12
    assert device.op_byte_ratio("fp16") == 80
    assert device.source_of("chip.max_clock_hz").title != device.source_of("chip.boost_clock_hz").title


def test_the_measured_example_in_the_page_is_a_measurement() -> None:
    (example,) = [block for block in blocks("toml") if "[chip]" in block]
    (measured,) = [block for block in blocks("toml") if block.startswith("[[measured]]")]
    device = hardware.load_text(example + "\n" + measured, where="docs/hardware.md")
    assert [type(entry) for entry in device.measured] == [Measured]


def test_the_python_of_the_page_runs() -> None:
    for block in blocks("python"):
        exec(compile(block, str(PAGE), "exec"), {})


def test_the_page_explains_each_field_of_a_file() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for model in (hardware.DeviceSpec, hardware.Chip, hardware.Memory, hardware.Board, hardware.Peak, hardware.Measured):
        for field in model.model_fields:
            assert f"`{field}`" in text, (model.__name__, field)
