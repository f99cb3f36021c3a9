"""Tables and lines for a person at a terminal of any width, and plain ones, never wrapped, for pipes and files.

In a terminal that a table does not fit, long names are shortened in their middle; if that is not enough, the table
comes in blocks, one below the other, each of which begins with the columns that name its rows. Numbers are never cut.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TextIO

from bitvit.cli.console import printable, result_console, width_of, wrapped

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Table", "print_lines", "print_table"]

GAP = 2  # spaces between columns
SHORTEST = 16  # cells of a shortened name
_BLOCK = re.compile(r"(.+\.blocks\.\d+)\.(.+)")


@dataclass(frozen=True)
class Table:
    """Cells of text, which may hold anything.

    words: columns that are aligned to the left; others hold numbers. keys: how many columns, the first, name a row.
    names: columns that may be shortened. rows: None is a blank line, and a row of one cell a heading. total: a last
    line under a rule of its own.
    paths: the first column has paths such as stages.0.blocks.1.mlp.fc1; where that is too wide, the rows of a block of
    the network stand below its name.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str] | None]
    words: frozenset[int] = frozenset({0})
    keys: int = 1
    names: frozenset[int] = frozenset()
    title: str = ""
    total: Sequence[str] | None = None
    paths: bool = False


def print_table(table: Table, stream: TextIO | None = None) -> None:
    """Print to stdout, or to an open file."""
    console = result_console(stream)
    width = width_of(console)
    table = _printable(table)
    if table.title:
        console.print(table.title, style="bold", markup=False, soft_wrap=True)
    for number, block in enumerate(_blocks(table, width)):
        if number:
            console.print()
        _print_block(block, console)


def print_lines(lines: Sequence[str], stream: TextIO | None = None) -> None:
    """Print lines of words, which a terminal gets broken between words."""
    console = result_console(stream)
    width = width_of(console)
    for line in map(printable, lines):
        console.print(wrapped(line, width), markup=False, soft_wrap=True)


def _printable(table: Table) -> Table:
    rows = [None if row is None else [printable(cell) for cell in row] for row in table.rows]
    return replace(table, rows=rows, title=printable(table.title))


