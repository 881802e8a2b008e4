"""Plots of predictions: waterline, roofline, efficiency gap, capacity; and saving them. Importing this package imports matplotlib."""

from perfmodel.plots.capacity import capacity_figure, plot_capacity
from perfmodel.plots.columns import Column, columns
from perfmodel.plots.curves import BlockCurves, block_curves
from perfmodel.plots.gap import GapPoint, Skipped, gap_figure, gap_points, plot_gap
from perfmodel.plots.roofline import plot_roofline, roofline_figure
from perfmodel.plots.save import PlotError, save
from perfmodel.plots.waterline import plot_waterline, plot_waterlines, waterline_figure

__all__ = [
    "BlockCurves",
    "Column",
    "GapPoint",
    "PlotError",
    "Skipped",
    "block_curves",
    "capacity_figure",
    "columns",
    "gap_figure",
    "gap_points",
    "plot_capacity",
    "plot_gap",
    "plot_roofline",
    "plot_waterline",
    "plot_waterlines",
    "roofline_figure",
    "save",
    "waterline_figure",
]
