// Two circuits side by side: one slider (both at equal rank), one selection, one ink for each of who has an edge.

const WHO = {first: "blue", second: "orange", both: "ink", alone: "soft"};

class Side {
  constructor(page, at, name, pair) {
    this.circuit = new Circuit(page);
    this.own = at ? "second" : "first";
    this.pair = pair;
    this.byKey = new Map([...this.circuit.nodes.values()].filter(box => box.key).map(box => [box.key, box]));
    this.view = new View(this.circuit.layout, pen => drawDiagram(pen, this.circuit, this.look));
    this.view.onsettle = () => pair.follow(this);
    this.pointer = new Pointer(this.view, this.circuit, {
      look: () => this.look,
      chosen: () => this.byKey.get(pair.state.values.node),
      node: box => pair.state.set({...NOTHING, node: box.key}),
      edge: edge => pair.state.set({...NOTHING, edge: edge.key}),
      paths: () => {},
      place: () => pair.state.set(NOTHING),
      nothing: () => pair.state.set(NOTHING),
    });
    this.said = make("span");
    this.element = make(
      "figure",
      {},
      make(
        "figcaption",
        {},
        name,
        " ",
        this.said,
        " ",
        make(
          "button",
          {
            type: "button",
            title: `Save ${name} as SVG`,
            onclick: () => saveSvg(this.circuit, this.look, "circuit.svg"),
          },
          "SVG",
        ),
      ),
      this.view.frame,
    );
  }

  // Who has an edge, among those that are drawn.
  who(edge) {
    if (!this.pair.comparable) return "alone";
    return this.pair.other(this).keys.has(edge.key) ? "both" : this.own;
  }

  cut(n) {
    this.drawn = this.circuit.within(n);
    this.keys = new Set(this.drawn.map(edge => edge.key));
  }

  update({node, edge, who}, changed) {
    const box = this.byKey.get(node),
      words = {first: "only here", second: "only here", both: "in both", alone: ""};
    let lit = null;
    if (node)
      lit = new Set(
        this.drawn.filter(
          one => box && (this.circuit.boxes[one.source] === box || this.circuit.boxes[one.target] === box),
        ),
      );
    else if (edge) lit = new Set(this.drawn.filter(one => one.key === edge));
    else if (who) lit = new Set(this.drawn.filter(one => this.who(one) === who));
    const inkOf = one => this.pair.inks[WHO[this.who(one)]],
      says = one => words[this.who(one)];
    this.look = makeLook(this.circuit, this.drawn, {
      lit,
      inkOf,
      says,
      inks: this.pair.inks,
      chosen: box ? [box.name] : [],
    });
    if (changed.has("n") && this.drawn.length > 200) this.view.step();
    else this.view.redraw();
    this.said.textContent = `${this.drawn.length.toLocaleString("en")} of ${this.circuit.size.toLocaleString("en")} edges drawn`;
  }
}

class SideBySide {
  constructor({names, comparable, linked, circuits}) {
    this.names = names;
    this.comparable = comparable;
    this.linked = linked;
    this.inks = readInks();
    const largest = Math.max(
      ...circuits.map(page => page.edges.enters.filter(place => place <= page.n_circuit).length),
    );
    this.state = new State("", {n: largest, who: ""});
    this.sides = circuits.map((page, at) => new Side(page, at, names[at], this));
    this.size = new SizeSlider(largest, this.state);
    const choice = (value, label) =>
      make(
        "button",
        {type: "button", class: value || "all", onclick: () => this.state.set({...NOTHING, who: value})},
        label,
      );
    this.choices = {
      "": choice("", "all edges"),
      first: choice("first", `only ${names[0]}`),
      second: choice("second", `only ${names[1]}`),
      both: choice("both", "both"),
    };
    this.counts = make("span", {class: "said", role: "status"});
    const bar = comparable
      ? make("div", {class: "bar"}, ...Object.values(this.choices), this.counts)
      : make("p", {}, "Graphs of other shapes: edges are not compared.");
    this.element = make(
      "div",
      {class: "side-by-side"},
      bar,
      make("div", {class: "two"}, ...this.sides.map(side => side.element)),
      this.size.element,
    );
    this.state.on(changed => this.update(changed));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
      this.update(new Set(["n"]), (this.inks = readInks())),
    );
    this.update(new Set(["n"]));
  }

  other(side) {
    return this.sides[1 - this.sides.indexOf(side)];
  }

  update(changed) {
    const {values} = this.state;
    if (changed.has("n")) {
      for (const side of this.sides) side.cut(values.n);
      this.size.update(values.n, Math.max(...this.sides.map(side => side.drawn.length)));
    }
    for (const side of this.sides) side.update(values, changed);
    for (const [who, button] of Object.entries(this.choices)) button.setAttribute("aria-pressed", who === values.who);
    this.counts.textContent = this.says();
  }

  says() {
    const [first, second] = this.sides,
      both = first.drawn.filter(edge => second.keys.has(edge.key)).length;
    return `${first.drawn.length - both} only in ${this.names[0]}, ${second.drawn.length - both} only in ${this.names[1]}, ${both} in both`;
  }

  // Diagrams of one shape stand on the same places, and are moved together.
  follow(side) {
    const {view} = this.other(side),
      {x, y, k} = side.view.transform,
      own = view.transform;
    if (!this.linked || !view.width || !side.view.moved || (own.x === x && own.y === y && own.k === k)) return;
    view.go([x, y, k]);
  }
}

for (const data of document.querySelectorAll(".pair-data")) {
  const place = data.previousElementSibling;
  place.append(new SideBySide(JSON.parse(data.textContent)).element);
  place.hidden = false;
  place.parentElement.classList.add("scripted");
}
