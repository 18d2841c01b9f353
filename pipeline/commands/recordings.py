"""The old place of `pipeline.archive.options`, until all branches use the new place."""

from pipeline.archive.options import flat_options as flat_options
from pipeline.archive.options import no_tick as no_tick
from pipeline.archive.options import read_options as read_options
from pipeline.archive.options import show_formats as show_formats
