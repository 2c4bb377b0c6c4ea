"""What fires a neuron most is what its hook says; one that knows a class has no false alarms, and noise has many."""

import numpy as np
import pytest
import torch
from pandas.testing import assert_frame_equal
from vitcircuits.algorithms import neuron_catalogue
from vitcircuits.algorithms.interpretability.neuron_catalogue import find_alarms
from vitcircuits.algorithms.interpretability.top import Top
from vitcircuits.models.errors import DataError, GraphError, ModelError


def activations(vit, images, layer, at):
    """(image, neuron): the highest over the patches, or CLS's."""
    post = vit.run_with_cache(images, f"blocks.{layer}.mlp.hook_post")[1]["post", layer]
    return post[:, vit.cfg.tokens.patches].max(1) if at == "patches" else (post[:, 0], None)


@pytest.mark.parametrize("at", ["patches", "cls"])
def test_the_highest_are_those_of_the_hook(variant_named, images_for, at):
    vit = variant_named("registers-layerscale")
    images, layout = images_for(vit, 7), vit.cfg.tokens
    found = neuron_catalogue(vit, images, at=at, n_top=3, memory=1)
    assert len(found.neurons) == 2 * vit.cfg.d_mlp
    for layer in range(2):
        values, where = activations(vit, images, layer, at)
        for neuron in (0, 5, vit.cfg.d_mlp - 1):
            order = values[:, neuron].sort(descending=True)
            got = found.patches(f"m{layer}.n{neuron}")
            assert [image for _, image, *_ in got] == order.indices[:3].tolist()
            np.testing.assert_allclose([score for score, *_ in got], order.values[:3].numpy(), rtol=1e-6)
            if at == "patches":
                spots = [divmod(int(where[image, neuron]), layout.grid[1]) for _, image, *_ in got]
                assert [tuple(place) for _, _, *place in got] == spots
            row = found.row(f"m{layer}.n{neuron}")
            assert found.mean[row] == pytest.approx(float(values[:, neuron].mean()), rel=1e-5)
            assert found.histograms[row].sum() == 7 and found.histograms[row, 0, -1] >= 1


def slow_alarms(values, labels, recall):
    """Class, threshold, false alarms and alarms of the class with the fewest over chance, by trying thresholds."""
    found = []
    for code in np.unique(labels):
        own = labels == code
        for threshold in sorted(values, reverse=True):
            if np.mean(values[own] >= threshold) >= recall - 1e-9:
                alarms = values >= threshold
                false = int((alarms & ~own).sum())
                found.append((false / alarms.sum() / (1 - own.mean()), code, threshold, false, int(alarms.sum())))
                break
    return min(found, key=lambda row: row[0])[1:]


@pytest.mark.parametrize("recall", [0.2, 0.5, 1.0])
def test_false_alarms_are_those_of_the_highest_threshold_that_recalls_enough(recall):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    values = np.round(rng.normal(size=(30, 40)) + 2 * (labels == rng.integers(0, 3, (30, 1))), 1)  # with ties
    found = find_alarms(values, labels, recall, 0, seed=0)
    for row in range(30):
        code, threshold, false, alarms = slow_alarms(values[row], labels, recall)
        assert (found.classes[row], found.threshold[row]) == (code, threshold)
        assert (found.false[row], found.alarms[row]) == (false, alarms)


def test_a_neuron_that_fires_for_a_class_has_no_false_alarm_and_noise_is_like_shuffles():
    rng = np.random.default_rng(1)
    labels = np.arange(200) % 4
    values = rng.normal(size=(50, 200))
    values[7] += 8 * (labels == 2)
    found = find_alarms(values, labels, 0.5, 20, seed=0)
    assert found.share[7] == 0 and found.classes[7] == 2
    assert (found.ratio < found.level).tolist() == [row == 7 for row in range(50)]
    assert found.chance[0] == pytest.approx(0.75)


def test_ties_at_the_threshold_are_alarms():
    found = find_alarms(np.zeros((1, 8)), np.arange(8) % 2, 0.5, 0, seed=0)
    assert found.alarms[0] == 8 and found.share[0] == 0.5 == found.chance[0]


