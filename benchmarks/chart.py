"""Line charts as SVG, readable on light and on dark pages: they bring colours for both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 58, 46
NAMES = 80  # room for the names of marks
STYLE = """
svg { font: 13px system-ui, sans-serif; background: #fff }
text { fill: #333 } .title { font-size: 15px; font-weight: 600; fill: #111 }
.grid { stroke: #e3e3e3 } .mark { stroke: #777; stroke-dasharray: 5 4 } .markname { fill: #666 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }
.s0 { stroke: #b3400e } .s1 { stroke: #1d5fa8 } .s2 { stroke: #3a7d2c } .s3 { stroke: #7b4aa3 }
.d0 { fill: #b3400e } .d1 { fill: #1d5fa8 } .d2 { fill: #3a7d2c } .d3 { fill: #7b4aa3 }
@media (prefers-color-scheme: dark) {
svg { background: #15181c } text { fill: #ccc } .title { fill: #eee }
.grid { stroke: #2c3138 } .mark { stroke: #999 } .markname { fill: #aaa }
.s0 { stroke: #ff9d6b } .s1 { stroke: #7db5f2 } .s2 { stroke: #8fce7e } .s3 { stroke: #c9a2ec }
.d0 { fill: #ff9d6b } .d1 { fill: #7db5f2 } .d2 { fill: #8fce7e } .d3 { fill: #c9a2ec }
}
"""


@dataclass(frozen=True)
class Line:
    """Points of one line. Lines of one name have one colour and one place in the legend."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    path: Path,
    title: str,
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    marks: Mapping[str, float] | None = None,
    low: float | None = None,
    dots: bool = False,
    x_ticks: Sequence[float] | None = None,
) -> None:
    """Write the chart. x and y name the axes, marks are horizontal lines; `low` is in sight."""
    marks = marks or {}
    xs = x_ticks or _ticks([0.0, *(v for line in lines for v in line.x)])
    ys = _ticks(
        [v for line in lines for v in line.y] + [*marks.values(), *([low] * (low is not None))]
    )

    bottom, right = HEIGHT - BOTTOM, WIDTH - (NAMES if marks else RIGHT)

    def at(across: float, up: float) -> tuple[float, float]:
        return (
            LEFT + (across - xs[0]) / (xs[-1] - xs[0]) * (right - LEFT),
            HEIGHT - BOTTOM - (up - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="12" y="22">{escape(title)}</text>',
    ]
    for value in ys:
        _, up = at(xs[0], value)
        parts.append(f'<path class="grid" d="M{LEFT} {up:.1f}H{right}"/>')
        parts.append(_text(LEFT - 8, up + 4, _number(value), "end"))
    for value in xs:
        across, _ = at(value, ys[0])
        anchor = "end" if value == xs[-1] else "middle"
        parts.append(_text(across, bottom + 18, _number(value), anchor))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 8, x, "middle"))
    parts.append(_text(12, TOP - 10, y, "start"))
    for name, value in marks.items():
        _, up = at(xs[0], value)
        parts.append(f'<path class="mark" d="M{LEFT} {up:.1f}H{right}"/>')
        parts.append(_text(right + 6, up + 4, name, "start", "markname"))
    names = list(dict.fromkeys(line.name for line in lines))
    for line in lines:
        colour = names.index(line.name)
        points = [at(*point) for point in zip(line.x, line.y, strict=True)]
        drawn = "L".join(f"{across:.1f} {up:.1f}" for across, up in points)
        parts.append(f'<path class="line s{colour}" d="M{drawn}"/>')
        if dots:
            parts += [
                f'<circle class="d{colour}" cx="{across:.1f}" cy="{up:.1f}" r="3.5"/>'
                for across, up in points
            ]
    place = 12 + 7 * len(y) + 24
    for number, name in enumerate(names):
        parts.append(f'<path class="line s{number}" d="M{place} {TOP - 14}h22"/>')
        parts.append(_text(place + 28, TOP - 10, name, "start"))
        place += 28 + 8 * len(name) + 24
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers, about six, from the least value or below it to the greatest or above it."""
    low, high = min(values), max(values)
    rough = (high - low or abs(high) or 1.0) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 10) for i in range(first, max(last, first + 1) + 1)]


def _number(value: float) -> str:
    return f"{value:,.10g}"
