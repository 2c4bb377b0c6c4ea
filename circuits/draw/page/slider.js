// The slider over the number of edges, logarithmic, because the first edges matter most.

const STEPS = 1000;

function sizeOf(step, largest) {
  return Math.round(Math.expm1((step / STEPS) * Math.log1p(largest)));
}

function stepOf(n, largest) {
  return largest ? (STEPS * Math.log1p(n)) / Math.log1p(largest) : 0;
}

class SizeSlider {
  // `missing` says what no size draws; the curve stands beneath; the circuit's own size is marked where sizes go on.
  constructor(largest, state, {missing = "", curve = null, own = largest} = {}) {
    this.state = state;
    this.size = own;
    this.largest = largest;
    this.missing = missing;
    this.curve = curve;
    this.slider = make("input", {
      type: "range",
      min: 0,
      max: STEPS,
      step: "any",
      "aria-label": "Number of edges",
      oninput: () => this.ask(sizeOf(this.slider.value, this.largest)),
      onkeydown: event => this.step(event),
    });
    this.count = make("input", {
      type: "number",
      min: 0,
      max: this.largest,
      "aria-label": "Number of edges, exactly",
      onchange: () => this.ask(Number(this.count.value)),
    });
    this.said = make("span", {class: "said", role: "status"});
    this.element = make(
      "div",
      {class: "size"},
      make("label", {}, "At most ", this.count, " edges on whole paths"),
      this.said,
      this.slider,
      own < largest ? this.mark() : null,
      this.curve?.element,
    );
  }

  mark() {
    const go = () => this.ask(this.size),
      at = stepOf(this.size, this.largest) / STEPS;
    const button = make("button", {type: "button", onclick: go}, `the circuit: ${this.size.toLocaleString("en")}`);
    button.style.marginLeft = `${100 * at}%`;
    button.style.transform = `translateX(${-100 * at}%)`;
    return make("div", {class: "own-size"}, button);
  }

  ask(n) {
    this.state.set({n: Math.max(0, Math.min(this.largest, Math.round(n) || 0))});
  }

  step(event) {
    const by = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10}[event.key];
    if (!by) return;
    event.preventDefault();
    this.ask(this.state.values.n + by);
  }

  update(n, shown) {
    this.slider.value = stepOf(n, this.largest);
    this.slider.setAttribute("aria-valuetext", `${shown} edges`);
    this.count.value = n;
    const beyond = shown - this.size,
      some = shown.toLocaleString("en");
    this.said.textContent =
      beyond > 0
        ? `${some} drawn, ${beyond.toLocaleString("en")} of them not in the circuit`
        : `${some} of ${this.size.toLocaleString("en")} drawn${this.missing}`;
    this.curve?.mark(shown);
  }
}
