"""Sprites show the factors that they were drawn from, and captions say them."""

import numpy as np
import pytest
import torch
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import DataError
from vitcircuits.models.toys.sprites import (
    CENTRES,
    COLOURS,
    FACETS,
    IMAGE_SIZE,
    ORIENTATIONS,
    PLACES,
    SCALES,
    SHAPES,
    SpriteFactors,
    all_captions,
    caption,
    captions,
    captions_saying,
    draw_sprites,
    facet_labels,
    factors_of,
    outline,
    sample_factors,
    split_factors,
)

EACH_SHAPE = np.arange(len(SHAPES))


def factors(shape=EACH_SHAPE, *, colour=0, scale=7.0, orientation=0.3, x=16.0, y=16.0) -> SpriteFactors:
    """Factors of one image per shape, unless something else is longer."""
    n = np.broadcast_shapes(*(np.shape(part) for part in (shape, colour, scale, orientation, x, y)))
    whole = (np.array(np.broadcast_to(part, n), dtype=np.int64) for part in (shape, colour))
    real = (np.array(np.broadcast_to(part, n), dtype=np.float64) for part in (scale, orientation, x, y))
    return SpriteFactors(*whole, *real)


def lit(images) -> np.ndarray:
    """How much of each pixel is covered [image, height, width], from the brightest channel."""
    bright = images.astype(float).max(axis=1)
    return bright / bright.max(axis=(1, 2), keepdims=True)


def centroid(images) -> np.ndarray:
    """Distance from the left and from the upper edge, in pixels [image, 2]."""
    cover, places = lit(images), np.arange(IMAGE_SIZE) + 0.5
    area = cover.sum((1, 2))
    return np.stack([(cover.sum(1) * places).sum(1) / area, (cover.sum(2) * places).sum(1) / area], axis=1)


def test_the_same_factors_give_the_same_bytes():
    first, second = sample_factors(300, seed=3), sample_factors(300, seed=3)
    assert draw_sprites(first).tobytes() == draw_sprites(second).tobytes()
    assert draw_sprites(first)[260:270].tobytes() == draw_sprites(first.rows(range(260, 270))).tobytes()
    assert draw_sprites(sample_factors(300, seed=4)).tobytes() != draw_sprites(first).tobytes()


def test_a_shorter_draw_is_the_beginning_of_a_longer_one():
    few, many = sample_factors(5, seed=(0, 1)), sample_factors(50, seed=(0, 1)).rows(slice(5))
    for name, columns in few.columns().items():
        assert np.array_equal(columns, many.columns()[name])


def test_x_and_y_move_the_centroid_by_as_many_pixels():
    here, there = centroid(draw_sprites(factors())), centroid(draw_sprites(factors(x=19.25, y=13.5)))
    assert np.allclose(there - here, [3.25, -2.5], atol=0.06)


def test_the_area_grows_with_the_square_of_the_scale():
    areas = [lit(draw_sprites(factors(scale=scale))).sum((1, 2)) for scale in (6.0, 10.0)]
    assert np.allclose(areas[1] / areas[0], (10 / 6) ** 2, rtol=0.05)


@pytest.mark.parametrize("orientation", [0.0, 0.3, 2.0])
def test_the_area_is_the_outlines(orientation):
    wanted = [7.0**2 * (outline(shape) ** 2).mean() * np.pi for shape in SHAPES]
    found = lit(draw_sprites(factors(orientation=orientation))).sum((1, 2))
    assert np.allclose(found, wanted, rtol=0.03)


def test_orientation_turns_anticlockwise():
    level = lit(draw_sprites(factors(orientation=0.0)))
    turned = lit(draw_sprites(factors(orientation=np.pi / 2)))
    assert np.abs(np.rot90(level, axes=(1, 2)) - turned).max() < 0.01
    triangle, heart = level[SHAPES.index("triangle")], level[SHAPES.index("heart")]
    assert np.count_nonzero(triangle[10]) < np.count_nonzero(triangle[18])  # its tip is above
    assert np.count_nonzero(heart[11]) > np.count_nonzero(heart[20])  # and a heart's below


