#!/usr/bin/env python3
"""Draws network.svg from network.txt: boxes and arrows, at places that the text gives.

Owns the drawing's look. The form of the text stands at its head. Standard library only; run it after changing the text.
"""

import html
import pathlib

HERE = pathlib.Path(__file__).parent
# kind: fill, stroke
COLOURS = {
    "provider": ("#eef4fc", "#3b6db3"),
    "router": ("#eef8f0", "#3b8a55"),
    "consumer": ("#fdf4ea", "#b8732a"),
    "operator": ("#f4f2f7", "#75648f"),
    "agreement": ("#fffbe3", "#a08a1c"),
    "agent": ("#ffffff", "#22303c"),
    "place": ("#ffffff", "#9aa5ae"),
}
INK, LINE = "#1c2730", "#44525e"
FONT = "font-family='Helvetica, Arial, sans-serif'"


def text(x, y, words, size=13, anchor="middle", weight="normal", back=""):
    """A line of text; `back` is the colour behind it, where it lies over a line."""
    halo = f" stroke='{back}' stroke-width='6' paint-order='stroke' stroke-linejoin='round'" if back else ""
    return (f"<text x='{x:g}' y='{y:g}' font-size='{size}' text-anchor='{anchor}' font-weight='{weight}' "
            f"fill='{INK}'{halo}>{html.escape(words)}</text>")


def lines(x, middle, words, first="normal", back="", anchor="middle"):
    """Lines of text around a middle; the first may be bold."""
    top = middle - (len(words) - 1) * 8.5 + 4.5
    return [text(x, top + 17 * n, line, 13 if n == 0 and first == "bold" else 12, anchor, first if n == 0 else "normal", back)
            for n, line in enumerate(words)]


class Picture:
    """What was read, by its ids, and what was drawn, in layers: frames, arrows, boxes, words."""

    def __init__(self):
        self.size, self.title, self.desc = (900, 600), "", []
        self.places, self.layers = {}, {"frame": [], "arrow": [], "box": [], "word": []}

    def rectangle(self, layer, name, kind, area, width):
        x, y, w, h = self.places[name] = area
        fill, stroke = COLOURS[kind]
        self.layers[layer].append(f"<rect x='{x:g}' y='{y:g}' width='{w:g}' height='{h:g}' rx='{8 if layer == 'frame' else 5}' "
                                  f"fill='{fill}' stroke='{stroke}' stroke-width='{width}'/>")

    def point(self, end):
        """The place `id.side@share` on a box's edge, and whether its side is an upright one."""
        name, _, side = end.partition(".")
        side, _, share = side.partition("@")
        (x, y, w, h), share = self.places[name], float(share or ".5")
        at = {"left": (x, y + h * share), "right": (x + w, y + h * share), "top": (x + w * share, y), "bottom": (x + w * share, y + h)}
        return at[side], side in ("left", "right")

    def arrow(self, start, end, styles, words):
        """Straight, with one corner between sides of two directions, with two between sides of one."""
        ((x1, y1), level1), ((x2, y2), level2) = self.point(start), self.point(end)
        if level1 != level2:
            path = [(x1, y1), (x2, y1) if level1 else (x1, y2), (x2, y2)]
        elif (level1 and abs(y1 - y2) > 1) or (not level1 and abs(x1 - x2) > 1):
            middle = ((x1 + x2) / 2, (y1 + y2) / 2)
            path = [(x1, y1), (middle[0], y1) if level1 else (x1, middle[1]), (middle[0], y2) if level1 else (x2, middle[1]), (x2, y2)]
        else:
            path = [(x1, y1), (x2, y2)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in path)
        dash = " stroke-dasharray='5 4'" if "dashed" in styles else ""
        both = " marker-start='url(#head)'" if "both" in styles else ""
        self.layers["arrow"].append(f"<polyline points='{points}' fill='none' stroke='{LINE}' stroke-width='1.6'{dash}{both} marker-end='url(#head)'/>")
        if words:
            (ax, ay), (bx, by) = path[-2], path[-1]
            self.layers["word"] += lines((ax + bx) / 2, (ay + by) / 2 - (0 if ax == bx else 12), words, back="#ffffff")

    def read(self, line):
        head, *words = [part.strip() for part in line.split("|")]
        kind, *rest = head.split()
        if kind == "size":
            self.size = tuple(map(int, rest))
        elif kind == "title":
            self.title = " ".join(rest)
        elif kind == "desc":
            self.desc.append(" ".join(rest))
        elif kind in ("frame", "box"):
            x, y, w, h = area = tuple(map(float, rest[1:5]))
            self.rectangle(kind, rest[0], rest[5], area, 1.6 if rest[5] in ("agent", "agreement") else 1.2)
            told = [text(x + 12, y + 22, words[0], 13, "start", "bold")] if kind == "frame" else lines(x + w / 2, y + h / 2, words, "bold")
            self.layers["word"] += told
        elif kind == "arrow":
            self.arrow(rest[0], rest[1], rest[2:], words)
        elif kind == "note":
            self.layers["word"] += lines(float(rest[0]), float(rest[1]), words, anchor=rest[2])
        else:
            raise SystemExit(f"network.txt: {kind!r} is no word of its form")

    def svg(self):
        width, height = self.size
        return "\n".join([
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' role='img' "
            f"aria-labelledby='title desc' {FONT}>",
            f"<title id='title'>{html.escape(self.title)}</title>", f"<desc id='desc'>{html.escape(' '.join(self.desc))}</desc>",
            "<defs><marker id='head' viewBox='0 0 10 10' refX='9.5' refY='5' markerWidth='8' markerHeight='8' orient='auto-start-reverse'>"
            f"<path d='M0 1 L10 5 L0 9 z' fill='{LINE}'/></marker></defs>",
            f"<rect width='{width}' height='{height}' fill='#ffffff'/>",
            *(element for layer in self.layers.values() for element in layer), "</svg>", ""])


if __name__ == "__main__":
    picture = Picture()
    for row in (HERE / "network.txt").read_text(encoding="utf-8").splitlines():
        if row.strip() and not row.startswith("#"):
            picture.read(row)
    (HERE / "network.svg").write_text(picture.svg(), encoding="utf-8")
