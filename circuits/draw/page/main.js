// Puts the parts together: a change of state is told to those that show it.

const READABLE = 200; // edges; more are shown when the slider asks for them

class Explorer {
  constructor(page) {
    this.circuit = new Circuit(page);
    this.state = new State(page.title, {n: Math.min(this.circuit.size, READABLE)});
    this.images = page.images && document.querySelector(".pair") ? new ImageView(new Attention(page.images), this.circuit, this.state) : null;
    this.view = new View(this.circuit.layout, pen => drawDiagram(pen, this.circuit, this.look));
    this.view.onmove = () => this.point();
    this.view.onsettle = () => this.remember();
    this.panel = new Panel(this.circuit, this.state, this.images);
    this.size = new SizeSlider(this.circuit, this.state);
    this.table = new EdgeTable(this.circuit, this.state);
    this.search = searchField(this.state);
    this.tip = make("div", {class: "tip", role: "status", hidden: true});
    this.inks = readInks();
    this.listen();
  }

  show(place, tablePlace) {
    this.view.frame.append(this.tip);
    const side = make("div", {class: "side"}, this.images?.element, this.panel.element);
    place.append(this.bar(), make("div", {class: "stage"}, make("div", {class: "left"}, this.view.frame, this.size.element), side));
    place.hidden = false;
    tablePlace.replaceChildren(this.table.element);
    this.update(new Set(Object.keys(this.state.values)));
    this.state.fromHash(location.hash);
  }

  bar() {
    const button = (label, onclick, title) => make("button", {type: "button", onclick, title}, label);
    this.colours = make("select", {"aria-label": "Colours", onchange: () => this.state.set({colours: this.colours.value})}, make("option", {value: "signed"}, "signed: blue helps, orange hurts"), make("option", {value: "absolute"}, "absolute: one colour, by |score|"));
    this.message = make("span", {class: "said", role: "status"});
    const file = make("input", {type: "file", accept: ".json", hidden: true, "aria-label": "Open a view", onchange: event => this.openFile(event.target)});
    const zoom = make("span", {class: "group"}, button("\u2212", () => this.view.by(1 / 1.4), "Smaller"), button("+", () => this.view.by(1.4), "Larger"), button("Fit", () => this.fit(), "The whole diagram"));
    const save = make("span", {class: "group"}, button("SVG", () => this.saveSvg(), "Save the picture as SVG"), button("PNG", () => this.savePng(), "Save the picture as PNG"), button("View as JSON", () => saveAs(new Blob([this.state.toFile()], {type: "application/json"}), "view.json")), button("Open view", () => file.click()), file);
    return make("div", {class: "bar"}, this.search, this.colours, zoom, save, this.message);
  }

  listen() {
    const top = this.view.top;
    top.addEventListener("pointermove", event => this.hover(event));
    top.addEventListener("pointerleave", () => this.setPointed(null));
    top.addEventListener("click", event => this.click(event));
    top.addEventListener("keydown", event => this.key(event));
    top.addEventListener("blur", () => this.setPointed(null));
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
    values.n = Math.max(0, Math.min(this.circuit.size, values.n));
    if (has("n")) {
      this.drawn = this.circuit.within(values.n);
      this.size.update(values.n, this.drawn.length);
    }
    if (has("n", "node", "other", "edge", "place", "paths", "colours", "search")) {
      this.look = this.makeLook();
      this.view.redraw();
    }
    if (has("n", "node", "other", "edge", "place", "paths", "pair")) this.panel.update(this.drawn);
    if (has("n", "node", "edge", "place", "pair", "token")) this.images?.update(this.head(), this.drawn);
    if (has("place")) this.view.reveal(this.circuit.lane(values.place));
    if (has("search", "sort", "down", "only", "edge") || (has("n") && values.only === "drawn")) this.table.update(this.drawn);
    this.colours.value = values.colours;
    this.search.value = values.search;
    if (has("at")) this.view.open(values.at);
    if (!(changed.size === 1 && changed.has("token"))) this.remember();
  }

  // The head whose attention is shown: the chosen one, or the one that the chosen edge reads or writes.
  head() {
    const {node, edge} = this.state.values, chosen = this.circuit.named.get(edge);
    const boxes = chosen ? [this.circuit.boxes[chosen.target], this.circuit.boxes[chosen.source]] : [this.circuit.nodes.get(node)];
    return boxes.find(box => box?.kind === "head");
  }

  makeLook() {
    const {node, other, edge, place, paths, colours, search} = this.state.values, {circuit, drawn} = this;
    const box = circuit.nodes.get(node), second = circuit.nodes.get(other), chosen = circuit.named.get(edge);
    let lit = null;
    if (box && second) lit = circuit.between(drawn, box, second);
    else if (box && paths) lit = circuit.through(drawn, box);
    else if (box) lit = new Set([...box.reads, ...box.writes]);
    else if (chosen) lit = new Set([chosen]);
    else if (place) lit = new Set(drawn.filter(one => circuit.groups(one).includes(place)));
    else if (search.trim()) lit = new Set(drawn.filter(one => holds(one.name, search)));
    const ends = drawn.flatMap(one => one.name.split("->"));
    const used = new Set(drawn.flatMap(one => [circuit.boxes[one.source].name, circuit.boxes[one.target].name]));
    const marked = search.trim() ? [...circuit.nodes.keys()].filter(name => holds(name, search)) : [];
    return {drawn, lit, colours, inks: this.inks, font: circuit.layout.font, used, ports: new Set(ends), chosen: [node, other].filter(Boolean), marked: new Set(marked)};
  }

