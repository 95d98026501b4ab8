"""A model of writes that workers prepare and a driver commits together, request by request.

Each process is a generator that yields before every request. Dice say who makes the next request, who dies, and when
time passes. What the processes do is docs/format.md, sections 9.6 and 10; a rule that is broken on purpose has its name
in `Rules`. A job is some tasks whose receipts one name commits, whoever is its driver.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

Steps = Iterator[None]
DAY, SETTLED, RETENTION, GRACE = 24, 25, 48, 1
"""The hours after which receipts are refused, and those of a vacuum; the retention is the least that it takes."""


class Rules(NamedTuple):
    """What the processes do; a mutation switches one off."""

    marks_its_table: bool = True
    decides: bool = True
    counts_a_task_once: bool = True
    refuses_old_receipts: bool = True
    finds_what_is_committed: bool = True
    completes_what_was_decided: bool = True
    compares_receipts: bool = True
    looks_for_all_parts: bool = True
    vacuum_minds_marks: bool = True


FAITHFUL = Rules()


class Part(NamedTuple):
    """A data file that a worker has put: its task, and when it was put."""

    task: str
    born: int


class Decision(NamedTuple):
    """What stands for a name from now on: a group, what tells its rows, and one of its parts."""

    group: int
    digest: tuple[str, ...]
    first: int


@dataclass
class Root:
    """What a partition holds.

    Attributes:
        now: The hour.
        files: The data files of workers.
        known: All parts that there ever were.
        manifests: By id, the parts that each covers; `rewritten` are those that hold the rows in files of their own.
        tables: Those that were put, by the id of their manifest.
        written: When each table was put.
        marks: What says that a table proves nothing, and when it was put.
        born: When a manifest was put.
        unnamed: Since when a record calls a data file unnamed.
        seen: The parts that readers have seen, each with its time.
        times: The time of each part as a manifest says.
        committing: How many drivers are about to put a group that they have made.
        are_racing: Whether several were; then the last one decides on the time of what they have in common.
        groups: What each group is to show at once.
    """

    now: int = 0
    files: set[int] = field(default_factory=set)
    known: dict[int, Part] = field(default_factory=dict)
    manifests: dict[int, frozenset[int]] = field(default_factory=dict)
    rewritten: set[int] = field(default_factory=set)
    tables: dict[int, frozenset[int]] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)
    marks: dict[int, int] = field(default_factory=dict)
    born: dict[int, int] = field(default_factory=dict)
    unnamed: dict[int, int] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)
    times: dict[int, dict[int, int]] = field(default_factory=dict)
    committing: int = 0
    are_racing: bool = False
    are_swept: bool = False
    groups: list[frozenset[int]] = field(default_factory=list)
    receipts: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ids: int = 100

    def living(self) -> dict[int, frozenset[int]]:
        """Return the manifests that count."""
        return {
            own: covers
            for own, covers in self.manifests.items()
            if not any(
                covers < theirs or (covers == theirs and own < other) for other, theirs in self.manifests.items()
            )
        }

    def visible(self) -> dict[int, int]:
        """Return the parts that a reader sees, and the time of each."""
        found: dict[int, int] = {}
        for own in sorted(self.living()):
            found = self.times[own] | found
        return found

    def look(self) -> None:
        """Read, and note what is wrong with it."""
        visible, answered = self.visible(), set[int]()
        for own, covers in sorted(self.living().items()):
            if own not in self.rewritten and (gone := covers - answered - self.files):
                self.problems.append(f"the files {sorted(gone)} are named and gone")
            answered |= covers
        if gone := self.seen.keys() - visible:
            self.problems.append(f"{sorted(gone)} vanished")
        if not self.are_racing and any(visible.get(part, time) != time for part, time in self.seen.items()):
            self.problems.append("a part has another time than before")
        if any(group & visible.keys() and not group <= visible.keys() for group in self.groups):
            self.problems.append("a group is seen in part")
        tasks = [self.known[part].task for part in visible]
        if len(tasks) > len(set(tasks)):
            self.problems.append(f"a task is counted twice: {sorted(tasks)}")
        self.seen = visible | self.seen

    def new_id(self) -> int:
        """Return an id that is greater than all before."""
        self.ids += 1
        return self.ids


@dataclass
class Report:
    """How a driver has ended, None if it has not, and the parts that it was asked to commit."""

    outcome: str | None = None
    asked: frozenset[int] = frozenset()


def worker(task: str) -> Callable[[Root, Report, Rules], Steps]:
    """Prepare a task."""

    def work(root: Root, _report: Report, _rules: Rules) -> Steps:
        yield
        part = root.new_id()
        root.known[part] = Part(task, root.now)
        root.files.add(part)
        yield
        root.receipts.append(part)

    return work


def driver(name: str | None, tasks: str) -> Callable[[Root, Report, Rules], Steps]:
    """Commit the receipts of some tasks that there are, once there is one of each."""

    def chosen(root: Root, rules: Rules) -> frozenset[int]:
        found = [part for part in root.receipts if root.known[part].task in tasks]
        if not rules.counts_a_task_once:
            return frozenset(found)
        return frozenset(min(part for part in found if root.known[part].task == task) for task in tasks)

    def work(root: Root, report: Report, rules: Rules) -> Steps:
        for _ in range(50):
            yield
            if set(tasks) <= {root.known[part].task for part in root.receipts}:
                break
        else:
            return
        parts = report.asked = chosen(root, rules)
        yield from _commit(root, report, rules, name, parts)

    return work


def _commit(root: Root, report: Report, rules: Rules, name: str | None, parts: frozenset[int]) -> Steps:
    yield  # list the partition
    manifests = dict(root.manifests)
    digest = tuple(sorted(root.known[part].task for part in parts))
    committed = {part for covers in manifests.values() for part in covers}
    if rules.finds_what_is_committed and parts <= committed:
        report.outcome = "done"
        return
    if name in root.decisions and rules.decides:
        yield from _finish(root, report, rules, root.decisions[name], digest)
        return
    oldest = min(root.known[part].born for part in parts)
    parts = parts - committed if rules.finds_what_is_committed else parts
    group = root.new_id()
    root.committing += 1

    def is_late() -> bool:
        return rules.refuses_old_receipts and root.now - oldest > DAY

    if rules.marks_its_table:
        yield
        root.marks[group] = root.now
    yield
    if is_late():
        report.outcome = "late"
        return
    root.tables[group], root.written[group] = parts, root.now
    if name is not None and rules.decides:
        yield
        decision = root.decisions.setdefault(name, Decision(group, digest, min(parts)))
        if decision.group != group:
            yield from _finish(root, report, rules, decision, digest)
            return
    yield
    root.committing -= 1
    if is_late():
        report.outcome = "late"
        return
    _publish(root, group, parts)
    report.outcome = "done"


def _finish(root: Root, report: Report, rules: Rules, decision: Decision, digest: tuple[str, ...]) -> Steps:
    """Complete the group that a name stands for, unless it is complete, or never will be."""
    if rules.compares_receipts and decision.digest != digest:
        report.outcome = "conflict"
        return
    yield
    parts = root.tables.get(decision.group)
    group = parts if parts is not None and rules.looks_for_all_parts else frozenset([decision.first])
    if parts is None and rules.looks_for_all_parts and root.visible().get(decision.first) not in (None, decision.group):
        report.outcome = "late"
        return
    if committed := group & {part for covers in root.manifests.values() for part in covers}:
        report.outcome = "done" if committed == group else "conflict"
        return
    yield
    if parts is None or not rules.completes_what_was_decided:
        report.outcome = "done" if not rules.completes_what_was_decided else "late"
        return
    yield
    if not parts <= root.files or root.now - min(root.known[part].born for part in parts) > DAY:
        report.outcome = "late"
        return
    _publish(root, decision.group, parts)
    report.outcome = "done"


def _publish(root: Root, group: int, parts: frozenset[int]) -> None:
    root.are_racing |= root.committing > 0
    root.groups.append(parts)
    root.manifests[group], root.times[group] = parts, dict.fromkeys(parts, group)
    root.born.setdefault(group, root.now)


def compactor(root: Root, _report: Report, _rules: Rules) -> Steps:
    """Compact all that is there, into files of its own."""
    yield
    times = root.visible()
    if times:
        own = root.new_id()
        yield
        root.rewritten.add(own)
        root.manifests[own], root.times[own], root.born[own] = frozenset(times), times, root.now


def vacuum(root: Root, _report: Report, rules: Rules) -> Steps:
    """Delete what nobody needs."""
    now = root.now
    yield
    manifests, files, tables, marks = dict(root.manifests), set(root.files), dict(root.tables), dict(root.marks)
    held = {part for covers in manifests.values() for part in covers}
    is_marked = marks if rules.vacuum_minds_marks else {}
    if any(covers - held for own, covers in tables.items() if own not in is_marked and own not in manifests):
        return
    named = {part for own, covers in manifests.items() if own not in root.rewritten for part in covers}
    dead = [own for own, covers in manifests.items() if _is_replaced(root, now, own, covers, manifests)]
    soon = {part for own, covers in manifests.items() if own not in {*root.rewritten, *dead} for part in covers}
    yield
    before = dict(root.unnamed)
    for part in files | set(tables):
        if part in soon or (part in tables and part in manifests and part not in dead):
            root.unnamed.pop(part, None)
        elif part not in root.unnamed and (part in named or now - _born(root, part) >= SETTLED):
            root.unnamed[part] = now
    for part in sorted(files | set(tables)):
        is_old = part in before and now - before[part] >= RETENTION
        if is_old and part not in named and part not in manifests:
            yield
            root.files.discard(part)
            root.tables.pop(part, None)
    for own in dead:
        yield
        root.manifests.pop(own, None)
    for own, born in marks.items():
        if own in manifests or (own not in tables and now - born >= SETTLED):
            yield
            root.marks.pop(own, None)


def _born(root: Root, part: int) -> int:
    return root.known[part].born if part in root.known else root.written[part]


def _is_replaced(root: Root, now: int, own: int, covers: frozenset[int], manifests: dict[int, frozenset[int]]) -> bool:
    return any(
        now - root.born[other] >= GRACE and (covers < theirs or (covers == theirs and own < other))
        for other, theirs in manifests.items()
    )


def repair(root: Root, _report: Report, _rules: Rules) -> Steps:
    """Put back the manifests that tables prove, and whose files are there."""
    yield
    held = {part for covers in root.manifests.values() for part in covers}
    lost = [own for own, covers in root.tables.items() if own not in {*root.manifests, *root.marks} and covers - held]
    for own in lost:
        yield
        if root.tables.get(own, frozenset([-1])) <= root.files:
            root.manifests[own], root.born[own] = root.tables[own], root.now
            root.times[own] = dict.fromkeys(root.tables[own], own)


Role = Callable[[Root, Report, Rules], Steps]


class Play(NamedTuple):
    """What has become of some processes."""

    root: Root
    reports: list[Report]


def play(cast: tuple[Role, ...], seed: int, rules: Rules = FAITHFUL) -> Play:
    """Let processes go as dice say, to the end of all that do not die; then let days pass, and all come once more."""
    dice = random.Random(seed)  # noqa: S311  # nothing secret
    root, reports = Root(), []
    for is_again in (False, True):
        reports += _run(root, cast, rules, dice, deaths=0.0 if is_again else 0.04)
        for _ in range(3 if is_again else dice.choice((0, 0, 1))):
            root.now += 2 * RETENTION
            _run(root, (vacuum, repair), rules, dice, deaths=0.0)
    root.are_swept = True
    return Play(root, reports)


def _run(root: Root, cast: Iterable[Role], rules: Rules, dice: random.Random, *, deaths: float) -> list[Report]:
    reports = [Report() for _ in cast]
    running = dict(enumerate(role(root, report, rules) for role, report in zip(cast, reports, strict=True)))
    last = 0
    while running:
        last = last if last in running and dice.random() < 0.6 else dice.choice(sorted(running))
        if dice.random() < deaths or next(running[last], running) is running:
            del running[last]
        if dice.random() < 0.04:
            root.now += dice.choice((1, 2, 12, 23, 60))
        root.look()
    return reports


def problem(played: Play) -> str | None:
    """Return which promise is broken."""
    root, reports = played
    shown = {root.known[part].task for part in root.seen}
    for report in reports:
        tasks = {root.known[part].task for part in report.asked}
        if report.outcome == "done" and not tasks <= shown:
            return f"{sorted(tasks)} were acknowledged, and {sorted(shown)} are there"
    committed = {part for group in root.groups for part in group}
    if revived := root.seen.keys() - committed:
        return f"{sorted(revived)} were never committed, and are seen"
    if (left := root.files - committed) and root.are_swept:
        return f"no vacuum removes {sorted(left)}"
    return root.problems[0] if root.problems else None
