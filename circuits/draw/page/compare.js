// Two circuits side by side: one slider (both at equal rank), one selection, one ink for each of who has an edge.

const LISTED = 30; // edges of a chosen node
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
    this.name = name;
    this.edges = new Map(this.circuit.edges.map(edge => [edge.key, edge]));
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
        this.save("SVG", () => saveSvg([this.picture], "circuit.svg")),
        " ",
        this.save("PNG", () => savePng([this.picture], "circuit.png")),
      ),
      this.view.frame,
    );
  }

  save(kind, onclick) {
    return make("button", {type: "button", title: `Save ${this.name} as ${kind}`, onclick}, kind);
  }

  get picture() {
    return {circuit: this.circuit, look: this.look, said: `${this.name}: ${this.said.textContent}`};
  }

  touching(box) {
    return new Set(box ? [...box.reads, ...box.writes] : []);
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
    if (node) lit = this.touching(box);
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
  // `index` tells the pairs of a page apart.
  constructor({names, comparable, linked, circuits}, index) {
    this.names = names;
    this.comparable = comparable;
    this.linked = linked;
    this.inks = readInks();
    const largest = Math.max(
      ...circuits.map(page => page.edges.enters.filter(place => place <= page.n_circuit).length),
    );
    this.state = new State(`${document.title}: ${names.join(" | ")}`, {n: largest, who: "", of: -1});
    this.state.values.of = index;
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
    this.details = make("div", {class: "details", "aria-live": "polite"});
    this.element = make(
      "div",
      {class: "side-by-side"},
      bar,
      make("div", {class: "two"}, ...this.sides.map(side => side.element)),
      this.size.element,
      this.files(),
      this.details,
    );
    this.state.on(changed => this.update(changed));
    addEventListener("hashchange", () => this.reopen());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
      this.update(new Set(["n", "start"]), (this.inks = readInks())),
    );
    this.update(new Set(["n", "start"]));
    this.reopen();
  }

  files() {
    const both = () => this.sides.map(side => side.picture),
      message = make("span", {role: "status"});
    const button = (label, onclick) => make("button", {type: "button", onclick}, label);
    return make(
      "div",
      {class: "bar"},
      button("Both as SVG", () => saveSvg(both(), "circuits.svg")),
      button("Both as PNG", () => savePng(both(), "circuits.png")),
      ...viewFiles(this.state, message),
      message,
    );
  }

  // What the address says, if it speaks of this pair.
  reopen() {
    const of = new URLSearchParams(location.hash.slice(1)).get("of");
    if (of === String(this.state.values.of)) this.state.fromHash(location.hash);
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
    if (changed.has("at")) for (const {view} of this.linked ? this.sides : this.sides.slice(0, 1)) view.open(values.at);
    this.details.replaceChildren(...this.tell(values));
    if (!changed.has("start")) this.state.remember();
    for (const [who, button] of Object.entries(this.choices)) button.setAttribute("aria-pressed", who === values.who);
    this.counts.textContent = this.says();
  }

  says() {
    const [first, second] = this.sides,
      both = first.drawn.filter(edge => second.keys.has(edge.key)).length;
    return `${first.drawn.length - both} only in ${this.names[0]}, ${second.drawn.length - both} only in ${this.names[1]}, ${both} in both`;
  }

  // The chosen edge, or the edges of the chosen node, in both circuits beside one another.
  tell({node, edge}) {
    if (!node && !edge) return [make("p", {}, "Click a node or an edge to see what it is in both.")];
    const boxes = this.sides.map(side => side.byKey.get(node));
    const keys = edge
      ? [edge]
      : [...new Set(this.sides.flatMap((side, at) => [...side.touching(boxes[at])].map(one => one.key)))];
    const rows = keys.map(key => this.sides.map(side => side.edges.get(key)));
    const share = row => Math.max(...row.map(one => one?.share ?? 0));
    rows.sort((a, b) => share(b) - share(a));
    const named = things => [...new Set(things.filter(Boolean).map(one => one.name))].join(" | ");
    const cells = rows.slice(0, LISTED).map(row =>
      make("tr", {}, make("td", {class: "name"}, this.edgeButton(named(row), row)), ...row.flatMap(numbersOf)),
    );
    const heads = ["edge", ...this.names.flatMap(name => [name, "rank"])];
    const rest = rows.length - cells.length;
    return [
      make("h3", {}, named(edge ? rows[0] : boxes)),
      make(
        "div",
        {class: "scroll"},
        make(
          "table",
          {},
          make("thead", {}, make("tr", {}, ...heads.map((head, at) => make("th", {class: at ? "n" : ""}, head)))),
          make("tbody", {}, ...cells),
        ),
      ),
      make("p", {}, rest > 0 ? `and ${rest.toLocaleString("en")} weaker ones` : ""),
    ];
  }

  edgeButton(name, row) {
    const {key} = row.find(Boolean);
    return make("button", {type: "button", onclick: () => this.state.set({...NOTHING, edge: key})}, name);
  }

  // Diagrams of one shape stand on the same places, and are moved together.
  follow(side) {
    const {view} = this.other(side),
      {x, y, k} = side.view.transform,
      own = view.transform;
    if (side.view.moved && side === this.sides[0]) {
      this.state.values.at = [x, y, k].map(value => Number(value.toFixed(3)));
      this.state.remember();
    }
    if (!this.linked || !view.width || !side.view.moved || (own.x === x && own.y === y && own.k === k)) return;
    view.go([x, y, k]);
  }
}

// Score with its standard error, and rank, of an edge; dashes where a circuit has it not.
function numbersOf(edge) {
  const error = edge?.std_err == null ? "" : ` \u00b1 ${number(edge.std_err)}`;
  const score = edge ? `${number(edge.score, true)}${error}` : "\u2013";
  return [
    make("td", {class: `n ${signOf(edge?.score)}`}, score),
    make("td", {class: "n"}, edge ? edge.rank.toLocaleString("en") : "\u2013"),
  ];
}

[...document.querySelectorAll(".pair-data")].forEach((data, index) => {
  const place = data.previousElementSibling;
  place.append(new SideBySide(JSON.parse(data.textContent), index).element);
  place.hidden = false;
  place.parentElement.classList.add("scripted");
});
