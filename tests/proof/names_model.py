"""A model of what a name of a write stands for: writers, copiers, compactors and vacuums, request by request.

Each process is a generator that yields before every request. A schedule says who makes the next request, or dies. What
the processes do is docs/format.md, sections 8 and 12; a rule that is broken on purpose has its name in `Rules`.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

Digest = str
Outcome = str
Steps = Iterator[None]


class Rules(NamedTuple):
    """What the processes do; a mutation switches one off."""

    writer_looks_first: bool = True
    copier_looks_again: bool = True
    copier_minds_attempts: bool = True
    decides: bool = True
    believes_the_view: bool = True


FAITHFUL = Rules()


@dataclass
class Root:
    """What a partition holds that concerns one name.

    Attributes:
        attempts: The attempts whose data files are there.
        append: The digest of the manifest below `appends`.
        kept: That of the manifest below `_writes`.
        decided: That of the decision.
        compactions: By id, the digest that each covers the name with.
        seen: What readers could see so far, in order, without repetitions.
    """

    attempts: set[int] = field(default_factory=set)
    append: Digest | None = None
    kept: Digest | None = None
    decided: Digest | None = None
    compactions: dict[int, Digest] = field(default_factory=dict)
    seen: list[Digest | None] = field(default_factory=list)

    def truth(self) -> Digest | None:
        """Which rows a reader sees under the name."""
        return self.compactions[min(self.compactions)] if self.compactions else self.append

    def look(self) -> None:
        """Note what a reader sees now."""
        if not self.seen or self.seen[-1] != self.truth():
            self.seen.append(self.truth())


@dataclass
class Report:
    """How a process has ended; None if it has not."""

    digest: Digest
    outcome: Outcome | None = None


def _view(root: Root) -> Steps:
    """List appends, then compactions: two requests."""
    yield
    append = root.append
    yield
    return root.compactions[min(root.compactions)] if root.compactions else append  # type: ignore[return-value]


def _decide(root: Root, digest: Digest) -> Steps:
    yield
    if root.decided is None:
        root.decided = digest
    return root.decided == digest  # type: ignore[return-value]


def writer(root: Root, report: Report, rules: Rules, number: int) -> Steps:
    """Write rows of a digest under the name."""
    mine = report.digest
    yield
    root.attempts.add(number)
    if rules.writer_looks_first:
        yield
        if root.kept is not None:
            held = (yield from _view(root)) if rules.believes_the_view else root.kept
            if held is not None:
                report.outcome = "done" if held == mine else "conflict"
                return
            if rules.decides and not (yield from _decide(root, mine)):
                held = yield from _view(root)
                report.outcome = "done" if held == mine else "conflict"
                return
    yield
    won = root.append is None
    if won:
        root.append = mine
    yield
    if won and root.kept is None:
        report.outcome = "done"
        return
    held = (yield from _view(root)) if rules.believes_the_view or root.kept is None else root.kept
    report.outcome = "done" if held == mine else "conflict"


def copier(root: Root, report: Report, rules: Rules, number: int) -> Steps:
    """Copy a compaction that covers the name with a digest; its id is the number."""
    mine = report.digest
    held = yield from _view(root)
    if held not in (None, mine):
        report.outcome = "conflict"
        return
    yield
    if root.kept is None:
        root.kept = mine
    if rules.copier_looks_again:
        yield
        attempts = set(root.attempts) if rules.copier_minds_attempts else set()
        held = yield from _view(root)
        if held is None and attempts:
            report.outcome = "refused"
            return
        if held not in (None, mine):
            report.outcome = "conflict"
            return
        if rules.decides and held is None and not (yield from _decide(root, mine)):
            report.outcome = "conflict"
            return
    yield
    root.compactions[number] = mine
    report.outcome = "done"


def compactor(root: Root, _report: Report, _rules: Rules, number: int) -> Steps:
    """Compact what is there."""
    held = yield from _view(root)
    if held is not None:
        yield
        root.compactions[number] = held


def vacuum(root: Root, _report: Report, _rules: Rules, _number: int) -> Steps:
    """Delete the manifest of a covered write, and keep a copy of it first; two of them may be at it."""
    yield
    append = root.append
    yield
    if append is not None and root.compactions:
        yield
        if root.kept is None:
            root.kept = append
        yield
        root.append = None


Role = Callable[[Root, Report, Rules, int], Steps]
Cast = tuple[tuple[Role, Digest, int], ...]


class Play(NamedTuple):
    """What has become of some processes."""

    root: Root
    reports: list[Report]
    waiting: list[int]


def play(cast: Cast, schedule: tuple[int, ...], rules: Rules = FAITHFUL) -> Play:
    """Let processes go as a schedule says: by their places, or by their places less than nothing to kill them."""
    root = Root()
    reports = [Report(digest) for _, digest, _ in cast]
    running = {}
    for place, (role, _, number) in enumerate(cast):
        running[place] = role(root, reports[place], rules, number)
        next(running[place], None)
    for choice in schedule:
        if choice < 0:
            running.pop(-choice - 1)
        elif next(running[choice], running) is running:
            running.pop(choice)
        root.look()
    return Play(root, reports, sorted(running))


def problem(cast: Cast, played: Play, rules: Rules = FAITHFUL) -> str | None:
    """Return which promise is broken, also when all are asked again a day later, one by one, until all is at rest."""
    root, reports = played.root, played.reports
    answers = [[report.outcome for report in reports]]
    broken = _broken(root, reports)
    for _ in range(2):
        root.attempts.clear()  # those that died are a day old
        again = [Report(digest) for _, digest, _ in cast]
        for (role, _, number), report in zip(cast, again, strict=True):
            for _step in role(root, report, rules, number):
                root.look()
            root.look()
            root.attempts.clear()
        answers.append([report.outcome for report in again])
        broken = broken or _broken(root, again)
    if answers[1] != answers[2]:
        return f"the answers do not come to rest: {answers}"
    if "done" not in answers[1]:
        return f"nobody gets on: {answers}"
    lost = [before for before, after in zip(*answers[:2], strict=True) if before == "done" != after]
    return broken or (f"what was acknowledged is refused later: {answers}" if lost else None)


def _broken(root: Root, reports: list[Report]) -> str | None:
    if len({*root.seen} - {None}) > 1 or None in root.seen[1:]:
        return f"readers saw {root.seen}"
    for report in reports:
        if report.outcome == "done" and root.truth() != report.digest:
            return f"{report.digest} was acknowledged, and {root.truth()} is there"
        if report.outcome == "conflict" and root.truth() in (None, report.digest) and root.decided == report.digest:
            return f"{report.digest} was reported as a conflict, and is what was decided"
        twins = [other for other in reports if other.digest == report.digest]
        if report.outcome == "conflict" and root.truth() == report.digest and len(twins) == 1:
            return f"{report.digest} was reported as a conflict, and is there"
    return None


def schedules(cast: Cast, *, deaths: int) -> Iterator[Play]:
    """Yield what becomes of some processes in every order of their requests, if so many of them may die."""
    pending: list[tuple[tuple[int, ...], int]] = [((), deaths)]
    while pending:
        schedule, left = pending.pop()
        played = play(cast, schedule)
        if not played.waiting:
            yield played
        for place in played.waiting:
            pending.append(((*schedule, place), left))
            if left:
                pending.append(((*schedule, -place - 1), left - 1))


def by_dice(cast: Cast, seed: int, rules: Rules = FAITHFUL) -> Play:
    """Return what becomes of some processes in an order that dice choose; now and then one dies."""
    dice = random.Random(seed)  # noqa: S311  # nothing secret
    schedule: tuple[int, ...] = ()
    last = 0
    while waiting := play(cast, schedule, rules).waiting:
        last = last if last in waiting and dice.random() < 0.5 else dice.choice(waiting)
        schedule = (*schedule, -last - 1 if dice.random() < 0.02 else last)
    return play(cast, schedule, rules)
