"""Work that is shared out comes back whole, in order, and with its reason where it fails."""

import os

import numpy as np
import pytest
from vitcircuits.models import processes
from vitcircuits.models.errors import TaskError


def shared():
    done = []

    def compute(job):
        done.append(job)
        assert list(processes.in_order(str, [1, 2])) == ["1", "2"]  # inside a job nothing is shared out
        return job, np.float64(job) / 3, processes.place()

    found = list(processes.in_order(compute, range(5)))
    with processes.alone():
        by_itself = list(processes.in_order(lambda job: (job, processes.count()), range(2)))
    return found, done, by_itself, processes.from_first(os.getpid), processes.count()


def test_jobs_are_shared_out_and_all_are_handed_every_result(on_processes):
    by_place = on_processes(2, shared)
    expected = [(job, np.float64(job) / 3, job % 2) for job in range(5)]
    assert [found for found, *_ in by_place] == [expected] * 2
    assert [done for _, done, *_ in by_place] == [[0, 2, 4], [1, 3]]
    assert all(alone == [(0, 1), (1, 1)] for _, _, alone, *_ in by_place)
    assert by_place[0][3:] == by_place[1][3:] and by_place[0][4] == 2


class AwkwardError(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def failing(error):
    def compute(job):
        if job == 1:
            raise error if error is not None else AwkwardError("cannot be sent", lambda: None)
        return job

    told = []
    try:
        told.extend(processes.in_order(compute, range(4)))
    except Exception as raised:
        return told, type(raised).__name__, str(raised)


@pytest.mark.parametrize("error", [TaskError("no such class"), None])
def test_what_one_process_raises_is_raised_on_all(on_processes, error):
    by_place = on_processes(2, failing, error)
    kind, text = (
        ("TaskError", "no such class") if error else ("VitCircuitsError", "AwkwardError on process 1: cannot be sent")
    )
    assert by_place == [([0], kind, text)] * 2


def test_one_process_does_each_job_when_it_is_asked_for():
    done = []
    results = processes.in_order(done.append, range(3))
    assert done == [] and next(results) is None and done == [0]
    assert processes.count() == 1 and processes.is_first()
    with processes.joined():
        assert processes.count() == 1
