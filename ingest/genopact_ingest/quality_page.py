"""The quality of a site's genotypes for people who would rather look than read: one HTML file, for the site alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genopact_ingest.counts import Flags, Floats
from genopact_ingest.kinship import EDGES
from genopact_ingest.quality import Quality
from genopact_shared.manifest import VariantManifest
from genopact_shared.page import ACCENT, INK, MUTED, OTHER, RULE, svg, template

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAD = OTHER
LEVELS = (ACCENT, "#101112", "#131415", "#161718", "#191a1b")
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", BAD: "--bad"}
VARIABLES |= {colour: f"--level{at}" for at, colour in enumerate(LEVELS)}
"""Placeholder colours, and the CSS variables that replace them: the page follows the reader's light or dark."""
MOST_ROWS = 200
MOST_POINTS = 2500
QQ_TOP, MOST_F = 30.0, 0.4
DASHED = (0, (3, 3))
DOTS: dict[str, Any] = {"color": ACCENT, "markersize": 3, "alpha": 0.6, "markeredgewidth": 0}
MARKED: dict[str, Any] = {"color": BAD, "markersize": 5, "alpha": 0.9}
LEGEND: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 5, "borderpad": 0}


def page(quality: Quality, manifest: VariantManifest, title: str = "Quality of the genotypes") -> str:
    """One HTML file with tables and plots.

    Guarantees:
        It loads nothing and runs no script, whatever names batches have; people are row numbers. It describes single
        people and is not for sending.
    """
    absent = {"components"} if quality.pcs.shape[1] < 2 else set()
    absent |= set() if np.isfinite(quality.x_f).any() else {"sex"}
    absent |= {"kinship"} if quality.kinship is None else set()
    tested = np.where(np.isnan(quality.hardy_weinberg), 1.0, quality.hardy_weinberg)
    return template(Path(__file__).parent / "templates" / "quality.html.j2", number=number).render(
        title=title, quality=quality, manifest=manifest, policy=quality.thresholds, kinship=quality.kinship,
        plots={name: None if name in absent else _svg(name, quality) for name in PLOTS}, most=MOST_ROWS,
        people=_flagged(flags for reason, flags in quality.person_flags.items() if reason not in ("relative", "batch")),
        variants=_flagged(quality.variant_flags.values()), p=tested.min(axis=0, initial=1.0),
    )  # fmt: skip


def number(value: float, digits: int = 3) -> str:
    """A number for people: `digits` significant ones, thousands apart."""
    if not np.isfinite(value):
        return "unknown"
    return f"{int(value):,}".replace(",", "\u202f") if value == int(value) else f"{value:.{digits}g}"


def _flagged(flags: Iterable[Flags]) -> list[int]:
    return np.flatnonzero(np.any(list(flags), axis=0)).tolist()


# --- plots


def missing(figure: "Figure", quality: Quality) -> None:
    """Missing calls of people and of variants."""
    policy = quality.thresholds
    least = {"people": policy.sample_call_rate, "variants": policy.variant_call_rate}
    for axes, of, rate in zip(figure.subplots(1, 2), least, (quality.call_rate, quality.called), strict=True):
        limit = max(100 * (1 - least[of]), 0.1)
        axes.hist(np.clip(100 * (1 - np.nan_to_num(rate)), 0, 4 * limit), np.linspace(0, 4 * limit, 41), color=ACCENT)
        axes.axvline(limit, color=BAD, linewidth=1.4)
        _logarithmic(axes)
        axes.set(xlabel="missing calls, %", ylabel=of)


def heterozygosity(figure: "Figure", quality: Quality) -> None:
    """F against missingness."""
    axes, flags = figure.subplots(), quality.person_flags
    absent = np.log10(np.maximum(100 * (1 - quality.call_rate), 0.01))
    points = np.column_stack([absent, np.clip(quality.f, -MOST_F, MOST_F)])
    _dots(axes, points, np.ones(len(points), np.bool_))
    _dots(axes, points, flags["heterozygosity"] | flags["call_rate"], **MARKED)
    axes.axvline(np.log10(max(100 * (1 - quality.thresholds.sample_call_rate), 0.01)), color=BAD, linewidth=1)
    axes.set_xticks([-2, -1, 0, 1, 2], ["0.01", "0.1", "1", "10", "100"])
    axes.set(xlabel="missing calls, %; none at the left", ylabel=f"F, at most {MOST_F} either way")


def frequency(figure: "Figure", quality: Quality) -> None:
    """The site's frequencies against the manifest's."""
    axes, points = figure.subplots(), np.column_stack([quality.expected, quality.frequency])
    _dots(axes, points, np.ones(len(points), np.bool_))
    _dots(axes, points, quality.variant_flags["frequency"], **MARKED)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=DASHED)
    axes.set_aspect("equal")
    axes.set(xlabel="frequency in the manifest", ylabel="frequency here")


