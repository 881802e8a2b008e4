"""The catalogue and the reading of files: names, and every way in which a file of the user's can be wrong."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfmodel import hardware
from perfmodel.errors import PerfmodelError, UnknownNameError
from perfmodel.hardware import DeviceSpec, HardwareError, catalog

MINE = """\
name = "Mine"
vendor = "Me"
kind = "gpu"
architecture = "Own"
released = "2025-01"

[documents.paper]
title = "A paper"
publisher = "Me"
date = "2025"

[chip]
multiprocessors = 10
multiprocessor_name = "core"
boost_clock_hz = 1.0e9
source = "paper"

[memory]
kind = "GDDR6"
dram_bytes = 16e9
dram_bandwidth_bytes_per_s = 100e9
source = "paper"

[[peak]]
unit = "matrix"
dtype = "fp16"
accumulate = "fp32"
ops_per_s = 10e12
ops_per_clock_per_multiprocessor = 1000
source = "paper"
"""


def refused(text: str) -> str:
    """The sentence with which a description is refused."""
    with pytest.raises(HardwareError) as caught:
        hardware.load_text(text, where="mine.toml")
    return str(caught.value)


def outcome(text: str) -> DeviceSpec | str:
    """The device, or the sentence with which the description is refused; any other error passes."""
    try:
        return hardware.load_text(text, where="mine.toml")
    except HardwareError as error:
        return str(error)


def is_one_sentence(message: str) -> bool:
    """One line that ends with a full stop, and holds no other one that ends a sentence."""
    return "\n" not in message and message.endswith(".") and not re.search(r"\. [A-Z]", message)


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["h200", "H200", " h200 ", "H-200", "h_2 0 0", "H200-SXM", "h200 sxm5"])
def test_case_spaces_and_dashes_do_not_matter(name: str) -> None:
    assert hardware.load(name) is hardware.load("h200")


@pytest.mark.parametrize(
    ("alias", "slug"),
    [
        ("a100", "a100-sxm-80gb"),
        ("A100 SXM4 80GB", "a100-sxm-80gb"),
        ("h100", "h100-sxm"),
        ("V100-SXM2", "v100"),
        ("v100 sxm2 16GB", "v100-sxm2-16gb"),
        ("RTX 4090", "rtx4090"),
        ("RTX_PRO_6000_MaxQ", "rtx-pro-6000-maxq"),
        ("GeForce RTX 3090", "rtx3090"),
    ],
)
def test_aliases(alias: str, slug: str) -> None:
    assert hardware.load(alias).slug == slug


def test_no_two_names_are_the_same_when_looked_up() -> None:
    spelled = [*hardware.names()]
    for name in hardware.names():
        spelled += hardware.load(name).aliases
    plain = [name.replace("-", "").replace("_", "").lower() for name in spelled]
    assert len(set(plain)) == len(plain)


def test_each_name_and_alias_is_found() -> None:
    for name in hardware.names():
        device = hardware.load(name)
        assert device.slug == name
        for alias in device.aliases:
            assert hardware.load(alias.upper()) is device


@pytest.mark.parametrize(
    ("name", "near"), [("h20", "h200"), ("rtx409", "rtx4090"), ("H100 SXN", "h100-sxm"), ("a100-sxm-8gb", "a100-sxm")]
)
def test_an_unknown_name_offers_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown device") as caught:
        hardware.load(name)
    assert any(offer.startswith(near) for offer in caught.value.near)


@pytest.mark.parametrize("name", ["", " ", "-", "\0", "h200\n\n!", "x" * 10_000, "☃", "..", "toml"])
def test_strange_names_are_unknown_names(name: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        hardware.load(name)
    assert len(str(caught.value)) < 500


@settings(max_examples=150)
@given(st.text(max_size=30))
def test_any_text_is_a_device_or_a_family_error(name: str) -> None:
    with contextlib.suppress(UnknownNameError, HardwareError):
        assert isinstance(hardware.load(name), DeviceSpec)


def test_reading_one_device_parses_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog._load_shipped.cache_clear()
    parsed = []
    real = tomllib.loads

    def count(text: str) -> dict[str, Any]:
        parsed.append(text)
        return real(text)

    monkeypatch.setattr(tomllib, "loads", count)
    assert hardware.load("h200") is hardware.load("H 200")
    assert len(parsed) == 1


def test_the_folder_imports_nothing_but_the_standard_library_pydantic_and_the_errors() -> None:
    for path in Path(catalog.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                own = module == "perfmodel.errors" or module.startswith("perfmodel.hardware.")
                assert own or module.partition(".")[0] in sys.stdlib_module_names | {"pydantic"}, (path.name, module)


# -- files of the user's ----------------------------------------------------------------------------------------------


def test_a_file_of_the_users_works(tmp_path: Path) -> None:
    path = tmp_path / "My Box.toml"
    path.write_text(MINE, encoding="utf-8")
    device = hardware.load(str(path))
    assert device == hardware.load(path) == hardware.load_file(path)
    assert device.slug == "my-box"
    assert device.memory.dram_bytes == 16_000_000_000
    assert device.matrix_peak("fp16").ops_per_s == 1e13
    assert device.op_byte_ratio("fp16") == 100
    assert device.source_of("memory.dram_bytes").title == "A paper"


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE, encoding="utf-8")
    assert hardware.load(path).name == "Mine"
    path.write_text(MINE.replace('"Mine"', '"Yours"'), encoding="utf-8")
    assert hardware.load(path).name == "Yours"


def test_a_shipped_file_loads_as_a_users_file() -> None:
    folder = Path(catalog.__file__).parent / "devices"
    assert hardware.load(folder / "h200.toml") == hardware.load("h200")


@pytest.mark.parametrize(
    ("old", "new", "field", "says"),
    [
        # missing
        ("boost_clock_hz = 1.0e9\n", "", "chip.boost_clock_hz", "missing (a number of hertz)"),
        ('source = "paper"\n\n[memory]', "\n[memory]", "chip.source", "missing"),
        ('vendor = "Me"\n', "", "vendor", "missing"),
        ("dram_bytes = 16e9\n", "", "memory.dram_bytes", "missing (a number of bytes)"),
        ("ops_per_s = 10e12\n", "", "peak[1].ops_per_s (matrix fp16)", "missing (a number of operations per second)"),
        ('title = "A paper"\n', "", "documents.paper.title", "missing"),
        # unknown
        ("boost_clock_hz", "boost_clock_mhz", "chip.boost_clock_mhz", "did you mean boost_clock_hz?"),
        ("dram_bytes", "dram_byte", "memory.dram_byte", "did you mean dram_bytes?"),
        ('vendor = "Me"', 'vendr = "Me"', "vendr", "did you mean vendor?"),
        ("dtype", "type", "peak[1].type", "did you mean dtype?"),
        ("[chip]", "[chips]", "chips", "did you mean chip?"),
        ("date = ", 'dates = "x"\ndate = ', "documents.paper.dates", "did you mean date?"),
        ("[chip]", "[chip]\nzzz = 1", "chip.zzz", "known here: source, sources, multiprocessors"),
        # negative, zero, not finite
        ("1.0e9", "-1.0e9", "chip.boost_clock_hz", "-1e+09, but a positive number of hertz is expected"),
        ("multiprocessors = 10", "multiprocessors = -10", "chip.multiprocessors", "a positive number is expected"),
        ("100e9", "0", "memory.dram_bandwidth_bytes_per_s", "0, but a positive number of bytes per second"),
        ("100e9", "0.0", "memory.dram_bandwidth_bytes_per_s", "0, but a positive number of bytes per second"),
        ("100e9", "nan", "memory.dram_bandwidth_bytes_per_s", "nan, but a finite number of bytes per second"),
        ("100e9", "inf", "memory.dram_bandwidth_bytes_per_s", "inf, but a finite number of bytes per second"),
        ("1.0e9", "-inf", "chip.boost_clock_hz", "-inf, but a finite number of hertz"),
        ("16e9", "nan", "memory.dram_bytes", "nan, but a finite number of bytes"),
        ("16e9", "inf", "memory.dram_bytes", "inf, but a finite number of bytes"),
        # a prefix slipped in
        ("1.0e9", "1000", "chip.boost_clock_hz", "1000, but at least 1e+07 is expected: the number is read as hertz"),
        ("1.0e9", "1e12", "chip.boost_clock_hz", "1e+12, but at most 1e+10 is expected"),
        ("100e9", "100", "memory.dram_bandwidth_bytes_per_s", "the number is read as bytes per second, without a"),
        ("100e9", "1e15", "memory.dram_bandwidth_bytes_per_s", "at most 1e+14"),
        ("16e9", "16", "memory.dram_bytes", "the number is read as bytes, without a prefix"),
        ("10e12", "10", "peak[1].ops_per_s (matrix fp16)", "the number is read as operations per second"),
        ("10e12", "1e18", "peak[1].ops_per_s (matrix fp16)", "at most 1e+17"),
        ("16e9\n", "16e9\nl2_bytes = 6\n", "memory.l2_bytes", "at least 10000"),
        ("16e9\n", "16e9\nlast_level_cache_bytes = 10e12\n", "memory.last_level_cache_bytes", "at most 1e+10"),
        # wrong type
        ("1.0e9", '"1 GHz"', "chip.boost_clock_hz", "'1 GHz', but a number of hertz is expected"),
        ("1.0e9", '"1e9"', "chip.boost_clock_hz", "'1e9', but a number of hertz is expected"),
        ("1.0e9", "true", "chip.boost_clock_hz", "True, but a number of hertz is expected"),
        ("multiprocessors = 10", "multiprocessors = 10.5", "chip.multiprocessors", "10.5, but a whole number"),
        ("multiprocessors = 10", "multiprocessors = true", "chip.multiprocessors", "True, but a whole number"),
        ('vendor = "Me"', "vendor = 3", "vendor", "3, but text in quotes is expected"),
        ('vendor = "Me"', 'vendor = ""', "vendor", "at least 1 character"),
        ('released = "2025-01"', "released = 2025-01-01", "released", "but text in quotes is expected"),
        ('released = "2025-01"', 'released = "soon"', "released", "'soon', which does not read like"),
        ('kind = "gpu"', 'kind = "toaster"', "kind", "'toaster', but one of 'gpu', 'tpu', 'npu', 'cpu' or 'apu'"),
        ('dtype = "fp16"', 'dtype = "half"', "peak[1].dtype (matrix half)", "'half', but one of 'fp64', 'fp32'"),
        ('unit = "matrix"', 'unit = "tensor"', "peak[1].unit (tensor fp16)", "one of 'matrix', 'vector' or 'special'"),
        ('vendor = "Me"', 'vendor = "Me"\naliases = "me"', "aliases", "'me', but a list is expected"),
        ('vendor = "Me"', 'vendor = "Me"\naliases = ["A B"]', "aliases[1]", "'A B', which does not read like"),
        ("[[peak]]", "[peak]", "peak", "but a list is expected"),
        ("[memory]", "[[memory]]", "memory", "but a table is expected"),
        # what contradicts itself
        ('source = "paper"\n\n[memory]', 'source = "papr"\n\n[memory]', "chip.source", "no table [documents.papr]"),
        ("10e12", "20e12", "peak.matrix.fp16.fp32.ops_per_s", "10 multiprocessors × 1000"),
        ("10e12\n", "10e12\nsparse_ops_per_s = 5e12\n", "peak[1] (matrix fp16)", "sparse_ops_per_s (5e+12) is not above"),
        ("[documents.paper]", '[documents.x]\ntitle="x"\npublisher="x"\ndate="2025"\n[documents.paper]', "documents.x",
         "stands behind no number"),
        ('vendor = "Me"', 'vendor = "Me"\nslug = "me"', "slug", "the name of the file is the slug"),
        # not TOML
        ("boost_clock_hz = 1.0e9", "boost_clock_hz = 1.0 GHz", "not valid TOML", "line 15"),
        ("multiprocessors = 10\n", "multiprocessors = 10\nmultiprocessors = 11\n", "not valid TOML", "line 14"),
        ("[memory]", "[chip]", "not valid TOML", "line 18"),
        ('vendor = "Me"', 'vendor = "Me', "not valid TOML", "line 2"),
        ("16e9", "[" * 50_000, "not valid TOML", "nested too deeply"),
        ("16e9", "9" * 10_000, "not valid TOML", "digits"),
        ("16e9", "9" * 400, "memory.dram_bytes", "99999"),
        ("100e9", "9" * 400, "memory.dram_bandwidth_bytes_per_s", "99999"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_in_one_sentence(old: str, new: str, field: str, says: str) -> None:
    assert old in MINE
    message = refused(MINE.replace(old, new, 1))
    assert message.startswith(f"mine.toml: {field}")
    assert says in message
    assert is_one_sentence(message)
    assert len(message) < 600


def test_an_empty_file_names_what_is_missing_and_how_many_faults_there_are() -> None:
    message = refused("")
    assert message == "mine.toml: name is missing (and 8 more faults)."


def test_no_peaks_at_all() -> None:
    message = refused(MINE.partition("[[peak]]")[0].replace("[documents", "peak = []\n[documents", 1))
    assert message.startswith("mine.toml: peak")
    assert is_one_sentence(message)


def test_absent_files_folders_and_other_things(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "latin.toml").write_bytes(b'name = "x"\nvendor = "\xe9"\n')
    (tmp_path / "utf16.toml").write_text(MINE, encoding="utf-16")
    (tmp_path / "huge.toml").write_bytes(b"#" * (2**20 + 1))
    (tmp_path / "random.toml").write_bytes(bytes(range(256)))
    cases = {
        "absent.toml": "there is no such file",
        "folder.toml": "is a folder",
        "latin.toml": "is not UTF-8 text (line 2)",
        "utf16.toml": "is not UTF-8 text (line 1)",
        "huge.toml": "is larger than 1048576 bytes",
        "random.toml": "is not UTF-8 text",
    }
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.toml")
        cases["pipe.toml"] = "is not a regular file"
    for file, says in cases.items():
        with pytest.raises(HardwareError) as caught:
            hardware.load(str(tmp_path / file))
        assert file in str(caught.value)
        assert says in str(caught.value)
        assert is_one_sentence(str(caught.value))


@pytest.mark.parametrize("path", ["a\0b.toml", "x" * 5000 + ".toml", "./h200", "/", "no/such/h200", ".toml"])
def test_strange_paths(path: str) -> None:
    with pytest.raises(HardwareError) as caught:
        hardware.load(path)
    assert is_one_sentence(str(caught.value))
    assert len(str(caught.value)) < 300


def test_a_file_just_small_enough_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE + "#" * (2**20 - len(MINE)), encoding="utf-8")
    assert hardware.load(path).name == "Mine"


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_garbage_never_raises_anything_else(text: str) -> None:
    for whole in (text, MINE + text, text + MINE):
        assert "\n" not in str(outcome(whole))


FIELDS = [line.partition(" = ")[0] for line in MINE.splitlines() if " = " in line]
LITERALS = st.one_of(
    st.floats().map(repr),
    st.integers(min_value=-(10**400), max_value=10**400).map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.text(max_size=40).map(lambda text: json.dumps(text, ensure_ascii=True)),
    st.sampled_from(["[]", "{}", "[1, 2]", "{a = 1}", "[[]]", "1979-05-27", "07:32:00", "[{}]", "{'a.b\\n' = 2}"]),
)


@settings(max_examples=300)
@given(st.sampled_from(range(len(FIELDS))), LITERALS)
def test_any_value_in_any_field_is_taken_or_refused_in_one_sentence(index: int, literal: str) -> None:
    lines = MINE.splitlines()
    where = [number for number, line in enumerate(lines) if " = " in line][index]
    lines[where] = f"{FIELDS[index]} = {literal}"
    result = outcome("\n".join(lines))
    if isinstance(result, DeviceSpec):
        assert all(0 < value < float("inf") for _, value, _ in result.numbers())
    else:
        assert result.startswith("mine.toml: ")
        assert "\n" not in result
        assert result.endswith(".")
        assert len(result) < 900


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_random_bytes_in_a_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bytes.toml"
    path.write_bytes(content)
    with pytest.raises(PerfmodelError):
        hardware.load(path)


# -- schema ------------------------------------------------------------------------------------------------------------


def test_the_json_schema_is_stable_and_complete() -> None:
    schema = hardware.json_schema()
    assert json.loads(json.dumps(schema)) == schema == hardware.json_schema()
    assert "slug" not in schema["properties"]
    assert schema["additionalProperties"] is False
    required = "name vendor kind architecture released documents chip memory peak"
    assert schema["required"] == required.split(" ")
    bandwidth = schema["$defs"]["Memory"]["properties"]["dram_bandwidth_bytes_per_s"]
    assert (bandwidth["minimum"], bandwidth["maximum"]) == (1e9, 1e14)
    assert set(schema["$defs"]) == {"Board", "Chip", "Document", "Measured", "Memory", "Peak"}


@pytest.mark.parametrize("name", hardware.names())
def test_each_device_survives_json(name: str) -> None:
    device = hardware.load(name)
    assert DeviceSpec.model_validate_json(device.model_dump_json()) == device
