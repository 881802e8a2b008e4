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
    """One printable line that ends with one full stop or question mark, and holds no other one that ends a sentence."""
    return (
        message.isprintable()
        and re.search(r"\w\W*(?<![.?])[.?]$", message) is not None
        and not re.search(r"[.?] [A-Z(]", message)
    )


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
    plain = [re.sub(r"[-_\s]", "", name).casefold() for name in spelled]  # 10-0 and 100 would be the same
    assert len(set(plain)) == len(plain)
    assert {*catalog._slugs(), *catalog._aliases()} == set(plain)
    assert not set(catalog._slugs()) & set(catalog._aliases())


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
    assert len(str(caught.value)) < 800
    assert is_one_sentence(str(caught.value))


def test_where_nothing_is_near_the_names_are_listed_without_aliases() -> None:
    with pytest.raises(UnknownNameError) as caught:
        hardware.load("☃")
    listed = str(caught.value).partition("known: ")[2].partition(" (")[0]
    assert tuple(listed.split(", ")) == hardware.names()


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_called_empty(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown device ' *': the name is empty; known: a10, a100-pcie-40gb"):
        hardware.load(name)


def test_an_echoed_name_is_clipped_and_escaped() -> None:
    with pytest.raises(UnknownNameError) as caught:
        hardware.load("\x1b[31m\u202e" + "x" * 1000)
    echoed = str(caught.value).split("'")[1]
    assert echoed.startswith(r"\x1b[31m\u202ex")
    assert len(echoed) == 60
    assert echoed.endswith("…")


@pytest.mark.parametrize(("count", "listed"), [(13, 13), (60, 60), (61, 12)])
def test_all_known_names_are_listed_where_they_are_not_too_many(count: int, listed: int) -> None:
    error = UnknownNameError("layer", "☃", [f"layer{index}" for index in range(count)], "Look there.")
    assert str(error).count("layer") == 1 + listed
    assert (f"({count} in all)" in str(error)) == (listed < count)
    assert str(error).endswith(" (look there).")
    assert is_one_sentence(str(error).replace(f", … ({count} in all)", ""))


def test_known_names_are_escaped_too() -> None:
    assert str(UnknownNameError("layer", "a\x1b", ["a\x1bb"])) == r"unknown layer 'a\x1b'; did you mean a\x1bb?"


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
        ('vendor = "Me"', 'vendor = "Me', "not valid TOML", "line 2"),
        ('vendor = "Me"', 'vendor = "Me" # \x1b[31m', "`vendor` is followed by the control character", r"'\x1b' (line 2)"),
        ('vendor = "Me"', "# \x1b[31m", "not valid TOML", r"'\x1b' (at line 2, column 3)"),
        ("16e9", "[" * 3_000, "not valid TOML", "nested too deeply"),
        # given twice
        ("= 10\n", "= 10\nmultiprocessors = 11\n", "`multiprocessors`", "`multiprocessors` is given twice (line 14)."),
        ("[memory]", "[chip]", "`chip`", "`chip` is given twice (line 18)."),
        ("100e9\n", "100e9\nsources = {a = 'x', a = 'y'}\n", "`a`", "`a` is given twice (line 22)."),
        ('vendor = "Me"', 'aliases = []\naliases = [\n"a",\n]', "`aliases`", "`aliases` is given twice (line 3)."),
        ("[memory]", "[vendor.x]", "`vendor.x`", "`vendor.x` contradicts what is given above it (line 18)."),
        ('"fp32"\n', '"fp32"\n"\\u001b" = 1\n"\\u001b" = 1\n', r'`"\u001b"`', "is given twice (line 29)."),
        # enormous
        ("16e9", "9" * 5_000, "line 20 is longer than 4000 characters", "no line"),
        ('vendor = "Me"', f"vendor{'.a' * 20_000} = 1", "line 2 is longer than 4000 characters", "no line"),
        ('vendor = "Me"', f"vendor{'.a' * 8} = 1", "the key in line 2 has more than 8 parts", "no key"),
        ("[memory]", "[ 'a' " + '. "="' * 8 + "]", "the key in line 18 has more than 8 parts", "no key"),
        ("16e9", "16e9\n#" * 20_000, "is larger than 64 KiB", "no device description"),
        ('"Me"', "0x" + "f" * 3_900, "vendor", "an enormous number, but text in quotes"),
        ('"Me"', "{a" + ".a" * 1_900 + " = 1}", "vendor", "an enormous value, but text in quotes"),
        ('"matrix"', "0x" + "f" * 3_900, "peak[1].unit (an enormous number fp16)", "one of 'matrix'"),
        # control characters
        ('"Mine"', r'"\u001b[31mMine"', "name", r"the control character \x1b is not allowed"),
        ('"A paper"', '"A \x9b paper"', "documents.paper.title", r"the control character \x9b is not allowed"),
        ('"GDDR6"', r'"GDDR6\n"', "memory.kind", r"the control character \n is not allowed"),
        ('"core"', '"\u202ecore"', "chip.multiprocessor_name", r"the control character \u202e is not allowed"),
        ('"gpu"', r'"\u001bgpu"', "kind", r"'\x1bgpu', but one of"),
        ("vendor", r'"\u001b"', r"'\x1b'", "is not a known field"),
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


def test_a_question_ends_the_sentence_and_other_faults_stand_before_it() -> None:
    assert refused(MINE.replace("dram_bytes", "l2_byte = 1\ndram_bytes")).endswith(
        "memory.l2_byte is not a known field; did you mean l2_bytes?"
    )
    assert refused(MINE.replace("dram_bytes", "dram_byte")) == (
        "mine.toml: memory.dram_byte is not a known field (and 1 more fault); did you mean dram_bytes?"
    )


def test_an_integer_with_more_digits_than_python_converts() -> None:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(1000)
    try:
        message = refused(MINE.replace("16e9", "9" * 3000))
    finally:
        sys.set_int_max_str_digits(limit)
    assert message == "mine.toml: a number has more digits than can be read (line 20)."


def test_too_long_texts_are_refused_before_they_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(text: str) -> dict[str, Any]:
        raise AssertionError(f"parsed {len(text)} characters")

    monkeypatch.setattr(tomllib, "loads", never)
    for text in ("a" * 4001, "a." * 8 + "a = 1", "[" + "a." * 8 + "a]", "[[ " + "'a' . " * 8 + "a ]]", "\n" * (2**16 + 1)):
        refused(text)


@pytest.mark.parametrize("line", ["# " + "." * 3998, "# a.b.c.d.e.f.g.h.i.j = 1", "# " + "x" * 3998])
def test_long_comments_are_read(line: str) -> None:
    assert hardware.load_text(MINE + line + "\n").name == "Mine"


@pytest.mark.parametrize(
    ("file", "slug"),
    [
        ("ünï côde", "uni-code"), ("My  Box__2 - b", "my-box-2-b"), ("☃", "device"), ("a☃b", "a-b"), ("ﬁle²", "file2"),
        ("_x_", "x"), ("v1.5_b", "v1.5_b"), ("x" * 63 + "-y", "x" * 63),
    ],
)  # fmt: skip
def test_the_slug_of_a_file(tmp_path: Path, file: str, slug: str) -> None:
    path = tmp_path / f"{file}.toml"
    path.write_text(MINE, encoding="utf-8")
    assert hardware.load(path).slug == slug


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE, encoding="utf-8-sig")
    assert hardware.load(path) == hardware.load_text("\ufeff" + MINE, slug="mine")
    path.write_bytes(b"\xef\xbb\xbf\n\xe9")
    with pytest.raises(HardwareError, match=r"is not UTF-8 text \(line 2\)"):
        hardware.load(path)


