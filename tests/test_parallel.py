"""Results come in order, few at a time, and errors where they belong."""

import threading

import pytest

from metaxy_fs.parallel import batched, one, ordered_map
from tests.support.patience import PATIENCE


def test_results_come_in_the_order_of_items():
    last_is_done = threading.Event()

    def finish_in_reverse(number):
        if number == 1:
            last_is_done.set()
        return last_is_done.wait(PATIENCE) and number

    assert list(ordered_map(finish_in_reverse, [0, 1], workers=2)) == [0, 1]
    for workers in (1, 2, 3):
        doubled = ordered_map(lambda number: number * 2, range(50), workers=workers)
        assert list(doubled) == [number * 2 for number in range(50)]


def test_items_are_taken_a_few_ahead():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = ordered_map(abs, items(), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) <= 5


def test_an_error_is_raised_in_its_place():
    def fail_at_three(number):
        if number == 3:
            raise ValueError("three")
        return number

    seen = []
    with pytest.raises(ValueError, match="three"):
        seen.extend(ordered_map(fail_at_three, range(10)))
    results = ordered_map(fail_at_three, range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("workers", [2, 5])
def test_as_many_items_are_under_way_at_once_as_there_are_workers(workers):
    barrier = threading.Barrier(workers, timeout=PATIENCE)
    found = ordered_map(lambda _: barrier.wait() >= 0, range(2 * workers), workers=workers)
    assert list(found) == [True] * 2 * workers


@pytest.mark.parametrize("items", [[], [7]])
def test_one_item_needs_no_thread(items):
    assert list(ordered_map(lambda _: threading.current_thread(), items)) == [threading.main_thread()] * len(items)


def test_groups_stay_within_all_limits_unless_one_item_does_not():
    assert list(batched([], (one, 2))) == []
    assert list(batched("abcde", (one, 2))) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(batched(["a", "bbbb", "cc", "d", "e"], (len, 3), (one, 2))) == [["a"], ["bbbb"], ["cc", "d"], ["e"]]


def test_groups_are_given_before_all_items_are_taken():
    taken = []
    groups = batched((taken.append(number) or number for number in range(100)), (one, 3))
    assert next(groups) == [0, 1, 2]
    assert taken == [0, 1, 2, 3]