def hardy_weinberg(figure: "Figure", quality: Quality) -> None:
    """Quantiles of the exact test, a colour for each ancestry group."""
    axes, end = figure.subplots(), 1.0
    for p, colour in zip(quality.hardy_weinberg, LEVELS * 52, strict=False):
        observed = np.sort(-np.log10(np.maximum(p[np.isfinite(p)], 10**-QQ_TOP)))[::-1]
        place = np.unique(np.geomspace(1, len(observed) or 1, 400).astype(np.int64))[: len(observed)]
        expected = -np.log10((place - 0.5) / len(observed)) if len(observed) else place
        axes.plot(expected, observed[place - 1], "o", color=colour, markersize=3)
        end = max(end, float(np.max(expected, initial=0)))
    axes.plot([0, end], [0, end], color=MUTED, linewidth=0.9, linestyle=DASHED)
    axes.axhline(-np.log10(max(quality.thresholds.hardy_weinberg, 10**-QQ_TOP)), color=BAD, linewidth=1)
    axes.set(xlabel="expected, -log10 p", ylabel=f"observed, -log10 p, at most {QQ_TOP:g}")


def sex(figure: "Figure", quality: Quality) -> None:
    """X against Y, by recorded sex; contradictions are ringed."""
    axes, flags, recorded = figure.subplots(), quality.person_flags, quality.people.sex
    known = bool(np.isfinite(quality.y_called).any())
    height = 100 * (quality.y_called if known else np.arange(len(recorded)) * 0.618 % 1)
    points: Floats = np.column_stack([quality.x_f, height]).astype(np.float64)
    for label, code, colour in (("women", 0, LEVELS[0]), ("men", 1, LEVELS[1]), ("not recorded", -1, MUTED)):
        _dots(axes, points, recorded == code, color=colour, label=label)
    ring = {"markersize": 9, "fillstyle": "none", "markeredgewidth": 1.4}
    _dots(axes, points, flags["sex_mismatch"] | flags["sex_unclear"], **MARKED | ring, label="contradiction")
    for limit in (quality.thresholds.female_x_f, quality.thresholds.male_x_f):
        axes.axvline(limit, color=MUTED, linewidth=0.9, linestyle=DASHED)
    axes.legend(**LEGEND)
    heights = "Y variants called, %" if known else "no Y variants: spread out to be seen"
    axes.set(xlabel="F on X; near 0: two X, 1: one X", ylabel=heights)


def kinship(figure: "Figure", quality: Quality) -> None:
    """All pairs by kinship."""
    axes, policy, found = figure.subplots(), quality.thresholds, quality.kinship
    limits = {"2nd": policy.second_degree, "1st degree": policy.first_degree, "duplicate": policy.duplicate}
    axes.bar(EDGES[:-1], found.histogram if found else 0, float(EDGES[1] - EDGES[0]), align="edge", color=ACCENT)
    for name, limit in limits.items():
        axes.axvline(limit, color=BAD, linewidth=1)
        axes.text(limit, 1, f" {name}", color=INK, va="top", transform=axes.get_xaxis_transform())
    _logarithmic(axes)
    axes.set_xlim(-0.25, 0.52)
    axes.set(xlabel="kinship", ylabel="pairs")


def components(figure: "Figure", quality: Quality) -> None:
    """The first two components, by the first batch column."""
    axes, points = figure.subplots(), quality.pcs[:, :2]
    labels = np.array(next(iter(quality.people.batches.values()), [""] * len(points)), np.str_)
    levels = np.unique(labels)[: len(LEVELS)].tolist()
    _dots(axes, points, ~np.isin(labels, levels), color=MUTED)
    for level, colour in zip(levels, LEVELS, strict=False):
        _dots(axes, points, labels == level, color=colour, label=level[:20])
    if len(levels) > 1:
        axes.legend(**LEGEND)
    axes.set(xlabel="first component", ylabel="second component")


PLOTS = {plot.__name__: plot for plot in (missing, heterozygosity, frequency, hardy_weinberg, sex, kinship, components)}
HEIGHTS = {"missing": 2.9, "frequency": 5.4, "components": 4.6}
"""Inches; 3.8 else."""


def _dots(axes: "Axes", points: Floats, mask: Flags, **style: Any) -> None:
    """At most MOST_POINTS of the masked points (n, 2), evenly taken."""
    rows = np.flatnonzero(mask & np.isfinite(points).all(axis=1))
    chosen: Any = points[rows[:: -(-len(rows) // MOST_POINTS) or 1]].T
    axes.plot(*chosen, "o", **DOTS | style)


def _logarithmic(axes: "Axes") -> None:
    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(bottom=0.7)
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _svg(name: str, quality: Quality) -> str:
    size = 7.6, HEIGHTS.get(name, 3.8)
    return svg(name, str(PLOTS[name].__doc__), size, VARIABLES, lambda figure: PLOTS[name](figure, quality))
