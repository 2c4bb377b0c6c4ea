"""`vitcircuits heads` writes the tour of one's own images, or a still, and says mistakes in its own options."""

import pytest
from vitcircuits.circuits import head_tour
from vitcircuits.circuits.attention import KINDS as EVERY
from vitcircuits.cli.heads import KINDS
from vitcircuits.cli.main import main
from vitcircuits.models import load_vit
from vitcircuits.models.pictures import load_pictures


def test_the_page_is_the_tour_of_the_images(tmp_path, capsys):
    path = tmp_path / "heads.html"
    assert (
        main(
            ["heads", "toy/digits-2l", "--images", "digits", "--n", "3", "--head", "a1.h2", "a0.h0", "--to", str(path)]
        )
        == 0
    )
    assert capsys.readouterr().out == f"wrote {path}\n"
    vit = load_vit("toy/digits-2l")
    images, names = load_pictures("digits", vit.preprocess, 3)
    assert path.read_text(encoding="utf-8") == head_tour(vit, images, names=names, heads=["a1.h2", "a0.h0"]).to_html()


def test_a_still_of_another_kind(tmp_path):
    path = tmp_path / "heads.svg"
    assert main(["heads", "toy/digits-2l", "--images", "digits", "--kind", "rollout", "--to", str(path)]) == 0
    assert ">rollout@1<" in path.read_text(encoding="utf-8")
    assert KINDS == EVERY


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--images", "digit"], "Did you mean 'digits'"),
        (["--images", "digits", "--head", "a9.h9"], "no head 'a9.h9'"),
        (["--images", "digits", "--to", "heads.gif"], ".html"),
        (["--images", "digits", "--n", "0"], "--n"),
        (["--images", "digits", "--kind", "patern"], "--kind"),
        ([], "--images"),
    ],
)
def test_mistakes_are_said_in_one_sentence(options, said, capsys):
    assert main(["heads", "toy/digits-2l", *options]) == 2
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told
