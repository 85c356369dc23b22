# See LICENSE for details.
"""
Charts of horizontal bars, as one SVG file that is readable on light and on dark
pages: it brings a background of its own, which follows the reader's preference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.sax.saxutils import escape

from benchmarks.results import Bar, Chart

#: Everything in pixels: the whole width, where bars begin, how long the longest
#: may be, the height of a bar and of a chart's heading, and the margin.
_WIDTH, _LEFT, _LONGEST, _ROW, _HEAD, _MARGIN = 760, 300, 360, 18, 30, 16

#: A bar of several parts goes from dark to light.
_STYLE = """
svg { font: 12px system-ui, sans-serif }
.page { fill: #ffffff } text { fill: #24292f } .title { font-weight: 600 }
.note { fill: #57606a } .other { fill: #8c959f } .cited { fill: #d0d7de }
.own0 { fill: #0a5cc2 } .own1 { fill: #3f8ae0 } .own2 { fill: #7fb2ee }
.own3 { fill: #b9d6f7 }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117 } text { fill: #e6edf3 } .note { fill: #9198a1 }
.other { fill: #6e7681 } .cited { fill: #3d444d }
.own0 { fill: #1f6feb } .own1 { fill: #4c93f0 } .own2 { fill: #84b6f5 }
.own3 { fill: #bcd8fa }
}
""".strip()


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {place}/>'


def _text(kind: str, x: float, y: float, text: str, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    place = f'class="{kind}" x="{x:.1f}" y="{y:.1f}"{anchor}'
    return f"<text {place}>{escape(text)}</text>"


def _bar(bar: Bar, y: float, scale: float) -> Iterator[str]:
    yield _text("label", _LEFT - 8, y + 13, bar.label, end=True)
    x = float(_LEFT)
    for number, part in enumerate(bar.parts):
        kind = f"own{min(number, 3)}" if bar.own else "other"
        yield _rect("cited" if bar.cited else kind, x, y + 3, part * scale, _ROW - 5)
        x += part * scale
    cited = " (cited)" if bar.cited else ""
    yield _text("value", x + 6, y + 13, f"{sum(bar.parts):.3g}{cited}")


def _chart(chart: Chart, top: float) -> Iterator[str]:
    """
    One chart.

    @param top: Where it begins.
    """
    yield _text("title", _MARGIN, top + 18, chart.title)
    longest = max((sum(bar.parts) for bar in chart.bars), default=0)
    scale = _LONGEST / longest if longest else 0
    y = top + _HEAD
    for bar in chart.bars:
        yield from _bar(bar, y, scale)
        y += _ROW
    if chart.parts:
        note = f"pcapdaemon, from left to right: {', '.join(chart.parts)}"
        yield _text("note", _MARGIN, y + 13, note)


def _height(chart: Chart) -> int:
    return _HEAD + _ROW * (len(chart.bars) + bool(chart.parts)) + _MARGIN


def plot(charts: Iterable[Chart]) -> str:
    """
    @return: An SVG file of all charts, one below the other.
    """
    all = list(charts)
    height = _MARGIN + sum(map(_height, all))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img">',
        "<title>Benchmarks of pcapdaemon</title>",
        f"<style>{_STYLE}</style>",
        _rect("page", 0, 0, _WIDTH, height),
    ]
    top = float(_MARGIN) / 2
    for chart in all:
        lines += _chart(chart, top)
        top += _height(chart)
    return "\n".join([*lines, "</svg>", ""])
