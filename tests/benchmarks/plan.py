"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The sizes of a run.

    Attributes:
        resolve_rows: Samples of an increment, and how many rounds of it.
        scale_rows: Samples that are taken and given as lazy frames.
        cycle_rows: Samples whose versions are calculated and written, by graph.
        materialize_rows: Samples that a job computes.
        question_rows: Samples of each feature that questions are asked of.
        carried_rows: Upstream rows of which a column is carried.
        machine_rows: Samples of an increment, and what runs its tasks.
        plan_rows: Samples that are read, resolved and written through plans, and in how many processes.
        history_rows: Samples of a history.
        hash_rows: Samples whose versions are calculated by each hash algorithm.
        local_writes: Small writes to a local root.
        remote_writes: Small writes to a bucket.
        peer_writes: Small writes to the table formats, and how many rounds of them.
        remote_peer_writes: Small writes to the table formats in a bucket.
        crowd: How many processes write at once, and how often each.
        many_writes: Writes of ten rows to one root.
        month: Commits a day, for a month of them.
        network: How many seconds away a bucket is, how many small writes are read from it, and how many large files of
            how many rows.
        receipts: How many prepared writes one call commits.
        covered: How many commits one manifest covers, and how many files it lists.
        sql_rows: Rows that are written to a database at once.
        repeats: Rounds of everything but imports.
        import_repeats: Rounds of imports.
        fresh: Whether every measurement gets a process of its own.
    """

    resolve_rows: tuple[tuple[int, int], ...] = ((10_000, 3), (100_000, 3), (1_000_000, 3), (10_000_000, 1))
    scale_rows: tuple[int, ...] = (1_000_000, 10_000_000, 30_000_000)
    cycle_rows: tuple[tuple[str, int], ...] = (
        ("simple", 1_000_000),
        ("wide", 1_000_000),
        ("simple", 10_000_000),
        ("wide", 10_000_000),
    )
    materialize_rows: tuple[int, ...] = (1_000_000,)
    question_rows: tuple[int, ...] = (100_000, 1_000_000)
    carried_rows: tuple[int, ...] = (1_000_000,)
    machine_rows: tuple[tuple[int, str], ...] = ((4_000_000, "ray"),)
    plan_rows: tuple[tuple[int, int], ...] = ((10_000_000, 1), (10_000_000, 2), (10_000_000, 4))
    history_rows: tuple[int, ...] = (1_000_000, 10_000_000)
    hash_rows: int = 1_000_000
    local_writes: int = 1_000
    remote_writes: int = 1_000
    peer_writes: tuple[tuple[int, int], ...] = ((200, 3), (1_000, 1))
    remote_peer_writes: int = 200
    crowd: tuple[int, int] = (32, 20)
    many_writes: tuple[int, ...] = (10, 10_000, 100_000)
    month: tuple[int, ...] = (100, 300, 1_000)
    network: tuple[float, tuple[int, ...], tuple[int, int]] = (0.03, (100, 1_000), (20, 500_000))
    receipts: tuple[int, ...] = (10_000, 100_000)
    covered: tuple[tuple[int, int], ...] = ((10_000, 1_000), (100_000, 10_000), (1_000_000, 100_000))
    sql_rows: int = 1_000_000
    repeats: int = 3
    import_repeats: int = 25
    fresh: bool = True


SMOKE = Plan(
    resolve_rows=((200, 1),),
    scale_rows=(200,),
    cycle_rows=(("simple", 200), ("wide", 200)),
    materialize_rows=(2_000,),
    question_rows=(200,),
    carried_rows=(200,),
    machine_rows=((200, "threads"),),
    plan_rows=((200, 1),),
    history_rows=(200,),
    hash_rows=200,
    local_writes=10,
    remote_writes=10,
    peer_writes=((10, 1),),
    remote_peer_writes=5,
    crowd=(2, 3),
    many_writes=(10, 30),
    month=(2,),
    network=(0.0, (3,), (2, 200)),
    receipts=(50,),
    covered=((100, 10),),
    sql_rows=200,
    repeats=1,
    import_repeats=1,
    fresh=False,
)
"""Enough to see that every measurement works."""
