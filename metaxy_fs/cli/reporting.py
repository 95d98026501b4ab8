"""Write the report: what stores hold, as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from metaxy_fs.cli.output import print_lines, size
from metaxy_fs.cli.targets import ConfigPath, Roots, Stores, Target, declared, open_targets
from metaxy_fs.markup import count
from metaxy_fs.report import MOST_COMMITS, StoreFacts, store_facts, write_page


def make_report(
    *,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="The file; replaced if it is there.")],
    states: Annotated[
        bool, typer.Option("--states/--no-states", help="Count new and stale samples, which reads ids and versions.")
    ] = True,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
) -> None:
    """Write an HTML page of the graph and all that is stored.

    It needs nothing beside it and fetches nothing. Several stores stand side by side in it. States are those of the
    present code, where the configuration names modules that declare features, else those of the stored graph.
    """
    targets = open_targets(store, root, config)
    facts = [_facts(target, states=states, most_commits=MOST_COMMITS // len(targets)) for target in targets]
    write_page(facts, output)
    features = count(sum(len(each.features) for each in facts), "feature")
    print_lines([f"{output}: {features}, {size(Path(output).stat().st_size)}"])


def _facts(target: Target, *, states: bool, most_commits: int) -> StoreFacts:
    with declared(target) as graph:
        is_code = target.config is not None and bool(target.config.entrypoints)
        return store_facts(target.store, graph=graph if is_code else None, states=states, most_commits=most_commits)
