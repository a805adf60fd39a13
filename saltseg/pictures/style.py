"""The one style of all pictures, and how they become files.

Seismic in grey, true salt in orange, predicted salt in blue (a pair that colour-blind readers tell apart; Okabe & Ito,
https://jfly.uni-koeln.de/color), pixels without a label striped. Figures are built without pyplot, so that drawing in a
training process or a thread touches no global state.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from saltseg.files import write_whole

TRUTH, PREDICTION = "#E69F00", "#56B4E9"
BLUE, GREEN, PURPLE, BROWN = "#0072B2", "#009E73", "#B0568F", "#8C5A00"
INK, MUTED, FAINT = "#222222", "#6B6B6B", "#DDDDDD"
#: Sizes of type in points, and how many pixels an inch has.
SMALL, NORMAL, DPI = 7.5, 9.0, 110
DASHES = (0, (4, 3))


def picture(figure: Figure) -> Image.Image:
    """What is drawn, in steps of 5 of 255 levels, which halves the file and which no eye sees."""
    figure.dpi = DPI
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba()))  # type: ignore[no-untyped-call]
    return drawn.convert("RGB").point([5 * round(level / 5) for level in range(256)] * 3)


def save(figure: Figure, path: Path) -> None:
    """Write the PNG whole or not at all."""
    drawn = BytesIO()
    picture(figure).save(drawn, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, drawn.getvalue())
