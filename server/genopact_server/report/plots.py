"""Plots as inline SVG that follow the page's light or dark colours. Matplotlib is imported when a plot is drawn."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genopact_shared.page import ACCENT, INK, MUTED, OTHER, RULE, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

SECOND = OTHER
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", ACCENT: "--accent", SECOND: "--second"}
LIGHT = ("#1d2433", "#667085", "#dfe1e6", "#0f6e74", "#b3541e")
DARK = ("#e7eaf0", "#98a2b3", "#303846", "#5cc4c4", "#eb9a5f")
GENOME_WIDE = 7.30103
"""-log10 of 5e-8."""
PIXELS = 400
"""Cells of a picture along each side; of points in one cell one is drawn."""


def draw(name: str, label: str, size: tuple[float, float], **data: Any) -> str:
    """The SVG of one plot of this module.

    Args:
        name: a key of PLOTS.
        label: what the picture shows, for readers who do not see it.
        size: width and height in inches.
        data: what the plot takes.
    """
    from markupsafe import escape

    return svg(name, escape(label), size, VARIABLES, lambda figure: PLOTS[name](figure.add_subplot(), **data))


def standalone(name: str, label: str, size: tuple[float, float], **data: Any) -> str:
    """`draw` as a file of its own, light or dark as its reader has it."""
    light, dark = (";".join(map(":".join, zip(VARIABLES.values(), colours, strict=True))) for colours in (LIGHT, DARK))
    style = f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    head, end, rest = draw(name, label, size, **data).partition(">")
    return f"{head}{end}{style}{rest}"


def coefficients(axes: "Axes", *, values: Mapping[str, float]) -> None:
    """One dot a coefficient, from zero."""
    names = list(values)[::-1]
    for row, name in enumerate(names):
        axes.plot([0, values[name]], [row, row], color=RULE, linewidth=2.5, solid_capstyle="round")
        axes.plot(values[name], row, "o", color=ACCENT, markersize=6)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    _name_rows(axes, names, "coefficient in the shared model")


def trajectories(axes: "Axes", *, values: Mapping[str, Sequence[float]], unit: str, first: int) -> None:
    """Each line over the rounds from `first` on; the four that end largest are named."""
    largest = sorted(values, key=lambda name: -abs(values[name][-1]))[:4]
    ends: list[float] = []
    for name, line in values.items():
        colour, width, alpha = (ACCENT, 1.8, 1.0) if name in largest else (MUTED, 0.7, 0.6)
        axes.plot(range(first, first + len(line)), line, color=colour, linewidth=width, alpha=alpha)
    last = first + max(map(len, values.values())) - 1
    every = [value for line in values.values() for value in line]
    gap = 0.13 * (max(every) - min(every) or 1.0)
    for name in sorted(largest, key=lambda each: values[each][-1]):
        ends.append(max(values[name][-1], ends[-1] + gap) if ends else values[name][-1])
        axes.text(last + 0.1, ends[-1], name, color=INK, va="center")
    axes.set_ylim(min(every) - gap / 2, max(*every, *ends) + gap / 2)
    _number_rounds(axes, last, unit)


def burn_down(axes: "Axes", *, spent: Sequence[float], done: int, budget: float) -> None:
    """Epsilon used after each round, against the study's budget."""
    steps = [0.0, *spent]
    axes.fill_between(range(done + 1), steps[: done + 1], color=ACCENT, alpha=0.18, linewidth=0)
    axes.plot(range(done + 1), steps[: done + 1], color=ACCENT, linewidth=1.8, marker="o", markersize=4)
    axes.plot(range(done, len(steps)), steps[done:], color=ACCENT, linewidth=1.2, linestyle=(0, (2, 2)))
    axes.axhline(budget, color=SECOND, linewidth=1.2)
    axes.text(0, budget, f"budget {budget:.3g}", color=SECOND, va="bottom")
    axes.set_ylim(0, 1.15 * max(budget, *steps))
    _number_rounds(axes, len(steps) - 1, "epsilon")


