"""Answer why, what next and what changed: status, plan, graph, explain, trace and diff."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import polars as pl
import typer

from metaxy_fs import drawing
from metaxy_fs.cli.answers import (
    PENDING,
    DeclaredFeature,
    DiffAnswer,
    ExplainAnswer,
    GraphAnswer,
    PlanAnswer,
    StatusAnswer,
    TraceAnswer,
)
from metaxy_fs.cli.output import Json, print_json, print_lines, print_table, print_text, print_title
from metaxy_fs.cli.targets import (
    ConfigPath,
    Features,
    Ids,
    OneFeature,
    Roots,
    Stores,
    Target,
    complain,
    declared,
    feature_keys,
    has_meaning,
    held_features,
    is_damage,
    moment,
    open_targets,
    refuse,
    sample_frame,
)
from metaxy_fs.insight.plan import CAUSES, FEATURES
from metaxy_fs.markup import count
from metaxy_fs.metadata_store import Diff, Explanation, Plan, Trace
from metaxy_fs.metadata_store.overview import counted
from metaxy_fs.spec import FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.spec.graph import boxes


class Format(StrEnum):
    """How a graph is drawn."""

    TEXT = "text"
    MERMAID = "mermaid"
    SVG = "svg"


Drawn = Annotated[Format, typer.Option("--format", help="How it is drawn.")]
ExitCode = Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if there is anything; for CI.")]


def show_status(
    features: Features = None,
    *,
    exit_code: ExitCode = False,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Say what is stored, and how much is new or stale.

    Where the configuration names modules that declare features, that is for the present code, else for the stored one.
    """
    targets = open_targets(store, root, config)
    answers = [status(target, features) for target in targets]
    if as_json:
        print_json("status", answers)
    else:
        for answer in answers:
            print_title(answer.store, of=len(targets))
            print_table(answer.rows)
            if answer.causes.height:
                print_text("")
                print_table(answer.causes.select("feature", pl.col("cause").alias("stale by"), "samples"))
            print_lines(note for note in answer.notes if not is_damage(note))
    is_due = any(answer.rows.select(pl.col("new").sum() + pl.col("stale").sum()).item() for answer in answers)
    is_damaged = complain(note for answer in answers for note in answer.notes)
    raise typer.Exit(int(is_damaged or (exit_code and is_due)))


def show_plan(
    features: Features = None,
    *,
    exit_code: ExitCode = False,
    seconds: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column that says how long a row took.")
    ] = None,
    retire_orphaned: Annotated[
        bool, typer.Option("--retire-orphaned", help="As if the run retired what is orphaned.")
    ] = False,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Count what a run would compute, and why.

    By default that is a run of the whole graph, else of these features and of what they are made from.
    """
    targets = open_targets(store, root, config)
    plans: list[Plan] = []
    notes: list[str] = []
    for target in targets:
        with declared(target) as graph:
            plans.append(_plan(target, graph, features, seconds=seconds, retire_orphaned=retire_orphaned))
            notes += map(str, graph.notes)
    if as_json:
        print_json("plan", list(map(PlanAnswer.of, targets, plans)))
    else:
        _print_texts(targets, [plan.to_text() for plan in plans])
    raise typer.Exit(int(complain(notes) or (exit_code and any(plans))))


def draw_graph(
    features: Features = None,
    *,
    drawn_as: Drawn = Format.TEXT,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Draw the graph of the features.

    That is the graph of the present code, where the configuration names its modules, else of what is stored.
    """
    targets = open_targets(store, root, config)
    if drawn_as is not Format.TEXT and len(targets) > 1:
        refuse("a drawing is of one store", "--format")
    found = [(target, *upstream_specs(target, features)) for target in targets]
    draw = {Format.TEXT: drawing.to_text, Format.MERMAID: drawing.to_mermaid, Format.SVG: drawing.to_svg}
    if as_json:
        print_json("graph", [_graph_answer(*each) for each in found])
    else:
        for target, specs, notes in found:
            print_title(target.store.location, of=len(targets))
            print_text(draw[drawn_as](boxes(specs), title=count(len(specs), "feature")))
            print_lines(note for note in notes if drawn_as is Format.TEXT and not is_damage(note))
    raise typer.Exit(int(complain(note for _, _, notes in found for note in notes)))