def test_a_class_that_one_neuron_defines_is_found_at_it(variant_named, images_for):
    vit = variant_named("plain")
    images = images_for(vit, 30)
    values, _ = activations(vit, images, 1, "patches")
    labels = np.where(values[:, 11] >= values[:, 11].sort(descending=True).values[9], "fires", "rests")
    found = neuron_catalogue(vit, images, labels, recall=1.0)
    row = found.row("m1.n11")
    assert found.alarms.share[row] == 0 and found.classes[found.alarms.classes[row]] == "fires"
    assert found.alarms.alarms[row] == 10 and str(found.false_alarms("m1.n11")).startswith("0.000 [0.000")
    assert found.order()[0] == row or found.alarms.ratio[found.order()[0]] == 0
    assert found.histograms[row, 0].sum() == 10 and found.histograms[row, 1].sum() == 20


def test_batches_and_groups_of_layers_change_nothing(variant_named, images_for):
    vit = variant_named("plain")
    images = images_for(vit, 9)
    one, many = (neuron_catalogue(vit, images, np.arange(9) % 3, memory=memory) for memory in (1, 2**30))
    assert_frame_equal(one.frame(), many.frame(), rtol=1e-6)
    assert one.histograms.sum() == many.histograms.sum()
    assert np.abs(one.histograms - many.histograms).sum(-1).max() <= 2  # one value at the edge of a bin
    assert one.alarms.level == pytest.approx(many.alarms.level, rel=1e-6)


def test_every_architecture_has_neurons_or_says_that_it_has_none(architecture, images_for):
    images = images_for(architecture, 3)
    if not any(architecture.cfg.has_mlp(layer) for layer in range(architecture.cfg.n_layers)):
        with pytest.raises(ModelError, match="this one has none"):
            neuron_catalogue(architecture, images)
        return
    found = neuron_catalogue(architecture, images, n_top=2)
    assert found.scores.shape == (len(found.neurons), 2) and np.isfinite(found.scores).all()


def test_the_highest_of_batches_are_the_highest_of_all_and_the_first_of_equals():
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]])
    top = Top.of(1, 3)
    for some in torch.arange(5).split(2):
        top = top.with_more(scores[:, some], some)
    assert top.row(0) == ((3.0, 1), (3.0, 2), (3.0, 4))
    assert Top.of(1, 3).with_more(scores[:, :1], torch.arange(1)).row(0) == ((1.0, 0),)


def test_it_is_printed_framed_saved_and_drawn(tmp_path, variant_named, images_for):
    vit = variant_named("registers-layerscale")
    images = images_for(vit, 12)
    for labels in (None, torch.arange(12) % 2):
        found = neuron_catalogue(vit, images, labels, classes=("a", "b"), n_shown=3)
        assert len(found.frame()) == len(found.neurons) and found.neurons[found.order()[0]] in str(found)
        assert len(found.pictures) == 3 and "m0.n" in repr(found)
        found.save(tmp_path / "neurons.csv")
        assert found.draw(tmp_path / "neurons.png").stat().st_size > 2000
    with pytest.raises(GraphError, match="not in the catalogue"):
        found.row("m9.n9")


def test_what_it_cannot_do_is_said(variant_named, images_for, unchecked):
    vit = variant_named("no-class")
    images = images_for(vit, 4)
    with pytest.raises(ModelError, match="no token that gathers"):
        neuron_catalogue(vit, images, at="cls")
    with pytest.raises(ModelError, match="layers="):
        neuron_catalogue(vit, images, layers=[7])
    with pytest.raises(ModelError, match="recall"):
        neuron_catalogue(vit, images, [0, 1, 0, 1], recall=0)
    with pytest.raises(DataError, match="one class"):
        neuron_catalogue(vit, images, [1, 1, 1, 1])
    with pytest.raises(DataError, match="one whole number or"):
        neuron_catalogue(vit, images, np.arange(4) / 4)
