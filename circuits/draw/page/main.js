// Puts the parts together: a change of state is told to those that show it.

const READABLE = 200; // edges; more are shown when the slider asks for them

class Explorer {
  constructor(page) {
    this.circuit = new Circuit(page);
    this.state = new State(page.title, {n: Math.min(this.circuit.size, READABLE)});
    this.images =
      page.images && document.querySelector(".pair")
        ? new ImageView(new Attention(page.images), this.circuit, this.state)
        : null;
    this.effects =
      page.effects && document.querySelector(".pair")
        ? new EffectsView(page.effects, picturesInPage(), this.state)
        : null;
    this.view = new View(this.circuit.layout, pen => drawDiagram(pen, this.circuit, this.look));
    this.view.onsettle = () => this.remember();
    this.images?.picture.addEventListener("load", () => this.view.redraw());
    this.panel = new Panel(this.circuit, this.state, this.images);
    const curve = page.curves ? new CurveView(page.curves, page.n_graph) : null;
    this.size = new SizeSlider(this.circuit.total, this.state, {
      missing: this.circuit.missing,
      curve,
      own: this.circuit.size,
    });
    this.table = new EdgeTable(this.circuit, this.state);
    this.search = searchField(this.state);
    this.pointer = new Pointer(this.view, this.circuit, {
      look: () => this.look,
      chosen: () => this.circuit.nodes.get(this.state.values.node),
      node: (box, shift) => this.openNode(box, shift),
      edge: edge => this.state.set({...NOTHING, edge: edge.name}),
      paths: box => this.state.set({...NOTHING, node: box.name, paths: !this.state.values.paths}),
      place: group => this.openPlace(group),
      nothing: () => this.state.set(NOTHING),
    });
    this.inks = readInks();
    this.listen();
  }

  show(place, tablePlace) {
    const side = make("div", {class: "side"}, this.images?.element, this.effects?.element, this.panel.element);
    place.append(
      this.bar(),
      make("div", {class: "stage"}, make("div", {class: "left"}, this.view.frame, this.size.element), side),
    );
    place.hidden = false;
    tablePlace.replaceChildren(this.table.element);
    this.update(new Set(Object.keys(this.state.values)));
    this.state.fromHash(location.hash);
  }

  bar() {
    const button = (label, onclick, title) => make("button", {type: "button", onclick, title}, label);
    this.colours = make(
      "select",
      {"aria-label": "Colours", onchange: () => this.state.set({colours: this.colours.value})},
      make("option", {value: "signed"}, "signed: blue helps, orange hurts"),
      make("option", {value: "absolute"}, "absolute: one colour, by |score|"),
    );
    this.message = make("span", {class: "said", role: "status"});
    const zoom = make(
      "span",
      {class: "group"},
      button("\u2212", () => this.view.by(1 / 1.4), "Smaller"),
      button("+", () => this.view.by(1.4), "Larger"),
      button("Fit", () => this.fit(), "The whole diagram"),
    );
    const save = make(
      "span",
      {class: "group"},
      button("SVG", () => saveSvg([this], "circuit.svg"), "Save the picture as SVG"),
      button("PNG", () => savePng([this], "circuit.png"), "Save the picture as PNG"),
      ...viewFiles(this.state, this.message),
    );
    return make("div", {class: "bar"}, this.search, this.colours, zoom, save, this.message);
  }

  listen() {
    this.state.on(changed => this.update(changed));
    addEventListener("hashchange", () => this.state.fromHash(location.hash));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
  }

  recolour() {
    this.inks = readInks();
    this.update(new Set(["colours"]));
  }

  update(changed) {
    const has = (...keys) => keys.some(key => changed.has(key));
    const {values} = this.state;
    values.n = Math.max(0, Math.min(this.circuit.total, values.n));
    if (has("n")) {
      this.drawn = this.circuit.within(values.n);
      this.size.update(values.n, this.drawn.length);
    }
    if (has("n", "node", "other", "edge", "place", "paths", "colours", "search")) {
      this.look = this.findLook();
      if (has("n") && changed.size === 1 && this.drawn.length > READABLE) this.view.step();
      else this.view.redraw();
    }
    if (has("n", "node", "other", "edge", "place", "paths", "pair", "kind")) this.panel.update(this.drawn);
    if (has("n", "node", "edge", "place", "pair", "token", "kind")) this.images?.update(this.head(), this.drawn);
    if (has("pair", "over")) this.effects?.update();
    if (has("place")) this.view.reveal(this.circuit.lane(values.place));
    if (has("search", "sort", "down", "only", "edge") || (has("n") && values.only === "drawn"))
      this.table.update(this.drawn);
    this.colours.value = values.colours;
    this.search.value = values.search;
    if (has("at")) this.view.open(values.at);
    if (!(changed.size === 1 && changed.has("token"))) this.remember();
  }

  // The head whose attention is shown: the chosen one, or the one that the chosen edge reads or writes.
  head() {
    const {node, edge} = this.state.values,
      chosen = this.circuit.named.get(edge);
    const boxes = chosen
      ? [this.circuit.boxes[chosen.target], this.circuit.boxes[chosen.source]]
      : [this.circuit.nodes.get(node)];
    return boxes.find(box => box?.kind === "head");
  }

  findLook() {
    const {node, other, edge, place, paths, colours, search} = this.state.values,
      {circuit, drawn} = this;
    const box = circuit.nodes.get(node),
      second = circuit.nodes.get(other),
      chosen = circuit.named.get(edge);
    let lit = null;
    if (box && second) lit = circuit.between(drawn, box, second);
    else if (box && paths) lit = circuit.through(drawn, box);
    else if (box) lit = new Set([...box.reads, ...box.writes]);
    else if (chosen) lit = new Set([chosen]);
    else if (place) lit = new Set(drawn.filter(one => circuit.groups(one).includes(place)));
    else if (search.trim()) lit = new Set(drawn.filter(one => holds(one.name, search)));
    const marked = search.trim() ? [...circuit.nodes.keys()].filter(name => holds(name, search)) : [];
    return makeLook(circuit, drawn, {
      lit,
      colours,
      place,
      picture: this.images?.picture,
      inks: this.inks,
      chosen: [node, other].filter(Boolean),
      marked: new Set(marked),
    });
  }

  openNode(box, shift) {
    const {node} = this.state.values;
    if (shift && node && node !== box.name) this.state.set({other: box.name, paths: false});
    else this.panel.open(box.name);
  }

  openPlace(group) {
    this.state.set({...NOTHING, place: group === this.state.values.place ? "" : group});
  }

  fit() {
    this.view.fit();
    this.view.moved = true;
    this.remember();
  }

  remember() {
    const {x, y, k} = this.view.transform;
    if (this.view.moved) this.state.values.at = [x, y, k].map(value => Number(value.toFixed(3)));
    this.state.remember();
  }
}

const explorer = new Explorer(readPage());
document.documentElement.classList.add("scripted");
explorer.show(document.getElementById("explorer"), document.getElementById("edge-table"));
