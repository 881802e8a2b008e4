"""docs/hardware.md explains every field of a device file, and its examples work."""

from __future__ import annotations

import re
from pathlib import Path

from perfmodel import hardware
from perfmodel.hardware import Measured, catalog
from perfmodel.hardware.spec import PRODUCT_TOLERANCE

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


def test_no_field_is_left_without_a_meaning() -> None:
    """Each row of the table of fields says something, but for names that say it all."""
    rows = re.findall(
        r"^\| (`.*?) \|(.*)\|$", PAGE.read_text(encoding="utf-8").partition("## To add a device")[0], flags=re.MULTILINE
    )
    assert {fields for fields, meaning in rows if not meaning.strip()} <= {"`power_w`, `launch_overhead_s`"}


def test_the_page_states_the_limits_of_the_loader() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"by more than {100 * PRODUCT_TOLERANCE:.0f} %" in text
    assert f"at most {catalog.MAX_FILE_BYTES >> 10} KiB" in text
    assert f"at most {catalog.MAX_LINE_CHARACTERS:,} characters" in text


def test_the_readme_counts_the_machines() -> None:
    (machines,) = re.findall(r"\b(\d+) machines\b", (PAGE.parents[1] / "README.md").read_text(encoding="utf-8"))
    assert int(machines) == len(hardware.names())