def shown(axes: "Axes", *, bounds: Mapping[str, float], certified: float) -> None:
    """What an attacker could show, against what the plan promises."""
    names = list(bounds)[::-1]
    axes.barh(range(len(names)), [bounds[name] for name in names], height=0.5, color=ACCENT, alpha=0.85)
    for row, name in enumerate(names):
        axes.text(bounds[name], row, f"  {bounds[name]:.2f}", color=INK, va="center")
    axes.axvline(certified, color=SECOND, linewidth=1.6)
    axes.text(certified, len(names) - 0.6, f" certified {certified:.3g}", color=SECOND, va="bottom")
    axes.set(xlim=(0, 1.3 * max(certified, *bounds.values())), ylim=(-0.5, len(names) - 0.2))
    _name_rows(axes, names, "epsilon")


def groups(axes: "Axes", *, values: Mapping[str, tuple[float, float]], unit: str, digits: int = 1) -> None:
    """A measure and one standard deviation of privacy noise for each group that the noise does not drown."""
    names = list(values)[::-1]
    for row, name in enumerate(names):
        value, noise = values[name]
        if 2 * noise > abs(value):
            axes.text(0, row, "  too few patients: drowned by the noise", color=MUTED, va="center")
            continue
        colour = SECOND if name == "all" else ACCENT
        axes.errorbar(value, row, xerr=noise, fmt="o", color=colour, markersize=6, capsize=3, elinewidth=1.4)
        axes.annotate(f"{value:.{digits}f}", (value, row), (0, 7), textcoords="offset points", color=INK, ha="center")
    _name_rows(axes, names, unit)
    axes.set(xlim=(0, None), ylim=(-0.5, len(names) - 0.3))


def comparison(axes: "Axes", *, rows: Mapping[str, Mapping[str, float]], unit: str) -> None:
    """For each hospital: a fixed answer, trained alone, together, and on pooled data."""
    marks = {"fixed": ("x", MUTED), "alone": ("o", MUTED), "federated": ("o", ACCENT), "pooled": ("|", SECOND)}
    names = list(rows)[::-1]
    for row, name in enumerate(names):
        known = [rows[name][kind] for kind in marks if kind in rows[name]]
        axes.plot([min(known), max(known)], [row, row], color=RULE, linewidth=2.5, zorder=1)
    for kind, (mark, colour) in marks.items():
        points = [(rows[name][kind], row) for row, name in enumerate(names) if kind in rows[name]]
        if points:
            style: dict[str, Any] = {"markersize": 12, "markeredgewidth": 2.2} if mark == "|" else {"markersize": 7}
            axes.plot(*zip(*points, strict=True), mark, color=colour, label=kind, zorder=2, **style)
    axes.set_ylim(-0.5, len(names) - 0.5)
    _name_rows(axes, [short(name) for name in names], short(unit, 70))
    _legend(axes)


def calibration(axes: "Axes", *, points: Sequence[Mapping[str, float]], unit: str) -> None:
    """Predicted against observed, with error bars where they are known."""
    ends = [value for point in points for value in (point["predicted"], point["observed"])]
    axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    for point in points:
        bar: dict[str, Any] = {"yerr": point["error"], "capsize": 3} if "error" in point else {}
        axes.errorbar(point["predicted"], point["observed"], fmt="o", color=ACCENT, markersize=5, **bar)
    axes.set(xlabel=f"predicted, {short(unit)}", ylabel=f"observed, {short(unit)}")


def manhattan(axes: "Axes", *, chrom: "NDArray[Any]", position: "NDArray[Any]", log10p: "NDArray[Any]") -> None:
    """-log10 of each chance along the genome, chromosomes in turn in two colours, and the line of 5e-8."""
    import numpy as np

    names = sorted(set(chrom.tolist()), key=lambda name: (0, int(name), "") if name.isdigit() else (1, 0, name))
    start, middles, top = 0.0, [], log10p.max()
    whole = sum(float(np.ptp(position[chrom == name])) for name in names)
    for at, name in enumerate(names):
        own = chrom == name
        x = start + (position[own] - position[own].min()).astype(float)
        axes.plot(*_thinned(x, log10p[own], whole, top), ".", color=(ACCENT, MUTED)[at % 2], markersize=3)
        middles.append((start + x.max()) / 2)
        start = x.max() + 0.01 * whole
    axes.axhline(GENOME_WIDE, color=SECOND, linewidth=1.0, linestyle=(0, (3, 3)))
    axes.set_xticks(middles, names)
    axes.grid(visible=False, axis="x")
    axes.set(ylim=(0, 1.08 * max(GENOME_WIDE, top)), xlabel="chromosome", ylabel="-log10 p")


