"""Fill in the generated parts of README.md and docs/*.md: tables from the catalogues, and commands with the output they print.

`python docs/generate.py` rewrites the files; tests/test_docs.py fails where a file differs from what this makes. Two kinds of block:

    <!-- generated: NAME -->  …  <!-- end -->             a table made by the function NAME below
    <!-- output: perfmodel … -->  …  <!-- end -->         the command and what it prints
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"<!-- (generated|output): ?(.+?) -->\n.*?<!-- end -->", re.DOTALL)


def _tables() -> dict[str, Callable[[], str]]:
    from perfmodel.layers.catalog import formulas_table
    from perfmodel.networks.table import networks_table
    from perfmodel.report.fusion import points_table, schedules_table
    from perfmodel.report.machines import catalog_markdown, missing_markdown
    from perfmodel.validation.design_tables import front_table, search_speed_table
    from perfmodel.validation.expected_tables import (
        ablation_markdown,
        blind_networks_markdown,
        constants_markdown,
        foreseen_networks_markdown,
        measured_networks_markdown,
        paths_markdown,
        predictors_markdown,
        published_markdown,
        terms_markdown,
        worst_markdown,
    )
    from perfmodel.validation.fused_tables import (
        fused_bytes_markdown,
        fused_decisions_markdown,
        fused_errors_markdown,
        fused_factors_markdown,
        fused_terms_markdown,
        fused_worst_markdown,
    )
    from perfmodel.validation.kernel_tables import checks_sentence, conditions_sentence, kernels_table
    from perfmodel.validation.library_tables import library_differences, library_summary, onnx_summary
    from perfmodel.validation.planner_speed import family_table, plans_table, shapes_table
    from perfmodel.validation.summary import families_table, measurements_table, speed_table, summary_table

    return {
        "options": _options,
        "devices": catalog_markdown,
        "missing": missing_markdown,
        "formulas": formulas_table,
        "networks": networks_table,
        "fusion-points": points_table,
        "fusion-networks": schedules_table,
        "timm-summary": summary_table,
        "timm-families": families_table,
        "timm-rows": measurements_table,
        "kernels": kernels_table,
        "kernel-checks": checks_sentence,
        "kernel-conditions": conditions_sentence,
        "speed": speed_table,
        "planner-speed": plans_table,
        "convfirstnet-family": family_table,
        "convfirstnet-shapes": shapes_table,
        "design-speed": search_speed_table,
        "design-front": front_table,
        "expected-terms": terms_markdown,
        "expected-paths": paths_markdown,
        "expected-constants": constants_markdown,
        "expected-predictors": predictors_markdown,
        "expected-ablation": ablation_markdown,
        "expected-worst": worst_markdown,
        "expected-published": published_markdown,
        "expected-h200": measured_networks_markdown,
        "expected-h200-blind": blind_networks_markdown,
        "expected-h200-foreseen": foreseen_networks_markdown,
        "fused-bytes": fused_bytes_markdown,
        "fused-decisions": fused_decisions_markdown,
        "fused-errors": fused_errors_markdown,
        "fused-factors": fused_factors_markdown,
        "fused-terms": fused_terms_markdown,
        "fused-worst": fused_worst_markdown,
        "library-summary": library_summary,
        "library-differences": library_differences,
        "onnx-summary": onnx_summary,
    }


def _options() -> str:
    """Every command of the command line with all of its arguments and options, as Markdown."""
    import typer.main

    from perfmodel.cli import app

    def described(command: Any, path: str) -> list[str]:
        if getattr(command, "commands", None):
            return [line for name, inner in command.commands.items() for line in described(inner, f"{path} {name}")]
        rows = [
            "",
            f"`{path}`: {command.help.splitlines()[0]}",
            "",
            "| argument or option | default | meaning |",
            "| --- | --- | --- |",
        ]
        for parameter in command.params:
            if parameter.name == "help":
                continue
            label = parameter.metavar if parameter.param_type_name == "argument" else ", ".join(parameter.opts)
            default = (
                ""
                if parameter.default in (None, False) or parameter.required
                else f"`{getattr(parameter.default, 'value', parameter.default)}`"
            )
            rows.append(
                f"| `{label}` | {'required' if parameter.required else default} | {(parameter.help or '').replace('|', chr(92) + '|')} |"
            )
        return rows

    return "\n".join(described(typer.main.get_command(app), "perfmodel")).strip()


def _output(command: str) -> str:
    """The command as typed, and what it prints, as a fenced block."""
    from perfmodel.cli import run

    typed, _, head = command.partition(" | head -")
    words = shlex.split(typed)
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = run(words[1:])
    text = out.getvalue() + errors.getvalue()
    if head:
        text = "\n".join(text.splitlines()[: int(head)])
    ending = f"\n(exit code {code})" if code else ""
    return f"```console\n$ {command}\n{text.rstrip()}{ending}\n```"


def filled(text: str) -> str:
    """`text` with every generated block made anew."""
    tables = _tables()

    def block(match: re.Match[str]) -> str:
        kind, what = match[1], match[2].strip()
        body = _output(what) if kind == "output" else tables[what]().rstrip()
        separator = ":" if kind == "generated" and match[0].startswith("<!-- generated:" + what) else ": "
        return f"<!-- {kind}{separator}{what} -->\n{body}\n<!-- end -->"

    return BLOCK.sub(block, text)


def pages() -> list[Path]:
    """README.md and every page under docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _images() -> None:
    """Draw the pictures that the pages show."""
    from perfmodel.cli import run

    images = ROOT / "docs" / "images"
    waterline = "plot waterline convfirstnet_tiny --hardware h200 --batch 128 --resolution 224 --schedule layer,block"
    pictures = {
        "waterline-convfirstnet-tiny": waterline,
        "roofline-convnext-tiny": "plot roofline convnext_tiny --hardware h200 --batch 128",
        "gap-h200": "plot gap resnet convnext efficientnet regnety mobilenetv3 --hardware h200",
        "waterline-mobilenetv2-plan": "plot waterline mobilenetv2_100 --hardware jetson-agx-orin --batch 128 --schedule layer,auto",
        "capacity-convfirst-mbconv": "plot capacity convfirst mbconv",
    }
    for name, command in pictures.items():
        with contextlib.redirect_stderr(io.StringIO()):
            run([*shlex.split(command), "--output", str(images / f"{name}.png")])


def main() -> None:
    """Rewrite what has changed."""
    _images()
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stdout.write(f"rewrote {page.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
