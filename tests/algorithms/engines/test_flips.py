"""Flips that bring sources to life or cut them off, within little memory, and those that are not run at all."""

import numpy as np
import pytest
from vitcircuits.algorithms.engines import flips
from vitcircuits.algorithms.engines.flips import changeable, measure_flips


def check(case, mask, edges, **options):
    found = measure_flips(case.vit, case.graph, mask, edges, case.task.metric, case.pairs, case.baseline, **options)
    np.testing.assert_allclose(found.now, case.metric(mask), rtol=0, atol=1e-9)
    wanted = np.stack([case.flipped(mask, edge) for edge in edges])
    np.testing.assert_allclose(found.flipped, wanted, rtol=0, atol=1e-9 * max(1, np.abs(wanted).max()))
    return found


@pytest.mark.parametrize("kind", ["partner", "zero"])
def test_edges_into_one_place_flip_together(case_of, kind, tokens):
    case = case_of("registers-layerscale", tokens=tokens, ablation={"kind": kind})
    whole = [np.arange(block.start, block.stop) for block in case.graph.blocks]
    groups = whole + [half for block in whole for half in np.array_split(block, 2)]
    for mask in (case.mask(0.6), np.ones(len(case.graph), dtype=bool), np.zeros(len(case.graph), dtype=bool)):
        check(case, mask, groups)


@pytest.mark.parametrize("kind", ["partner", "zero"])
def test_edges_bring_sources_to_life_and_cut_them_off(case_of, kind):
    case = case_of("plain", ablation={"kind": kind})
    chain = np.zeros(len(case.graph), dtype=bool)
    names = ("input->a0.h0<v>", "a0.h0->m0", "m0->a1.h1<k>", "a1.h1->m1")
    chain[[case.graph.index(name) for name in names]] = True
    closed = chain.copy()
    closed[case.graph.index("m1->logits")] = True
    for mask in (chain, closed):
        check(case, mask, range(len(case.graph)))


def test_batches_within_little_memory_change_nothing(case_of):
    case = case_of("plain", n=3)
    check(case, case.mask(0.6), case.some(10), memory=1)


def test_where_pairs_are_few_the_flips_are_cut_into_jobs(case_of, monkeypatch):
    case, jobs = case_of("plain", n=2), []
    monkeypatch.setattr(flips, "WORTH", 5)
    monkeypatch.setattr(flips.processes, "in_order", lambda compute, some: map(compute, jobs.extend(some) or some))
    check(case, np.ones(len(case.graph), dtype=bool), range(len(case.graph)))
    dealt = np.concatenate([job.flips for job in jobs if hasattr(job, "flips")])
    assert len(jobs) > 2 and sorted(dealt.tolist()) == list(range(len(case.graph)))


def test_what_cannot_change_anything_is_not_run(case_of):
    case = case_of("plain")
    nothing = np.zeros(len(case.graph), dtype=bool)
    assert set(np.flatnonzero(changeable(case.graph, nothing)).tolist()) == {case.graph.index("input->logits")}
    assert check(case, nothing, range(len(case.graph))).runs == 2
