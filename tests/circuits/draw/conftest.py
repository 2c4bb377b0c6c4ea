"""Circuits and exhibits made without a model, and a browser to try pages in."""

import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.figure_data import Exhibit
from vitcircuits.circuits.graph import Graph, compile_graph
from vitcircuits.circuits.scores import Scores
from vitcircuits.models.config import TokenLayout, VitConfig

TASK = {"model": "toy/test", "metric": "logit_difference", "target_name": "3", "foil_name": "8", "seed": 0}


def make_graph(
    layers: int, heads: int, *, tokens: str = "all", ports: str = "qkv", registers: int = 0, grid=(2, 2)
) -> Graph:
    layout = TokenLayout(True, registers, grid)
    cfg = VitConfig("toy/test", layers, heads, 8, 4, 16, 10, (8, 8), (4, 4), 1, layout, (0,), "token")
    return compile_graph(cfg, tokens=tokens, ports=ports)


def make_scores(graph: Graph, *, seed: int = 0, task: dict | None = None) -> Scores:
    random = np.random.default_rng(seed)
    values = random.standard_t(3, len(graph))
    return Scores(
        graph=graph,
        values=values,
        mean_abs=np.abs(values) * 1.1,
        std_err=np.abs(values) * 0.1,
        exact=random.random(len(graph)) < 0.2,
        n_pairs=16,
        algorithm="eap",
        task=TASK if task is None else task,
    )


def make_circuit(graph: Graph, at_least: int) -> Circuit:
    """The smallest circuit of the largest edges that has so many left after pruning."""
    scores = make_scores(graph)
    sizes = (round(len(graph) * share / 40) for share in range(1, 41))
    return next(circuit for n in sizes if len(circuit := scores.top(n, by="abs_mean")) >= at_least)


@pytest.fixture(scope="session")
def circuit() -> Circuit:
    """The 60 largest edges, positive and negative, of a small graph, less those on no path."""
    return make_scores(make_graph(2, 4)).top(60, by="abs_mean")


@pytest.fixture(scope="session")
def exhibit() -> Callable[[Circuit], Exhibit]:
    def make(circuit: Circuit) -> Exhibit:
        cfg, random = circuit.graph.cfg, np.random.default_rng(0)
        images = random.random((2, 2, *cfg.image_size, 1)).astype(np.float32)
        logits = random.normal(size=(2, 2, cfg.n_classes)).astype(np.float32)
        shape = (2, cfg.n_layers, cfg.n_heads, cfg.tokens.n_tokens)
        pattern = random.random(shape).astype(np.float32)
        names = tuple(f"<class & {i}>" for i in range(cfg.n_classes))
        tokens = cfg.tokens
        return Exhibit(*images, *logits, names, tokens.grid, tokens.n_prefix, pattern)

    return make


NASTY = [
    '</script><b id="x">',
    'it\'s "quoted" & <i>',
    "\N{GRINNING FACE}",
    "\N{HEBREW LETTER ALEF}\u202e",
    "NA",
    "null",
    "<!--",
    "\x00",
]
"""Names that are text, wherever they stand."""

SVG = "{http://www.w3.org/2000/svg}"
SIZE = {"width": 1400, "height": 1000}
OWN = ("file:", "data:", "blob:", "about:")
REPORTS = """
window.reported = [];
document.addEventListener("securitypolicyviolation", event => window.reported.push(event.violatedDirective));
"""

SCRIPTED = 'classList.add("scripted")'
"""What a page's script says when it has taken over."""


@pytest.fixture(scope="session")
def browser():
    api = pytest.importorskip(
        "playwright.sync_api", reason="the page is tried in a browser by playwright, not installed"
    )
    on_path = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    with api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path  # where `playwright install chromium` puts it
        path = next(filter(None, on_path), own if Path(own).exists() else None)
        if path is None:
            pytest.skip("the page is tried in chromium: neither on the path nor by `playwright install chromium`")
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def tabs(browser):
    """Opens an empty tab: one of before, unless it is to be like no other. What tabs complain of is kept beside it.

    A tab costs a process, and a page in it a fraction of that. Each has a window of its own: those behind another one
    are not painted.
    """
    free = []

    def new(viewport=SIZE, **options):
        context = browser.new_context(offline=True, viewport=viewport, **options)
        context.set_default_timeout(5000)
        context.add_init_script(REPORTS)
        return context

    @contextmanager
    def lent(**options):
        if options:
            context = new(**options)
            yield _watched(context.new_page())
            context.close()
            return
        page, complaints = free.pop() if free else _watched(new().new_page())
        complaints.clear()
        yield page, complaints
        page.emulate_media(media="null")
        page.mouse.move(0, 0)
        page.goto("about:blank")
        free.append((page, complaints))

    return lent


def _watched(page):
    """The tab, and what is requested from elsewhere or complained of in it."""
    complaints = []
    page.on("request", lambda one: None if one.url.startswith(OWN) else complaints.append(one.url))
    page.on("console", lambda one: complaints.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda one: complaints.append(str(one)))
    return page, complaints


TWO_FRAMES = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""A diagram learns its size in the first frame that it is in: before that keys and pointers reach something that cannot
be drawn."""


@pytest.fixture
def shown(tabs, tmp_path):
    """Opens pages from disk, and sees at the end that they asked for nothing and that nobody complained."""
    with ExitStack() as stack:
        opened = []

        def show(html, fragment="", **options):
            path = tmp_path / f"page{len(opened)}.html"
            path.write_text(html, encoding="utf-8")
            page, complaints = stack.enter_context(tabs(**options))
            opened.append((page, complaints))
            page.goto(path.as_uri() + fragment)
            if options.get("java_script_enabled", True) and SCRIPTED in html:
                # some scripts wait for the images to be decoded
                page.locator(".scripted").first.wait_for(state="attached")
                page.evaluate(TWO_FRAMES)
            return page

        yield show
        said = [[*complaints, *page.evaluate("window.reported || []")] for page, complaints in opened]
    assert said == [[]] * len(opened)


def choose(page, n: int) -> None:
    page.get_by_label("Number of edges, exactly").fill(str(n))
    page.get_by_label("Number of edges, exactly").press("Enter")


def saved_paths(page) -> list[ET.Element]:
    """The edges of a diagram, as its button saves them."""
    with page.expect_download() as download:
        page.get_by_role("button", name="SVG").click()
    paths = ET.fromstring(download.value.path().read_text(encoding="utf-8")).iter(f"{SVG}path")
    return [path for path in paths if path.find(f"{SVG}title") is not None]


def drawn(page) -> dict[str, float]:
    """Names of the edges in the diagram, and how opaque each is."""
    return {path.find(f"{SVG}title").text: float(path.get("stroke-opacity")) for path in saved_paths(page)}


def lit(page) -> set[str]:
    return {name for name, opacity in drawn(page).items() if opacity > 0.1}


def until(page, script: str, wanted) -> None:
    """Waits until a script says what is wanted. Playwright's own way evaluates text, which the policy forbids."""
    for _ in range(100):
        if page.evaluate(script) == wanted:
            return
        page.wait_for_timeout(50)
    assert page.evaluate(script) == wanted


def canvas(page):
    return page.locator("canvas[role=application]")


def said(page, what: str) -> str:
    return page.locator(what).inner_text()
