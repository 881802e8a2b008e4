"""The catalogue as Markdown, for the documentation."""

from __future__ import annotations

from collections.abc import Iterable

from perfmodel.networks import catalog
from perfmodel.networks.entry import NetworkEntry

_COLUMNS = ("network", "family", "image", "parameters", "GMACs", "ImageNet top-1 (weights)")


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _accuracies(entry: NetworkEntry) -> str:
    found = []
    for accuracy in entry.accuracy:
        _, _, tag = accuracy.weights.partition(".")
        size = "" if accuracy.resolution == entry.resolution else f", at {accuracy.resolution}"
        found.append(f"{accuracy.top1_percent:.2f} % (`{tag}`{size})")
    return "<br>".join(found) or "unknown"


def networks_table() -> str:
    """All networks, with parameters and 10⁹ multiply-accumulates per image as counted here, then the recipes of the weights."""
    lines = [_row(_COLUMNS), _row(["---", "---", "---:", "---:", "---:", "---"])]
    recipes: dict[str, str] = {}
    for entry in catalog.entries().values():
        network = catalog.build(entry.name)
        names = ", ".join(f"`{name}`" for name in (entry.name, *entry.aliases))
        size, params, gmacs = f"{entry.resolution}", f"{network.params:,}", f"{network.macs / 1e9:.3f}"
        lines.append(_row([names, entry.family, size, params, gmacs, _accuracies(entry)]))
        recipes |= {accuracy.weights.partition(".")[2]: accuracy.recipe for accuracy in entry.accuracy}
    lines += ["", _row(["weights", "how they were trained"]), _row(["---", "---"])]
    lines += [_row([f"`{tag}`", recipe]) for tag, recipe in sorted(recipes.items())]
    return "\n".join(lines) + "\n"