# ------------------------------------------------------------------------------------------------------------ layout
def _blocks(table: Table, width: int | None) -> Iterator[Table]:
    """The table as it is if the width allows, else what fits best."""
    widths = _widths(table)
    if width is None or _total(widths) <= width:
        yield table
        return
    table = _grouped(table) if table.paths else table
    shortened = _with_names_of(table, _limits(table, range(len(table.columns)), width))
    if _total(_widths(shortened)) <= width:
        yield shortened
        return
    keys = list(range(table.keys))
    table = _with_names_of(table, _limits(table, keys, width * table.keys // (table.keys + 1)))
    room = max(SHORTEST, width - GAP - _total(_widths(table)[: table.keys]))
    table = _with_names_of(table, {column: room for column in table.names if column >= table.keys})
    for chosen in _split(_widths(table), table.keys, width):
        yield _chosen(table, [*keys, *chosen])


def _widths(table: Table) -> list[int]:
    """Cells that each column takes."""
    from rich.cells import cell_len

    lines = [table.columns, *(row for row in table.rows if row), *([table.total] if table.total else [])]
    return [max(map(cell_len, column)) for column in itertools.zip_longest(*lines, fillvalue="")]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _grouped(table: Table) -> Table:
    """Rows of a block of the network below its name."""
    rows: list[Sequence[str] | None] = []
    last = ""
    for row in table.rows:
        match = _BLOCK.fullmatch(row[0]) if row else None
        if row is None or match is None:
            rows.append(row)
            continue
        if match[1] != last:
            last = match[1]
            rows.append([last])
        rows.append([f"  {match[2]}", *row[1:]])
    return replace(table, rows=rows)


def _limits(table: Table, columns: Sequence[int], width: int) -> dict[int, int]:
    """How many cells the names of these columns have if all of them are to take so many; none has below SHORTEST.

    The longest is shortened first. A column is never narrower than its title.
    """
    widths, titles = _widths(table), _widths(replace(table, rows=[], total=None))
    limits = {column: widths[column] for column in columns if column in table.names}
    while limits and _total([widths[column] for column in columns]) > width:
        widest = max(limits, key=lambda column: limits[column])
        if limits[widest] <= SHORTEST:
            break
        limits[widest] -= 1
        widths[widest] = max(titles[widest], limits[widest])
    return limits


def _with_names_of(table: Table, limits: Mapping[int, int]) -> Table:
    """With names of so many cells at most, by their column; different names stay different."""
    short = {
        column: _shortened([row[column] for row in table.rows if row is not None and len(row) > 1], size)
        for column, size in limits.items()
    }
    rows = [
        row
        if row is None or len(row) == 1
        else [short[column][cell] if column in short else cell for column, cell in enumerate(row)]
        for row in table.rows
    ]
    return replace(table, rows=rows)


def _shortened(names: Sequence[str], size: int) -> dict[str, str]:
    """Each name in at most `size` cells: those that would look the same show where they differ, or get a number."""
    short = {name: _cut(name, size) for name in names}
    for alike in _alike(short):
        start = _shared(alike)
        end = _shared([name[start:][::-1] for name in alike])
        short.update({name: _cut_around(name, start, len(name) - end, size) for name in alike})
    for alike in _alike(short):
        for number, name in enumerate(alike, 1):
            short[name] = f"({number}) {_cut(name, size - len(f'({number}) '))}"
    return short


def _shared(names: Sequence[str]) -> int:
    """How many letters they all begin with."""
    return sum(1 for _ in itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))


def _alike(short: Mapping[str, str]) -> list[list[str]]:
    """Names that are shortened to the same."""
    groups: dict[str, list[str]] = {}
    for name, text in short.items():
        groups.setdefault(text, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _cut_around(text: str, start: int, stop: int, size: int) -> str:
    """The text from start to stop with as much before and behind it as `size` cells hold."""
    from rich.cells import cell_len

    def part(first: int, last: int) -> str:
        return f"{'…' if first else ''}{text[first:last]}{'…' if last < len(text) else ''}"

    if cell_len(part(start, stop)) > size:
        return f"…{_cut(text[start:stop], size - 2)}…"
    sides = [(-1, 0), (0, 1)]
    while sides:
        before, behind = sides.pop(0)
        first, last = start + before, stop + behind
        if first >= 0 and last <= len(text) and cell_len(part(first, last)) <= size:
            start, stop = first, last
            sides.append((before, behind))
    return part(start, stop)


def _cut(text: str, size: int) -> str:
    """The text in at most `size` cells, an ellipsis for its middle."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= size:
        return text
    head = set_cell_size(text, size // 2).rstrip()
    tail = text
    while cell_len(tail) > size - 1 - cell_len(head):
        tail = tail[1:]
    return f"{head}…{tail}"


def _split(widths: Sequence[int], keys: int, width: int) -> list[list[int]]:
    """The columns behind the keys, in as few groups as the width allows, and about equally wide."""
    fewest = _packed(widths, keys, width)
    narrower = (_packed(widths, keys, limit) for limit in range(1, width))
    return next((groups for groups in narrower if len(groups) == len(fewest)), fewest)


def _packed(widths: Sequence[int], keys: int, width: int) -> list[list[int]]:
    groups: list[list[int]] = []
    for column in range(keys, len(widths)):
        if groups and _total([*widths[:keys], *(widths[c] for c in groups[-1]), widths[column]]) <= width:
            groups[-1].append(column)
        else:
            groups.append([column])
    return groups


def _chosen(table: Table, columns: Sequence[int]) -> Table:
    def choose(row: Sequence[str]) -> Sequence[str]:
        return row if len(row) == 1 else [row[column] for column in columns]

    total = None if table.total is None else choose(table.total)
    return replace(
        table,
        columns=choose(table.columns),
        rows=[None if row is None else choose(row) for row in table.rows],
        words=frozenset(place for place, column in enumerate(columns) if column in table.words),
        total=total if total and any(total[table.keys :]) else None,
    )


# ---------------------------------------------------------------------------------------------------------- printing
def _print_block(block: Table, console: "Console") -> None:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        show_footer=block.total is not None,
    )
    for place, name in enumerate(block.columns):
        total = "" if block.total is None else block.total[place]
        drawn.add_column(Text(name), Text(total), no_wrap=True, justify="left" if place in block.words else "right")
    for row in block.rows:
        if row is None:
            drawn.add_section()
        elif len(row) == 1:
            drawn.add_row(Text(row[0], "bold"))
        else:
            drawn.add_row(*map(Text, row))
    console.width = max(console.width, _total(_widths(block)))  # in a terminal too narrow for it Rich would cut numbers
    with console.capture() as captured:
        console.print(drawn)
    for line in captured.get().splitlines():
        console.file.write(f"{line.rstrip()}\n")
