"""Plots of predictions: waterline, roofline, efficiency gap; and saving them. Importing this package imports matplotlib."""

from perfmodel.plots.columns import Column, columns
from perfmodel.plots.save import PlotError, save
from perfmodel.plots.waterline import plot_waterline, plot_waterlines

__all__ = [
    "Column",
    "GapPoint",
    "GapPoints",
    "PlotError",
    "columns",
    "gap_points",
    "plot_gap",
    "plot_roofline",
    "plot_waterline",
    "plot_waterlines",
    "save",
]
