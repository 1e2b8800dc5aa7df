"""What an engine makes of a model, for people: the graph through every pass, or the tape's record of one step.

python -m engines show cnn --quantity step --batch 64
python -m engines show cnn --engine tape --svg record.svg
"""

from engines.show.drawing import Box, as_html, as_svg
from engines.show.graph import show_channels_last, show_graph
from engines.show.tape import show_tape

__all__ = ["Box", "as_html", "as_svg", "show_channels_last", "show_graph", "show_tape"]
