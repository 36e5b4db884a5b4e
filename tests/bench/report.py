"""What the bench says: goals, tables, and their place in docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import dataclass

from harness.cache import REPOSITORY

PAGE = REPOSITORY / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Goal:
    what: str
    limit: float
    measured: float
    unit: str
    least: bool = False
    """The limit is the least that is asked for, not the most."""

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.least else self.measured <= self.limit

    def row(self) -> list[str]:
        bound = "at least" if self.least else "at most"
        verdict = "met" if self.met else "**missed**"
        return [self.what, f"{bound} {_write(self.limit, self.unit)}", _write(self.measured, self.unit), verdict]


@dataclass(frozen=True)
class Part:
    """One section of the page, written anew by its own command."""

    name: str
    goals: list[Goal]
    tables: list[str]

    def render(self) -> str:
        goals = render_table("", ["goal", "limit", "measured", ""], [goal.row() for goal in self.goals])
        return "\n\n".join([goals, *self.tables])


def render_table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{title}:\n\n{table}" if title else table


def place(page: str, part: Part) -> str:
    """The page with the part between its marks."""
    begin, end = f"<!-- {part.name} begins -->", f"<!-- {part.name} ends -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{part.render()}\n\n{end}{after}"


def _write(value: float, unit: str) -> str:
    digits = 0 if value == int(value) or value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{digits}f} {unit}".rstrip()
