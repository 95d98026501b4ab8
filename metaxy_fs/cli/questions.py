"""Answer why, what next and what changed: status, plan, graph, explain, trace and diff."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import polars as pl
import typer

from metaxy_fs.cli.output import Json, print_json, print_lines, print_table, print_text, print_title
from metaxy_fs.cli.stored import counted
from metaxy_fs.cli.targets import (
    ConfigPath,
    Features,
    OneFeature,
    Roots,
    Stores,
    Target,
    declared,
    feature_keys,
    has_meaning,
    held_features,
    moment,
    open_target,
    open_targets,
    refuse,
    sample_frame,
)
from metaxy_fs.insight import rendering
from metaxy_fs.insight.plan import FEATURES
from metaxy_fs.metadata_store import Plan
from metaxy_fs.spec import FeatureGraph, FeatureKey, FeatureSpec

_PENDING = ("new", "stale", "waiting", "orphaned")


class Format(StrEnum):
    """How a graph is drawn."""

    TEXT = "text"
    MERMAID = "mermaid"
    SVG = "svg"


Drawn = Annotated[Format, typer.Option("--format", help="How it is drawn.")]
ExitCode = Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if there is anything; for CI.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Samples; several id columns with commas between.")]


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
    answers = [_status(target, features) for target in targets]
    if as_json:
        print_json("status", [{**answer, "rows": answer["rows"].to_dicts()} for answer in answers])
    else:
        for answer in answers:
            print_title(answer["store"], of=len(targets))
            print_table(answer["rows"])
            print_lines(answer["notes"])
    is_due = any(answer["rows"].select(pl.col("new").sum() + pl.col("stale").sum()).item() for answer in answers)
    raise typer.Exit(int(exit_code and is_due))


def show_plan(
    features: Features = None,
    *,
    exit_code: ExitCode = False,
    seconds: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column that says how long a row took.")
    ] = None,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Count what a run would compute, and why.

    By default that is a run of the whole graph, else of these features and of what they are made from.
    """
    targets = open_targets(store, root, config)
    plans = [_planned(target, features, seconds) for target in targets]
    if as_json:
        print_json("plan", [_plan_answer(target, plan) for target, plan in zip(targets, plans, strict=True)])
    else:
        for target, plan in zip(targets, plans, strict=True):
            print_title(target.store.location, of=len(targets))
            print_text(plan.to_text())
    raise typer.Exit(int(exit_code and any(plans)))


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
    target = open_target(store, root, config)
    with declared(target) as graph:
        specs = _upstream_of(graph, [graph[key].key for key in feature_keys(features)])
        notes = [str(note) for note in graph.notes]
    if as_json:
        print_json("graph", [{"store": target.store.location, "features": list(map(_of_spec, specs)), "notes": notes}])
        return
    draw = {Format.TEXT: rendering.to_text, Format.MERMAID: rendering.to_mermaid, Format.SVG: rendering.to_svg}
    print_text(draw[drawn_as](_boxes(specs), title=f"{len(specs)} features"))
    if drawn_as is Format.TEXT:
        print_lines(notes)


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
    target = open_target(store, root, config)
    with declared(target) as graph:
        key = _declared_key(graph, feature)
        [ids] = sample_frame(target, graph, key, [sample]).to_dicts()
        explanation = target.store.explain(key, ids)
    draw = {Format.TEXT: "to_text", Format.MERMAID: "to_mermaid", Format.SVG: "to_svg"}
    if as_json:
        containers = {str(name): node.reason for name, node in explanation.containers.items()}
        print_json("explain", [{"store": target.store.location, "status": explanation.status, "reasons": containers}])
    else:
        print_text(getattr(explanation, draw[drawn_as])())


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
    target = open_target(store, root, config)
    [key] = held_features(target.store, [feature])
    graph = FeatureGraph.from_store(target.store)
    found = target.store.trace(key, sample_frame(target, graph, key, ids), direction="up" if up else "down")
    if as_json:
        rows = {name: frame.to_dicts() for name, frame in found.rows.items()}
        print_json("trace", [{"store": target.store.location, "rows": rows, "snapshots": found.snapshots}])
    else:
        print_text(found.to_text())


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
    keys = sorted({key for target in targets for key in (held_features(target.store, features) if features else ())})
    if len(targets) > 2 or (len(targets) == 2) == (before is not None) or (after is not None and before is None):
        refuse("give two stores, or one and --before", "--before")
    then = targets[0].store if before is None else moment(before)
    with has_meaning("--before / --after"):
        found = targets[-1].store.diff(then, None if after is None else moment(after), features=keys or None)
    if as_json:
        answer = {"before": found.before, "after": found.after, "causes": found.causes.to_dicts()}
        print_json("diff", [{"store": targets[-1].store.location, **answer}])
    else:
        print_text(found.to_text())
    raise typer.Exit(int(exit_code and bool(found)))


def _status(target: Target, features: Sequence[str] | None) -> dict[str, Any]:
    with declared(target) as graph:
        keys = [_declared_key(graph, feature) for feature in features or ()] or [
            spec.key for spec in graph.specs.values()
        ]
        due = target.store.plan(*keys).features if keys else pl.DataFrame(schema=FEATURES)
        notes = [str(note) for note in graph.notes]
    held = target.store.list_features(include_fallback=True)
    named = [key for key in held if not features or key in keys]
    totals = counted(target.store, named).group_by("feature").agg(pl.col("commits", "rows").sum(), pl.col("last").max())
    chosen = due.filter(pl.col("feature").is_in(list(map(str, keys)))) if features else due
    rows = chosen.select("feature", *_PENDING).join(
        totals, on="feature", how="full", coalesce=True, maintain_order="left"
    )
    return {"store": target.store.location, "rows": rows, "notes": notes}


def _planned(target: Target, features: Sequence[str] | None, seconds: str | None) -> Plan:
    with declared(target) as graph:
        return target.store.plan(*(_declared_key(graph, feature) for feature in features or ()), seconds=seconds)


def _plan_answer(target: Target, plan: Plan) -> dict[str, Any]:
    return {
        "store": target.store.location,
        "is_exact": plan.is_exact,
        "rows": plan.features.to_dicts(),
        "causes": plan.causes.to_dicts(),
    }


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


def _of_spec(spec: FeatureSpec) -> dict[str, Any]:
    return {
        "feature": str(spec.key),
        "containers": {str(container.key): container.code_version for container in spec.containers},
        "upstream": [str(dep.key) for dep in spec.deps],
    }


def _boxes(specs: Sequence[FeatureSpec]) -> list[rendering.Box]:
    places = {spec.key: place for place, spec in enumerate(specs)}
    return [
        rendering.Box(
            title=str(spec.key),
            lines=tuple(f"{container.key} {container.code_version}" for container in spec.containers),
            emphasis=rendering.Emphasis.NONE,
            upstream=tuple(places[dep.key] for dep in spec.deps if dep.key in places),
        )
        for spec in specs
    ]
