"""Pages with plots inside: templates that escape what they are given, and plots as SVG in the page's colours."""

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

INK, MUTED, RULE, ACCENT, OTHER = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
"""Placeholder colours that no plot means literally; each page has CSS variables that replace them."""
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.size": 9.5,
    "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": RULE, "xtick.color": MUTED, "ytick.color": MUTED,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.6, "ytick.major.size": 0, "xtick.major.size": 0,
    "ytick.minor.size": 0, "xtick.minor.size": 0, "legend.frameon": False, "legend.labelcolor": INK,
}  # fmt: skip


def template(path: Path, **filters: Callable[..., str]) -> "Template":
    """A template that escapes, and fails for a name that it is not given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.loader = FileSystemLoader(path.parent)
    made.filters.update(filters)
    return made.get_template(path.name)


def svg(
    name: str, label: str, size: tuple[float, float], variables: Mapping[str, str], paint: Callable[["Figure"], object]
) -> str:
    """A plot without prologue, metadata and literal colours, and with a label. Matplotlib is imported here.

    Args:
        name: of the plot; the same plot has the same bytes.
        label: what the picture shows, for readers who do not see it, escaped.
        size: width and height in inches.
        variables: colour -> the CSS variable that replaces it.
        paint: draws.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer, style = io.BytesIO(), cast("Any", _STYLE | {"svg.hashsalt": name})
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue().decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, variable in variables.items():
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
