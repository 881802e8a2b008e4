"""`perfmodel design`: which networks a machine asks for."""

from __future__ import annotations

import typer

design_app = typer.Typer(
    help="Design questions: what fits a budget, and which designs are best.", no_args_is_help=True, rich_markup_mode=None
)