def qq(axes: "Axes", *, log10p: "NDArray[Any]") -> None:
    """Sorted -log10 chances against those of as many variants without an association."""
    import numpy as np

    observed = np.sort(log10p)[::-1]
    expected = -np.log10((np.arange(len(observed)) + 0.5) / len(observed))
    top = max(observed[0], expected[0])
    axes.plot([0, expected[0]], [0, expected[0]], color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    axes.plot(*_thinned(expected, observed, top, top), ".", color=ACCENT, markersize=4)
    axes.set(xlabel="expected -log10 p", ylabel="observed -log10 p")


def roc(axes: "Axes", *, counts: Mapping[str, "NDArray[Any]"]) -> None:
    """Of each group's (bins, 2) others and cases, by rising risk: cases found against others taken for cases."""
    for (name, table), style in zip(counts.items(), _styles(), strict=False):
        above = table[::-1].cumsum(axis=0)
        axes.plot(*([0, *column] for column in (above / above[-1]).T), label=name, **style)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    axes.set(xlabel="share of others above the threshold", ylabel="share of cases above it")
    _legend(axes)


def precision(axes: "Axes", *, counts: Mapping[str, "NDArray[Any]"]) -> None:
    """As `roc`: how many above a threshold are cases, against the cases found."""
    for (name, table), style in zip(counts.items(), _styles(), strict=False):
        above = table[::-1].cumsum(axis=0)
        some = above.sum(axis=1) > 0
        axes.plot((above / above[-1])[some, 1], above[some, 1] / above[some].sum(axis=1), label=name, **style)
    axes.set(xlabel="share of cases above the threshold", ylabel="share of cases among those above it", ylim=(0, 1.05))
    _legend(axes)


def survival(axes: "Axes", *, curves: Mapping[str, Sequence[float]], days: Sequence[int]) -> None:
    """The share of patients who outlive the end of each interval."""
    for (name, shares), style in zip(curves.items(), _styles(), strict=False):
        axes.step([0, *days], [1, *shares], where="post", label=name, **style)
    axes.set(xlabel="days", ylabel="share without the event", ylim=(0, 1.05))
    _legend(axes)


def letters(axes: "Axes", *, values: "NDArray[Any]") -> None:
    """(classes, places, 4) changes of an output: the largest that another letter makes at each place, by class."""
    import numpy as np

    for k, (rows, style) in enumerate(zip(values, _styles(), strict=False)):
        largest = np.abs(rows).max(axis=1)
        if np.isfinite(largest).all():
            axes.step(np.arange(len(rows)) + 1, largest, where="mid", label=f"class {k}", **style)
    axes.set(xlabel="place", ylabel="largest change of the class's output")
    _legend(axes)


def _styles() -> Iterator[dict[str, Any]]:
    """Of lines that can be told apart, also in print."""
    for dash in itertools.cycle(("solid", (0, (4, 2)), (0, (1, 2)))):
        yield from ({"color": colour, "linestyle": dash} for colour in (ACCENT, SECOND, INK, MUTED))


def _legend(axes: "Axes") -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, borderpad=0, labelcolor=INK)


def _thinned(x: "NDArray[Any]", y: "NDArray[Any]", width: float, height: float) -> "tuple[NDArray[Any], NDArray[Any]]":
    """One of the points in each cell of a picture so wide and high."""
    import numpy as np

    cells = x // (width / PIXELS or 1.0) + 1j * (y // (height / PIXELS or 1.0))
    kept = np.unique(cells, return_index=True)[1]
    return x[kept], y[kept]


def short(text: str, most: int = 24) -> str:
    """A label that leaves room for the plot."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"


_PLOTS = (
    coefficients, trajectories, burn_down, shown, groups, comparison, calibration, roc, precision, survival, manhattan,
    qq, letters,
)  # fmt: skip
PLOTS = {plot.__name__: plot for plot in _PLOTS}


def _number_rounds(axes: "Axes", last: int, label: str) -> None:
    axes.set(xticks=range(0, last + 1, max(1, last // 10)), xlabel="round", ylabel=label)


def _name_rows(axes: "Axes", names: Sequence[str], label: str) -> None:
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(label)