def test_a_name_in_a_message_is_printable(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m\u202eb.toml"
    with pytest.raises(HardwareError, match="there is no such file") as absent:
        hardware.load(path.name)
    path.write_text("x", encoding="utf-8")
    with pytest.raises(HardwareError, match="not valid TOML") as wrong:
        hardware.load(path)
    with pytest.raises(HardwareError, match="name is missing") as described:
        hardware.load_text("", where=path.name)
    with pytest.raises(HardwareError, match="is not known") as number:
        hardware.load("h200").require("peak.\x1b.b.c.ops_per_s")
    for caught in (absent, wrong, described, number):
        assert str(caught.value).isprintable()
        assert r"\x1b" in str(caught.value)
    with pytest.raises(HardwareError, match=r"^…x+mine\.toml: cannot be read|^…x+mine\.toml: there is no such file"):
        hardware.load("x" * 200 + "mine.toml")


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
    (tmp_path / "huge.toml").write_bytes(b"#\n" * 2**15 + b"#")
    (tmp_path / "random.toml").write_bytes(bytes(range(256)))
    cases = {
        "absent.toml": "there is no such file",
        "folder.toml": "is a folder",
        "latin.toml": "is not UTF-8 text (line 2)",
        "utf16.toml": "is not UTF-8 text (line 1)",
        "huge.toml": "is larger than 64 KiB",
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
    path.write_text(MINE + "\n" * (2**16 - len(MINE)), encoding="utf-8")
    assert hardware.load(path).name == "Mine"


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_garbage_never_raises_anything_else(text: str) -> None:
    for whole in (text, MINE + text, text + MINE):
        result = outcome(whole)
        assert isinstance(result, DeviceSpec) or result.isprintable()


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
        assert result.isprintable()
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
