"""What a report's page and its files say, read back as a person would."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image


def page_data(page: Path) -> dict[str, Any]:
    """What report.js draws the ranked lists from."""
    (found,) = re.findall(r'id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    return json.loads(found)


class _Tables(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[list[list[str]]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self.found.append([])
        elif tag == "tr":
            self.found[-1].append([])
        elif tag in ("td", "th"):
            self.found[-1][-1].append("")
        self.inside = tag in ("td", "th") or (self.inside and tag in ("b", "span"))

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            cells = self.found[-1][-1]
            cells[-1] = " ".join(f"{cells[-1]} {data}".split())


def page_tables(page: Path) -> dict[str, list[list[str]]]:
    """Rows of cells of each table, by the first cell of its head."""
    reader = _Tables()
    reader.feed(page.read_text("utf-8"))
    return {rows[0][0]: rows for rows in reader.found}


def strip_colours(strip: Path) -> np.ndarray:
    """Mean colour of the middle of each frame of a film strip: [frames, 3]."""
    with Image.open(strip) as image:
        pixels = np.asarray(image.convert("RGB")).astype(float)
    frames = pixels.reshape(96, -1, 48, 3)[24:72, :, 12:36]
    return frames.mean((0, 2))


def nearest_colours(colours: np.ndarray, palette: np.ndarray) -> list[int]:
    """Rows of `palette` [P, 3] that `colours` [n, 3] are; none may be far from its row."""
    far = abs(colours[:, None] - palette[None]).max(-1)
    assert far.min(1).max() < 12, far.min(1)
    return far.argmin(1).tolist()


def page_plot(page: Path, caption: str) -> dict[str, np.ndarray]:
    """Curves of the plot whose caption starts so, by their labels in the legend: [n, 2].

    In the units of the axes' tick marks. Without a legend the label is "".
    """
    pattern = r"<figure>(<svg.*?</svg>)\s*<figcaption>(.*?)</fig"
    figures = re.findall(pattern, page.read_text("utf-8"), re.DOTALL)
    (svg,) = [svg for svg, said in figures if said.startswith(caption)]
    tree = ElementTree.fromstring(svg)
    groups: dict[str, list[ElementTree.Element]] = {"xtick": [], "ytick": [], "legend": []}
    for element in tree.iter():
        element.tag = element.tag.rpartition("}")[2]
        kind = re.search(r"(xtick|ytick|legend)_\d+$", element.get("id", ""))
        if kind:
            groups[kind[1]].append(element)
    units = [_units(groups[f"{axis}tick"], axis) for axis in "xy"]
    labels, series = {}, ""
    in_legend = [element for legend in groups["legend"] for element in legend.iter()]
    for element in in_legend:
        series = _series(element) or series
        if element.tag == "text":
            labels[series] = element.text or ""
    curves = {}
    for path in tree.iter("path"):
        series = _series(path)
        if series and path not in in_legend:
            points = np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.attrib["d"]), float)
            label = labels[series] if labels else ""
            assert label not in curves
            curves[label] = np.stack(
                [scale * v + start for v, (scale, start) in zip(points.T, units, strict=True)], 1
            )
    return curves


def _series(element: ElementTree.Element) -> str:
    """Which series the element is a line of; empty if it is none."""
    found = re.match(r"fill: none;.*stroke: var\(--(series-\d)\)", element.get("style", ""))
    return found[1] if found else ""


def _units(ticks: list[ElementTree.Element], axis: str) -> tuple[float, float]:
    """Scale and start of an axis: pixels -> what its tick marks say."""
    marks = []
    for tick in ticks:
        use, text = tick.find(".//use"), tick.find(".//text")
        assert use is not None
        assert text is not None
        said = (text.text or "").replace("\N{MINUS SIGN}", "-")
        marks.append((float(use.attrib[axis]), float(said)))
    (a, at_a), (b, at_b) = marks[0], marks[-1]
    scale = (at_b - at_a) / (b - a)
    return scale, at_a - scale * a