def test_a_shape_has_its_colour_on_black_and_soft_edges():
    images = draw_sprites(factors(shape=0, colour=np.arange(len(COLOURS))))
    assert [tuple(image[:, 16, 16]) for image in images] == list(COLOURS.values())
    assert not images[:, :, [0, -1]].any() and not images[:, :, :, [0, -1]].any()
    assert ((lit(images) > 0.05) & (lit(images) < 0.95)).any((1, 2)).all()


def test_every_shape_lies_inside_wherever_it_may_be():
    corners = [(x, y) for x in CENTRES for y in CENTRES]
    for x, y in corners:
        whole = lit(draw_sprites(factors(scale=SCALES[1], x=16.0, y=16.0))).sum((1, 2))
        moved = lit(draw_sprites(factors(scale=SCALES[1], x=x, y=y))).sum((1, 2))
        assert np.allclose(whole, moved, atol=0.3)  # of 100 to 160 pixels; edges are soft


def test_factors_are_drawn_independently_over_their_whole_range():
    drawn = sample_factors(20_000, seed=7)
    assert {"shape", "colour", "scale", "orientation", "x", "y"} == set(drawn.columns())
    assert np.bincount(drawn.shape).min() > 3000 and np.bincount(drawn.colour).min() > 3000
    assert np.abs(np.corrcoef([getattr(drawn, name) for name in vars(drawn)]) - np.eye(6)).max() < 0.03
    for name, ends in {"scale": SCALES, "orientation": ORIENTATIONS, "x": CENTRES, "y": CENTRES}.items():
        values = getattr(drawn, name)
        assert np.allclose([values.min(), values.max()], ends, atol=0.01)


def test_a_caption_says_what_is_true():
    drawn = factors(shape=3, colour=0, scale=9.9, x=11.0, y=np.array([10.0, 15.9, 16.1]))
    assert captions(drawn) == (
        "a large red heart in the upper left",
        "a large red heart in the upper left",
        "a large red heart in the lower left",
    )
    assert captions(factors(scale=7.9, x=20.0))[:2] == (
        "a small red square in the lower right",
        "a small red ellipse in the lower right",
    )
    assert captions(drawn, said=("colour",)) == ("a red heart",) * 3
    assert captions(drawn, said=()) == ("a heart",) * 3
    labels = facet_labels(drawn)
    assert [PLACES[place] for place in labels["place"]] == [
        "in the upper left",
        "in the upper left",
        "in the lower left",
    ]
    assert set(labels) == set(FACETS)


def test_captions_saying_a_phrase_are_all_that_say_it():
    everything = all_captions()
    assert len(set(everything)) == 2 * 6 * 6 * 4
    assert caption(size="small", colour="blue", shape="star", place=PLACES[1]) in everything
    for facet, phrases in FACETS.items():
        parts = [captions_saying(facet, phrase) for phrase in phrases]
        assert sorted(sum(parts, ())) == sorted(everything)
    with pytest.raises(DataError, match="colour: red"):
        captions_saying("colour", "pink")


def test_the_data_set_has_two_splits_that_share_no_image():
    data = load_data("sprites", None, limit=40)
    assert data.name == "sprites" and data.class_names == SHAPES and data.n_duplicates_dropped == 0
    assert (len(data.train), len(data.test)) == (240, 240) and data.train.images.shape[1:] == (3, 32, 32)
    assert data.train.images.min() == 0 and data.train.images.max() <= 1
    rows = [{image.numpy().tobytes() for image in split.images} for split in (data.train, data.test)]
    assert len(rows[0]) == len(rows[1]) == 240 and not rows[0] & rows[1]
    assert (len(split_factors("train")), len(split_factors("test"))) == (20_000, 4_000)


def test_the_factors_of_picked_images_are_those_they_were_drawn_from():
    data = load_data("sprites", None, classes=["heart", "star"], limit=10)
    for split in (data.train, data.test):
        found = factors_of(split.names)
        assert np.array_equal(found.shape, split.labels.numpy())
        assert torch.equal(split.images, torch.from_numpy(draw_sprites(found)).float() / 255)


@pytest.mark.parametrize("name", ["test/4000", "val/0", "train", "train/-1"])
def test_a_name_of_no_sprite_is_refused(name):
    with pytest.raises(DataError, match="test/3999"):
        factors_of(["train/1", name])
