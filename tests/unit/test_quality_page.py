"""The quality page: whole, readable, harmless whatever batches are called, and without a patient's number."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from genopact_ingest import quality_page
from genopact_ingest.counts import People
from genopact_ingest.quality import Quality, assess
from genopact_ingest.quality_page import PLOTS, number, page
from tests.unit.quality_people import children, drawn, manifest, packed, people
from tests.unit.test_quality import KINDS, World

HOSTILE = '<script src=//a.b/c.js>alert(1)</script><img src=x onerror=alert(2)>&#39;"$x^2$'
ROWS = np.arange(300, dtype=np.int64) * 10 + 7


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def spoilt() -> tuple[World, Quality]:
    """A site with one of each fault, and a batch whose name attacks."""
    world = World(11)
    world.dosages[4, world.rng.random(len(KINDS)) < 0.04] = -1
    world.dosages[world.rng.random(300) < 0.12, 9] = -1
    world.dosages[3, :1600] = np.where(world.rng.random(1600) < 0.4, 1, world.dosages[3, :1600])
    world.dosages[101] = world.dosages[1]
    world.dosages[50, :1600] = children(
        world.dosages[60:61, :1600].clip(0), world.dosages[61:62, :1600].clip(0), world.rng
    )
    world.dosages[:, 30] = 2 - drawn(300, np.array([0.1]), ["autosome"], world.sex, world.rng)[:, 0]
    world.frequency[30] = 0.1
    recorded = world.sex.copy()
    recorded[2] = 1
    labels = [HOSTILE if at % 3 else "a$x^2$ & b" for at in range(300)]
    return world, world.assess(People(ROWS, recorded, batches={HOSTILE: labels, "plate": ["1"] * 300}))


@pytest.fixture(scope="module")
def parsed(spoilt: tuple[World, Quality]) -> tuple[str, Page]:
    world, result = spoilt
    text = page(result, world.manifest(), HOSTILE)
    return text, Page(text)


def test_every_fault_is_told_by_row_number(parsed: tuple[str, Page]) -> None:
    text, read = parsed
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    for row, reason in ((47, "call rate"), (37, "heterozygosity"), (27, "sex mismatch"), (1017, "duplicate")):
        assert re.search(rf" {row} [^a-z]+(wo)?man (wo)?man (?:[a-z ]+, )*{reason}", plain), reason
    assert "1:10000000 A&gt;G" in text
    assert "1:31000000 A&gt;G" in text
    assert "1017 0.5 0 duplicate or twin" in plain
    assert re.search(r"507 607 0\.2\d+ [0-9.]+ (parent and child|siblings)", plain)
    assert "296 of 300 people kept" in plain
    assert read.tags.count("svg") == len(PLOTS)


def test_nothing_runs_and_nothing_is_fetched(parsed: tuple[str, Page]) -> None:
    text, read = parsed
    assert not {"script", "img", "iframe", "object", "embed", "link", "base", "form", "image"} & set(read.tags)
    for tag, name, value in read.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in {"src", "href", "xlink:href", "srcset", "action", "data"}:
            assert value.startswith("#"), (tag, name, value)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text)
    policy = [value for _, name, value in read.attributes if name == "content" and "default-src" in value]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    assert HOSTILE in read.text
    assert text.startswith("<!doctype html>")


def test_plots_follow_the_page_colours_and_have_names(parsed: tuple[str, Page]) -> None:
    text, read = parsed
    assert not re.search("|".join(quality_page.VARIABLES), text)
    assert {value for tag, name, value in read.attributes if (tag, name) == ("svg", "role")} == {"img"}
    assert sum((tag, name) == ("svg", "aria-label") for tag, name, _ in read.attributes) == len(PLOTS)
    assert "mathdefault" not in text
    assert read.text.count("a$x^2$ & b") == 2  # in the table and in the plot
    used = set(re.findall(r"var\((--\w+)\)", text))
    assert used <= set(re.findall(r"(--\w+):#", text))


def test_what_was_not_checked_is_said() -> None:
    """No X, no components, too little for kinship, nothing known: still a page."""
    nothing = assess([packed(np.full((1, 5), -1, np.int8))], manifest(np.full(5, np.nan), ["autosome"] * 5), people(1))
    text = page(nothing, manifest(np.full(5, np.nan), ["autosome"] * 5))
    assert "Not checked: the manifest has too few X variants" in text
    assert "Not computed: too few common variants" in text
    assert "Ancestry components" not in text
    assert "Batches" not in text
    assert text.count("<svg") == len(PLOTS) - 3


def test_a_large_site_keeps_the_page_small(monkeypatch: pytest.MonkeyPatch, spoilt: tuple[World, Quality]) -> None:
    world, result = spoilt
    whole = page(result, world.manifest())
    monkeypatch.setattr(quality_page, "MOST_POINTS", 50)
    monkeypatch.setattr(quality_page, "MOST_ROWS", 1)
    small = page(result, world.manifest())
    assert len(small) < len(whole) / 2
    assert "and 3 more." in small


def test_flagged_points_are_never_thinned_away(spoilt: tuple[World, Quality], monkeypatch: pytest.MonkeyPatch) -> None:
    world, result = spoilt
    monkeypatch.setattr(quality_page, "MOST_POINTS", 1)
    flags = {**result.variant_flags, "frequency": np.zeros(len(KINDS), np.bool_)}
    without = result._replace(variant_flags=flags)
    marks = [page(each, world.manifest()).count("var(--bad)") for each in (result, without)]
    assert marks[0] > marks[1]


def test_numbers_are_for_people() -> None:
    assert [number(value) for value in (0, 12345, 0.98765, 1e-9, float("nan"))] == [
        "0", "12\u202f345", "0.988", "1e-09", "unknown",
    ]  # fmt: skip