def explain_sample(
    feature: OneFeature,
    sample: Annotated[str, typer.Argument(metavar="ID", help="A sample; several id columns with commas between.")],
    *,
    drawn_as: Drawn = Format.TEXT,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Say why a sample is new, stale, waiting or current."""
    targets = open_targets(store, root, config)
    if drawn_as is not Format.TEXT and len(targets) > 1:
        refuse("a drawing is of one store", "--format")
    explanations = [explained(target, feature, sample) for target in targets]
    draw = {Format.TEXT: "to_text", Format.MERMAID: "to_mermaid", Format.SVG: "to_svg"}
    if as_json:
        print_json("explain", list(map(ExplainAnswer.of, targets, explanations)))
    else:
        _print_texts(targets, [getattr(each, draw[drawn_as])() for each in explanations])


def trace_samples(
    feature: OneFeature,
    ids: Ids,
    *,
    up: Annotated[bool, typer.Option("--up", help="What they were made from, not what was made from them.")] = False,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Find everything that was made from some samples."""
    targets = open_targets(store, root, config)
    found = [traced(target, feature, ids, up=up) for target in targets]
    if as_json:
        print_json("trace", list(map(TraceAnswer.of, targets, found)))
    else:
        _print_texts(targets, [trace.to_text() for trace in found])


def show_diff(
    features: Features = None,
    *,
    before: Annotated[str | None, typer.Option(metavar="MOMENT", help="A snapshot, or a time with a zone.")] = None,
    after: Annotated[str | None, typer.Option(metavar="MOMENT", help="Likewise; now by default.")] = None,
    exit_code: ExitCode = False,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Say what differs between two moments or stores, and why.

    Two stores are compared as they are now; of one, --before says with which moment.
    """
    targets = open_targets(store, root, config)
    found = compared(targets, features, before=before, after=after)
    if as_json:
        print_json("diff", [DiffAnswer.of(targets[-1], found)])
    else:
        print_text(found.to_text())
    raise typer.Exit(int(exit_code and bool(found)))


def status(target: Target, features: Sequence[str] | None = None) -> StatusAnswer:
    """Return what `status` answers about a store."""
    with declared(target) as graph:
        keys = [_declared_key(graph, feature) for feature in features or ()] or [
            spec.key for spec in graph.specs.values()
        ]
        plan = target.store.plan(*keys) if keys else None
        notes = [str(note) for note in graph.notes]
    due = pl.DataFrame(schema=FEATURES) if plan is None else plan.features
    causes = pl.DataFrame(schema=CAUSES) if plan is None else plan.causes
    held = target.store.list_features(include_fallback=True)
    named = [key for key in held if not features or key in keys]
    totals = counted(target.store, named).group_by("feature").agg(pl.col("commits", "rows").sum(), pl.col("last").max())
    is_chosen = pl.col("feature").is_in(list(map(str, keys))) if features else pl.lit(value=True)
    rows = (
        due.filter(is_chosen)
        .select("feature", *PENDING)
        .join(totals, on="feature", how="full", coalesce=True, maintain_order="left")
    )
    return StatusAnswer(store=target.store.location, rows=rows, causes=causes.filter(is_chosen), notes=notes)


def planned(target: Target, features: Sequence[str] | None = None, *, seconds: str | None = None) -> Plan:
    """Return the plan of a store for the present code, else for the stored graph."""
    with declared(target) as graph:
        return _plan(target, graph, features, seconds=seconds)


def _plan(target: Target, graph: FeatureGraph, features: Sequence[str] | None, **options: Any) -> Plan:
    return target.store.plan(*(_declared_key(graph, feature) for feature in features or ()), **options)


def upstream_specs(target: Target, features: Sequence[str] | None) -> tuple[list[FeatureSpec], list[str]]:
    """Return the declarations of features and of what they are made from, by default of all, and notes on the graph."""
    with declared(target) as graph:
        return _upstream_of(graph, [graph[key].key for key in feature_keys(features)]), list(map(str, graph.notes))


def graph_answer(target: Target, features: Sequence[str] | None = None) -> GraphAnswer:
    """Return what `graph` answers about a store."""
    return _graph_answer(target, *upstream_specs(target, features))


def _graph_answer(target: Target, specs: Sequence[FeatureSpec], notes: list[str]) -> GraphAnswer:
    return GraphAnswer(store=target.store.location, features=list(map(DeclaredFeature.of, specs)), notes=notes)


def explained(target: Target, feature: str, sample: str) -> Explanation:
    """Return why a sample is new, stale, waiting or current."""
    with declared(target) as graph:
        key = _declared_key(graph, feature)
        [ids] = sample_frame(target, graph, key, [sample]).to_dicts()
        return target.store.explain(key, ids)


def traced(target: Target, feature: str, ids: Sequence[str], *, up: bool = False) -> Trace:
    """Return what was made from some samples, or what they were made from."""
    [key] = held_features(target.store, [feature])
    samples = sample_frame(target, FeatureGraph.from_store(target.store), key, ids)
    return target.store.trace(key, samples, direction="up" if up else "down")


def compared(
    targets: Sequence[Target], features: Sequence[str] | None = None, *, before: str | None, after: str | None = None
) -> Diff:
    """Return what differs between two stores, or two moments of one."""
    keys = sorted({key for target in targets for key in (held_features(target.store, features) if features else ())})
    if len(targets) > 2 or (len(targets) == 2) == (before is not None) or (after is not None and before is None):
        refuse("give two stores, or one and --before", "--before")
    then = targets[0].store if before is None else moment(before)
    with has_meaning("--before / --after"):
        return targets[-1].store.diff(then, None if after is None else moment(after), features=keys or None)


def _print_texts(targets: Sequence[Target], texts: Sequence[str]) -> None:
    """Print a text about each of some stores."""
    for target, text in zip(targets, texts, strict=True):
        print_title(target.store.location, of=len(targets))
        print_text(text)


def _declared_key(graph: FeatureGraph, feature: str) -> FeatureKey:
    [key] = feature_keys([feature])
    return graph[key].key


def _upstream_of(graph: FeatureGraph, keys: Sequence[FeatureKey]) -> list[FeatureSpec]:
    """Return the features that some are made from, and these, upstream first; all of the graph by default."""
    wanted = set(keys)
    for spec in reversed(list(graph.specs.values())):
        if spec.key in wanted:
            wanted.update(dep.key for dep in spec.deps)
    return [spec for spec in graph.specs.values() if not keys or spec.key in wanted]
