"""Publish features as Delta tables."""

from typing import Annotated

import typer

from metaxy_fs.cli.output import Answer, Json, ask_for_yes, print_json, print_lines, print_title
from metaxy_fs.cli.targets import ConfigPath, Features, Roots, Stores, Yes, features_of_root, open_roots
from metaxy_fs.markup import count
from metaxy_fs.metadata_store import Published, publish
from metaxy_fs.metadata_store.publishing import published_features


class PublishAnswer(Answer, frozen=True, kw_only=True):
    """What `publish` answers.

    Attributes:
        store: The store whose root it is about.
        published: What each feature is published as; without `--yes`, what it would be.
    """

    published: list[Published]


def publish_features(
    features: Features = None,
    *,
    columns: Annotated[str | None, typer.Option(metavar="A,B", help="Only these columns.")] = None,
    yes: Yes = False,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Publish features as Delta tables, for other engines.

    By default those are published again that are published. No row is copied: a log in the directory of the feature
    points to the data files as they are. Other programs can read the table, and refuse to write, optimize or vacuum it.
    """
    targets = open_roots(store, root, config)
    wanted = columns.split(",") if columns else None
    answers = []
    for target in targets:
        named = [key for key in features_of_root(target, features) if key is not None]
        keys = named or published_features(target.root, target.root.log.features())
        done = [publish(target.root, key, columns=wanted, dry_run=not yes) for key in keys]
        answers.append(PublishAnswer(store=target.store.location, published=done))
        if not as_json:
            print_title(target.store.location, of=len(targets))
            print_lines([*map(_of_published, done)] or ["nothing is published"])
    if as_json:
        print_json("publish", answers)
    else:
        ask_for_yes(is_done=yes)


def _of_published(done: Published) -> str:
    changes = f"{done.added:,} added, {done.removed:,} removed"
    return f"{done.feature}: {count(done.files, 'file')}, {count(done.rows, 'row')}, {changes}: {done.location}"
