"""Working ahead: how far, in which order, and what an error does."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from diffaug.ahead import map_ahead


@pytest.mark.parametrize("count", [0, 1, 3, 100])
@pytest.mark.parametrize("workers", [1, 4])
def test_results_come_in_order_and_no_call_starts_too_early(count, workers):
    read = []
    items = (read.append(number) or number for number in range(10))
    with ThreadPoolExecutor(workers) as threads:
        for number, result in enumerate(map_ahead(lambda item: item**2, items, threads, count)):
            assert number**2 == result
            assert list(range(min(10, number + 1 + count))) == read
    assert 10 == len(read)


def test_a_call_runs_while_the_result_before_it_is_used():
    started = [threading.Event() for _ in range(3)]
    with ThreadPoolExecutor(1) as threads:
        for number in map_ahead(lambda item: started[item].set() or item, range(3), threads, 1):
            assert number == 2 or started[number + 1].wait(10)


def test_an_error_comes_in_its_turn():
    with ThreadPoolExecutor(2) as threads:
        results = map_ahead(lambda item: 1 / item, [2, 1, 0, 4], threads, 3)
        assert [0.5, 1.0] == [next(results), next(results)]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_an_error_of_reading_comes_after_the_results_before_it():
    with ThreadPoolExecutor(2) as threads:
        results = map_ahead(lambda item: item, (6 // item for item in [2, 1, 0, 3]), threads, 3)
        assert [3, 6] == [next(results), next(results)]
        with pytest.raises(ZeroDivisionError):
            next(results)
