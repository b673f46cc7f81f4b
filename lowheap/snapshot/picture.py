"""A picture of an image: what is where in the heap, and of one that is made of lines and blocks, what these hold.

**Types**: the heap as one line, wrapped. A cell stands for a multiple of 16 bytes, and has the colour of what fills
most of it.

**Lines**: each row a block, each cell a line. Of more blocks than fit, those are shown that are evenly far apart; then
there is, above, a picture of all **blocks**: each is a small bar, of which so much is coloured as lines are of a kind.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from lowheap.collectors.shared.lines import BlockOfLines, LineMap, LineState
from lowheap.errors import HeapCorruptionError, LowheapError
from lowheap.layout import BLOCK_ALIGN, FIRST_INDEX
from lowheap.snapshot import Image

_WIDTH, _DOTS_PER_INCH = 12, 100
_FREE_COLOUR, _OTHER_COLOUR, _NOTHING_COLOUR = "#e4e4e4", "#7f7f7f", "#ffffff"

_CELLS_PER_ROW = 128
_MOST_ROWS = 256
_MOST_TYPES = 10

_LINE_COLOURS = {
    LineState.SURVIVORS: "#1f4e79",
    LineState.BEHIND: "#8fb4d9",
    LineState.YOUNG: "#f0a030",
    LineState.LARGE: "#6b4c9a",
    LineState.FREE: _FREE_COLOUR,
    LineState.RESERVED: _NOTHING_COLOUR,
}
"""In the order in which a bar has them."""

_LINE_NAMES = {
    LineState.SURVIVORS: "survivors",
    LineState.BEHIND: "behind survivors,\nwhich may reach in",
    LineState.YOUNG: "young",
    LineState.LARGE: "large objects",
    LineState.FREE: "free",
    LineState.RESERVED: "never used",
}

_MOST_LINE_ROWS = 64
"""So many blocks have their lines shown."""

_BARS_PER_ROW, _BAR_CELLS = 64, 8
_MOST_BAR_ROWS = 48
"""Blocks are small bars, so many a row; of more, each bar stands for several."""


def draw(image: Image, lines: LineMap | None, path: str | os.PathLike[str]) -> None:
    """Write a PNG. LowheapError when matplotlib is not installed; OSError when the file cannot be written."""
    try:
        picture = _Picture()
    except ImportError as error:
        raise LowheapError(f"a picture of the heap needs matplotlib ({error}): pip install 'lowheap[lab]'") from error
    if lines is not None and lines.blocks:
        if len(lines.blocks) > _MOST_LINE_ROWS:
            picture.add(_BlockBars(lines))
        picture.add(_Lines(lines))
    picture.add(_Types(image, None if lines is None else lines.line_size))
    picture.save(path)


class _Picture:
    """Panels one below another, with a legend beside each. ImportError when matplotlib is not installed."""

    def __init__(self) -> None:
        self.numpy: Any = importlib.import_module("numpy")
        self.figures: Any = importlib.import_module("matplotlib.figure")
        self.colours: Any = importlib.import_module("matplotlib.colors")
        self.patches: Any = importlib.import_module("matplotlib.patches")
        self.collections: Any = importlib.import_module("matplotlib.collections")
        self.tables: Any = importlib.import_module("matplotlib").colormaps
        self._panels: list[_BlockBars | _Lines | _Types] = []

    def add(self, panel: _BlockBars | _Lines | _Types) -> None:
        self._panels.append(panel)

    def save(self, path: str | os.PathLike[str]) -> None:
        for panel in self._panels:
            panel.prepare(self)
        heights = [panel.height for panel in self._panels]
        figure = self.figures.Figure(figsize=(_WIDTH, sum(heights)), dpi=_DOTS_PER_INCH, layout="constrained")
        every_axes = figure.subplots(len(self._panels), 1, height_ratios=heights, squeeze=False)
        for panel, (axes,) in zip(self._panels, every_axes, strict=True):
            panel.show(self, axes)
        figure.savefig(path, format="png")

    def image(self, axes: Any, cells: Any, palette: Sequence[str]) -> None:
        """Show numbers of colours."""
        axes.imshow(
            cells,
            cmap=self.colours.ListedColormap(palette),
            vmin=-0.5,
            vmax=len(palette) - 0.5,
            aspect="auto",
            interpolation="nearest",
        )

    def addresses(self, axes: Any, of_rows: Sequence[int]) -> None:
        """Say where some of the rows begin."""
        step = max(1, -(-len(of_rows) // 16))
        numbers = range(0, len(of_rows), step)
        axes.set_yticks(numbers, [f"{of_rows[number]:#x}" for number in numbers], family="monospace")

    def ticks(self, axes: Any, lines: Iterable[tuple[float, float, float, float]], colour: str, width: float) -> None:
        """Draw lines between places."""
        segments = [[(x, y), (to_x, to_y)] for x, y, to_x, to_y in lines]
        axes.add_collection(self.collections.LineCollection(segments, colors=colour, linewidths=width))

    def title(self, axes: Any, text: str, below: str) -> None:
        axes.set_title(text, loc="left", parse_math=False)
        axes.set_xlabel(below)

    def legend(self, axes: Any, shown: Iterable[tuple[str, str]]) -> None:
        """Say what colours stand for."""
        legend = axes.legend(
            handles=[
                self.patches.Patch(facecolor=colour, edgecolor="#999999", label=_ascii(name)) for name, colour in shown
            ],
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a type's name begins with a dollar sign


def _ascii(name: str) -> str:
    """A name in characters that every font has."""
    return name.encode("ascii", "backslashreplace").decode().replace("\\n", "\n")


# ----------------------------------------------------------------------------------------------------------------------
# Types


class _Types:
    """What objects are where. With lines, so that each begins with a cell, or a cell has whole ones."""

    def __init__(self, image: Image, line_size: int | None) -> None:
        self.image = image
        self.first = FIRST_INDEX if line_size is None else 0
        self.blocks = _blocks_by_label(image)
        self.sizes: Counter[str] = Counter()
        for _, length, label in self.blocks:
            if label is not None:
                self.sizes[label] += length
        units = max(1, (image.end - self.first) // BLOCK_ALIGN)
        self.units_per_cell = -(-units // (_CELLS_PER_ROW * _MOST_ROWS))
        if line_size is not None:
            self.units_per_cell = 1 << (self.units_per_cell - 1).bit_length()
        self.cell = self.units_per_cell * BLOCK_ALIGN
        self.rows = -(-units // (self.units_per_cell * _CELLS_PER_ROW))

    @property
    def height(self) -> float:
        return min(16 if self.first else 10, 2.2 + self.rows * 0.18)

    def prepare(self, picture: _Picture) -> None:
        self.labels = [label for label, _ in self.sizes.most_common(_MOST_TYPES)]
        # Categories: 0 nothing is known of it, 1 free, then the types, then all other types.
        self.category = {label: 2 + number for number, label in enumerate(self.labels)}
        self.palette = [
            _NOTHING_COLOUR,
            _FREE_COLOUR,
            *map(picture.colours.to_hex, picture.tables["tab10"].colors[: len(self.labels)]),
            _OTHER_COLOUR,
        ]
        cell = self.cell
        filled = picture.numpy.zeros((len(self.palette), self.rows * _CELLS_PER_ROW))
        filled[0] = 0.5  # bytes: less than any block that reaches into the cell
        for index, length, label in self.blocks:
            which = filled[1 if label is None else self.category.get(label, len(self.palette) - 1)]
            start, end = index - self.first, index - self.first + length
            first, last = start // cell, (end - 1) // cell
            if first == last:
                which[first] += length
            else:
                which[first] += (first + 1) * cell - start
                which[first + 1 : last] += cell
                which[last] += end - last * cell
        self.cells = filled.argmax(axis=0).reshape(self.rows, _CELLS_PER_ROW)

    def show(self, picture: _Picture, axes: Any) -> None:
        image, cell = self.image, self.cell
        picture.image(axes, self.cells, self.palette)
        if self.units_per_cell == 1 and len(self.blocks) <= self.rows * _CELLS_PER_ROW:
            # Each block has cells of its own: show where it begins.
            places = [divmod((index - self.first) // cell, _CELLS_PER_ROW) for index, _, _ in self.blocks]
            begins = ((column - 0.5, row - 0.5, column - 0.5, row + 0.5) for row, column in places)
            picture.ticks(axes, begins, "white", 0.6)
        picture.addresses(axes, [self.first + row * _CELLS_PER_ROW * cell for row in range(self.rows)])
        axes.set_xticks([])
        live = sum(self.sizes.values())
        text = (
            f"{_ascii(image.source)}: {live:,} of {image.end - FIRST_INDEX:,} bytes live, {len(self.blocks):,} blocks"
        )
        picture.title(axes, text, f"{_CELLS_PER_ROW} cells of {cell} bytes a row")
        shown = [(label, self.palette[self.category[label]]) for label in self.labels]
        if len(self.sizes) > len(self.labels):
            shown.append((f"{len(self.sizes) - len(self.labels)} other types", _OTHER_COLOUR))
        is_known = image.is_walkable
        shown.append(("free" if is_known else "not known", _FREE_COLOUR if is_known else _NOTHING_COLOUR))
        picture.legend(axes, shown)


def _blocks_by_label(image: Image) -> list[tuple[int, int, str | None]]:
    """Each block's index and length, and what to call its object's type, None when it is free."""
    blocks = []
    with contextlib.suppress(HeapCorruptionError):  # the picture ends where the walk does
        for block in image.blocks():
            label = None if block.is_free else image.object_at(block.index).label
            blocks.append((block.index, block.length, label))
    return blocks


# ----------------------------------------------------------------------------------------------------------------------
# Lines and blocks

_STATES = tuple(_LINE_COLOURS)
_LINE_PALETTE = [_LINE_COLOURS[state] for state in _STATES]


class _OfLines:
    """What both pictures of lines have."""

    def __init__(self, lines: LineMap) -> None:
        self.map = lines

    def prepare(self, picture: _Picture) -> None:
        """All is known."""

    def legend(self, picture: _Picture, axes: Any, blocks: Iterable[BlockOfLines]) -> None:
        there = {state for block in blocks for state in block.states}
        picture.legend(axes, [(_LINE_NAMES[state], _LINE_COLOURS[state]) for state in _STATES if state in there])

    def size(self) -> str:
        return f"{self.map.block_size >> 10} KiB"


class _Lines(_OfLines):
    """The lines of blocks, of which each is a row."""

    def __init__(self, lines: LineMap) -> None:
        super().__init__(lines)
        count = len(lines.blocks)
        rows = min(count, _MOST_LINE_ROWS)
        self.shown = [lines.blocks[number * count // rows] for number in range(rows)]

    @property
    def height(self) -> float:
        return 1.6 + len(self.shown) * 0.16

    def show(self, picture: _Picture, axes: Any) -> None:
        shown = self.shown
        of_line = {state: number for number, state in enumerate(_STATES)}
        picture.image(axes, [[of_line[LineState(state)] for state in block.states] for block in shown], _LINE_PALETTE)
        count = len(shown[0].states)
        picture.ticks(
            axes, ((line - 0.5, -0.5, line - 0.5, len(shown) - 0.5) for line in range(1, count)), "white", 0.3
        )
        picture.ticks(axes, ((-0.5, row - 0.5, count - 0.5, row - 0.5) for row in range(1, len(shown))), "white", 1.6)
        # A large object's blocks belong together: what parts it from what is before it is dark.
        begins = [row for row, block in enumerate(shown) if block.begins_large]
        picture.ticks(axes, ((-0.5, row - 0.5, count - 0.5, row - 0.5) for row in begins), "black", 1.6)
        picture.addresses(axes, [block.start for block in shown])
        step = count // 8
        axes.set_xticks([line - 0.5 for line in range(0, count + 1, step)], range(0, count + 1, step))
        lines = self.map
        if len(shown) == len(lines.blocks):
            text = f"lines of {len(shown):,} blocks"
        else:
            text = f"lines of {len(shown):,} of {len(lines.blocks):,} blocks, evenly far apart"
        text += f"; in blocks in use {lines.free_in_use:,} lines are free ({lines.fragmentation:.0%})"
        picture.title(axes, text, f"a row is a block of {self.size()}, a cell a line of {lines.line_size} bytes")
        self.legend(picture, axes, shown)


class _BlockBars(_OfLines):
    """All blocks, as small bars."""

    def __init__(self, lines: LineMap) -> None:
        super().__init__(lines)
        self.per_bar = -(-len(lines.blocks) // (_BARS_PER_ROW * _MOST_BAR_ROWS))
        self.bars = -(-len(lines.blocks) // self.per_bar)
        self.rows = -(-self.bars // _BARS_PER_ROW)

    @property
    def height(self) -> float:
        return 1.6 + self.rows * 0.16

    def show(self, picture: _Picture, axes: Any) -> None:
        lines, per_bar = self.map, self.per_bar
        nothing = _STATES.index(LineState.RESERVED)
        cells: list[int] = []
        for number in range(self.bars):
            cells += _bar(lines.blocks[number * per_bar : (number + 1) * per_bar])
        cells += [nothing] * (self.rows * _BARS_PER_ROW * _BAR_CELLS - len(cells))
        width = _BARS_PER_ROW * _BAR_CELLS
        picture.image(axes, [cells[start : start + width] for start in range(0, len(cells), width)], _LINE_PALETTE)
        columns = (bar * _BAR_CELLS - 0.5 for bar in range(1, _BARS_PER_ROW))
        picture.ticks(axes, ((x, -0.5, x, self.rows - 0.5) for x in columns), "white", 0.5)
        rows = range(1, self.rows)
        picture.ticks(axes, ((-0.5, row - 0.5, width - 0.5, row - 0.5) for row in rows), "white", 1.2)
        picture.addresses(axes, [row * _BARS_PER_ROW * per_bar * lines.block_size for row in range(self.rows)])
        axes.set_xticks([])
        text = (
            f"{len(lines.blocks):,} blocks: {lines.empty:,} empty, {lines.partly_free:,} partly free, "
            f"{lines.full:,} full, {lines.large:,} large ({lines.large_objects:,} objects)"
        )
        each = f"a block of {self.size()}" if per_bar == 1 else f"{per_bar} blocks of {self.size()}"
        picture.title(axes, text, f"{_BARS_PER_ROW} bars a row, each {each}: so much of it is coloured as of its lines")
        self.legend(picture, axes, lines.blocks)


def _bar(blocks: Sequence[BlockOfLines]) -> list[int]:
    """The cells of a bar: each state has as many as it has of the lines, and one at least."""
    found: Counter[int] = Counter()
    for block in blocks:
        found.update(block.states)
    found[LineState.RESERVED] = 0
    total = sum(found.values()) or 1
    shares = [found[state] * _BAR_CELLS / total for state in _STATES]
    cells = [max(1, round(share)) if share else 0 for share in shares]
    while sum(cells) > _BAR_CELLS:
        cells[cells.index(max(cells))] -= 1
    while sum(cells) < _BAR_CELLS:
        cells[shares.index(max(shares))] += 1
    return [state for state, count in enumerate(cells) for _ in range(count)]
