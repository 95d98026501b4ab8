"""Print results as tables."""

from collections.abc import Iterable, Mapping
from typing import Any

from tests.benchmarks.runner import Result


def tables(results: Iterable[Result]) -> str:
    """Return a Markdown table for each section and measurement: a line a case, a column a contender."""
    sections: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        for measurement in _measurements(result):
            sections.setdefault((result.section, measurement), []).append(result)
    return "\n\n".join(_table(section, name, found) for (section, name), found in sections.items())


def _measurements(result: Result) -> list[str]:
    names = [name for measured in result.contenders.values() for name, value in measured.items() if _is_float(value)]
    return list(dict.fromkeys(names))


def _table(section: str, measurement: str, results: list[Result]) -> str:
    keys = list(dict.fromkeys(key for result in results for key in result.case))
    names = list(dict.fromkeys(name for result in results for name in result.contenders))
    lines = [[*keys, *names, "ratio"], ["---"] * (len(keys) + len(names) + 1)]
    for result in results:
        case = [_show(result.case.get(key)) for key in keys]
        values = [_show(result.contenders.get(name, {}).get(measurement)) for name in names]
        lines.append([*case, *values, _show(result.ratios.get(measurement))])
    return "\n".join([f"**{section}: {measurement}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


def _show(value: Any) -> str:
    if value is None:
        return ""
    if not _is_float(value):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _is_float(value: Any) -> bool:
    return isinstance(value, float)


def from_json(document: Mapping[str, Any]) -> list[Result]:
    """Return the results of a document that the suite wrote."""
    return [Result(**result) for result in document["results"]]