  hover(event) {
    if (event.buttons) return;
    const [x, y] = this.view.inside(event), box = boxAt(this.circuit, x, y);
    this.setPointed(box ?? edgeAt(this.view.base.getContext("2d"), this.drawn, x, y, 4 / this.view.transform.k) ?? null, event);
  }

  setPointed(thing, event) {
    if (event) [this.tipX, this.tipY] = this.view.transform.apply(this.view.inside(event));
    if (thing === this.pointed && !event) return;
    this.pointed = thing;
    this.point();
  }

  // Draws what is pointed at over the diagram, and says what it is.
  point() {
    const {pointed, view} = this, pen = view.width ? view.pen(view.top) : null;
    this.tip.hidden = !pointed;
    if (!pointed || !pen) return;
    const isEdge = "enters" in pointed, look = {...this.look, chosen: isEdge ? [] : [pointed.name], marked: new Set()};
    const edges = isEdge ? [pointed] : this.drawn.filter(edge => this.circuit.boxes[edge.source] === pointed || this.circuit.boxes[edge.target] === pointed);
    for (const edge of edges) drawEdge(pen, edge, look, true, isEdge ? 1.5 : 0.5);
    for (const at of isEdge ? [pointed.source, pointed.target] : []) drawBox(pen, this.circuit.boxes[at], look);
    if (!isEdge) pointed.frame ? drawFrame(pen, pointed, look) : drawBox(pen, pointed, look);
    this.tip.textContent = isEdge ? this.edgeSaid(pointed) : `${pointed.name}: ${edges.length} edges drawn`;
    const left = Math.max(4, Math.min(this.tipX + 14, view.width - this.tip.offsetWidth - 4));
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${Math.max(4, Math.min(this.tipY + 14, view.height - this.tip.offsetHeight - 4))}px`;
  }

  edgeSaid(edge) {
    const error = edge.std_err == null ? "" : ` \u00b1 ${number(edge.std_err)}`;
    const exact = edge.exact ? ", measured exactly" : "", removed = this.circuit.page.removed[edge.name];
    const score = edge.score == null ? "no score" : `score ${number(edge.score, true)}${error}${exact}`;
    return `${edge.name}\n${score}, rank ${edge.rank}${removed ? `\nremoved: ${removed}` : ""}`;
  }

  click(event) {
    this.hover({clientX: event.clientX, clientY: event.clientY, buttons: 0});
    const thing = this.pointed, {node} = this.state.values;
    if (!thing) this.leave();
    else if ("enters" in thing) this.state.set({...NOTHING, edge: thing.name});
    else if (event.shiftKey && node && node !== thing.name) this.state.set({other: thing.name, paths: false});
    else this.panel.open(thing.name);
  }

  leave() {
    this.state.set(NOTHING);
    this.setPointed(null);
  }

  key(event) {
    const nodes = [...this.circuit.nodes.values()].filter(box => this.look.used.has(box.name)).sort((a, b) => a.y - b.y || a.x - b.x);
    const current = this.pointed && !("enters" in this.pointed) ? this.pointed : this.circuit.nodes.get(this.state.values.node);
    if (event.key === "Escape") return this.leave();
    if (event.key === "Enter" && current) return event.shiftKey && this.state.values.node ? this.state.set({other: current.name}) : this.panel.open(current.name);
    if (event.key === "p" && current) return this.state.set({...NOTHING, node: current.name, paths: !this.state.values.paths});
    const next = this.next(event, nodes, current);
    if (!next) return;
    event.preventDefault();
    [this.tipX, this.tipY] = this.view.outside(next.x + next.width / 2, next.y);
    this.setPointed(next);
    this.view.show(next.x, next.y);
  }

  next(event, nodes, current) {
    if (event.key === "Tab") return nodes[nodes.indexOf(current) + (event.shiftKey ? -1 : 1)];
    if (!event.key.startsWith("Arrow")) return null;
    return current ? neighbour(nodes, current, event.key) : nodes.at(-1);
  }

  fit() {
    this.view.fit();
    this.view.moved = true;
    this.remember();
  }

  // Writes what is in view into the address; not where a page may not, such as in a frame of a notebook.
  remember() {
    const {x, y, k} = this.view.transform;
    if (this.view.moved) this.state.values.at = [x, y, k].map(value => Number(value.toFixed(3)));
    clearTimeout(this.remembering);
    this.remembering = setTimeout(() => {
      try {
        history.replaceState(null, "", this.state.toHash());
      } catch (error) {
        if (error.name !== "SecurityError") throw error;
      }
    }, 150);
  }

  drawnAsSvg() {
    const pen = new SvgPen(this.circuit.layout, this.inks.paper);
    drawDiagram(pen, this.circuit, this.look);
    return String(pen);
  }

  saveSvg() {
    saveAs(new Blob([this.drawnAsSvg()], {type: "image/svg+xml"}), "circuit.svg");
  }

  savePng() {
    const {width, height} = this.circuit.layout, factor = Math.min(2, 8000 / Math.max(width, height));
    const canvas = make("canvas", {width: Math.ceil(width * factor), height: Math.ceil(height * factor)}), context = canvas.getContext("2d");
    context.fillStyle = this.inks.paper;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.setTransform(factor, 0, 0, factor, 0, 0);
    drawDiagram(new CanvasPen(context, {left: 0, top: 0, right: width, bottom: height}), this.circuit, this.look);
    canvas.toBlob(blob => saveAs(blob, "circuit.png"));
  }

  async openFile(input) {
    const [file] = input.files;
    if (file) this.message.textContent = this.state.fromFile(await file.text());
    input.value = "";
  }
}

const explorer = new Explorer(readPage());
document.documentElement.classList.add("scripted");
explorer.show(document.getElementById("explorer"), document.getElementById("edge-table"));
