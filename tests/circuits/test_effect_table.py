"""What a table of effects says over the pairs, judged against numbers worked out by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from vitcircuits.algorithms import PatchTable, PathTable
from vitcircuits.circuits.tasks.design import Design
from vitcircuits.models.errors import FormatError, TaskError

CLEAN, CORRUPT = np.array([4.0, 6.0, 2.0, 4.0]), np.array([0.0, -2.0, 0.0, 2.0])  # the gap's mean is 4
VALUES = np.array([[2.0, 0.0], [4.0, 0.0], [0.0, 0.0], [2.0, 0.0]])  # pair, place
FLIPS = np.array([[True, False], [False, False], [False, False], [False, False]])


def patch_table(what="z", direction="noising", tokens=("cls",), **changes):
    shape = (4, 1, 2, 1) if what == "z" else (4, 2, 1, 1)
    arrays = {"values": VALUES.reshape(shape), "flips": FLIPS.reshape(shape), "clean": CLEAN, "corrupt": CORRUPT}
    task = {"model": "toy", "target_name": "3", "foil_name": "8"}
    fields = {**{key: array.copy() for key, array in arrays.items()}, "task": task, **changes}
    return PatchTable(what=what, tokens=tokens, direction=direction, **fields)


def path_table():
    values = np.stack([VALUES, np.full_like(VALUES, np.nan)], 1)
    return PathTable(
        sources=("input", "m1"),
        destinations=("a1.h0<q>", "logits"),
        n_edges=np.array([[3, 1], [0, 0]]),
        values=values,
        flips=np.stack([FLIPS, ~FLIPS], 1),
        clean=CLEAN.copy(),
        corrupt=CORRUPT.copy(),
        direction="denoising",
    )


def test_every_column_is_what_it_says():
    row = patch_table().frame().iloc[0]
    assert (row["layer"], row["head"], row["token"]) == (0, 0, "cls")
    assert row["effect"] == 2 and row["normalised"] == 0.5 and row["flips"] == 0.25
    assert row["std_err"] == pytest.approx(np.std([2, 4, 0, 2], ddof=1) / 2)
    assert 0 <= row["low"] < 2 < row["high"] <= 4
    assert 0 < row["flips_low"] < 0.25 < row["flips_high"] < 1


def test_pairs_that_share_their_clean_image_count_once_in_the_interval_of_flips():
    image = torch.tensor([0, 0, 1, 1])
    design = Design(1 - image, 1 - image, image, image + 2, torch.ones(4, dtype=torch.bool))
    flips = np.array([[True, False], [True, False], [False, False], [False, False]]).reshape(4, 1, 2, 1)
    row = patch_table(flips=flips, design=design).frame().iloc[0]
    own = binomtest(1, 2).proportion_ci(method="wilson")
    assert row["flips"] == 0.5 and (row["flips_low"], row["flips_high"]) == pytest.approx((own.low, own.high))


def test_some_of_the_pairs_are_a_table_of_their_own():
    row = patch_table().of_pairs([1, 3]).frame().iloc[0]
    assert row["effect"] == 3 and row["flips"] == 0 and row["normalised"] == 3 / 5


def test_the_interval_covers_the_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    values = rng.normal(1.0, 1.0, (40, 1, 400, 1))
    ends = {"clean": np.ones(40), "corrupt": np.zeros(40)}
    table = patch_table(values=values, flips=values > 1, **ends).frame()
    covered = ((table["low"] < 1) & (table["high"] > 1)).mean()
    assert 0.88 < covered < 0.98


def test_where_there_is_no_head_it_is_minus_one():
    table = patch_table("mlp_out").frame()
    assert table["head"].tolist() == [-1, -1] and table["layer"].tolist() == [0, 1]


def test_paths_without_edges_are_left_out_of_the_rows():
    table = path_table()
    frame = table.frame()
    assert frame[["source", "destination", "n_edges"]].values.tolist() == [
        ["input", "a1.h0<q>", 3],
        ["input", "logits", 1],
    ]
    assert np.isnan(table.shown("flips")[1]).all() and np.isnan(table.shown("effect")[1]).all()


def test_places_without_any_edge_are_not_drawn(tmp_path):
    text = path_table().draw(tmp_path / "paths.svg").read_text()
    assert ">input<" in text and ">m1<" not in text


def test_one_pair_and_no_gap_have_no_spread_and_no_share():
    one = patch_table(
        values=VALUES[:1].reshape(1, 1, 2, 1), flips=FLIPS[:1].reshape(1, 1, 2, 1), corrupt=CLEAN[:1].copy()
    )
    one = patch_table(values=one.values, flips=one.flips, clean=CLEAN[:1].copy(), corrupt=CLEAN[:1].copy())
    assert one.frame()[["std_err", "low", "high", "normalised"]].isna().all(axis=None)


def test_what_is_saved_is_the_frame_and_the_same_twice(tmp_path):
    import pandas

    table = patch_table()
    first = table.save(tmp_path / "a.csv").read_bytes()
    assert table.save(tmp_path / "b.csv").read_bytes() == first
    pandas.testing.assert_frame_equal(pandas.read_csv(tmp_path / "a.csv"), table.frame())
    with pytest.raises(FormatError, match=r"table\.csv"):
        table.save(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("make", "show"),
    [
        *((patch_table, show) for show in ("effect", "normalised", "flips")),
        (path_table, "normalised"),
        (lambda: patch_table("resid"), "flips"),
    ],
)
def test_it_draws(tmp_path, make, show):
    text = make().draw(tmp_path / "map.svg", show=show).read_text()
    assert make().draw(tmp_path / "again.svg", show=show).read_text() == text
    assert "noising" in text and make().unit_of(show) in text


def test_many_columns_of_tokens_become_columns_of_one_grid(tmp_path):
    values = np.arange(2 * 2 * 2 * 8.0).reshape(2, 2, 2, 8)
    tokens = tuple(f"f{i}r0c0" for i in range(8))  # of a video; those of an image are drawn as maps
    ends = {"clean": np.ones(2), "corrupt": np.zeros(2)}
    table = patch_table(values=values, flips=values > 1, tokens=tokens, **ends)
    text = table.draw(tmp_path / "map.svg").read_text()
    assert "a1.h1" in text and "f7r0c0" in text


def test_what_cannot_be_shown_is_said():
    with pytest.raises(TaskError, match="show='effect'"):
        patch_table().shown("size")


def test_a_table_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        patch_table().values[0] = 1


def test_tables_say_what_they_are():
    assert str(patch_table()) == "noising z: 1 layers, 2 heads, 1 token columns, 4 pairs, ablation partner"
    assert str(path_table()) == "denoising paths: 2 sources, 2 destinations, 4 pairs, ablation partner"
