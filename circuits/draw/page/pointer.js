// What is under the pointer, or was reached by keys: drawn over the diagram, named beside it, chosen by a click or Enter.

class Pointer {
  // `told`: look() of the diagram, chosen() node, and what to do with a node, an edge, paths through a node, nothing.
  constructor(view, circuit, told) {
    this.view = view;
    this.circuit = circuit;
    this.told = told;
    this.pointed = null;
    this.tip = make("div", {class: "tip", role: "status", hidden: true});
    view.frame.append(this.tip);
    view.onmove = () => this.draw();
    const {top} = view;
    top.addEventListener("pointermove", event => this.hover(event));
    top.addEventListener("pointerleave", () => this.set(null));
    top.addEventListener("blur", () => this.set(null));
    top.addEventListener("click", event => this.click(event));
    top.addEventListener("keydown", event => this.key(event));
  }

  hover(event) {
    if (event.buttons) return;
    const [x, y] = this.view.inside(event),
      box = boxAt(this.circuit, x, y);
    const slack = 4 / this.view.transform.k;
    const edge = box ? null : edgeAt(this.view.base.getContext("2d"), this.told.look().drawn, x, y, slack);
    this.set(box ?? edge ?? cellAt(this.circuit, x, y) ?? null, this.view.outside(x, y));
  }

  set(thing, place) {
    if (thing === this.pointed && !place) return;
    this.pointed = thing;
    if (place) this.place = place;
    this.draw();
  }

  get isEdge() {
    return this.pointed !== null && "enters" in this.pointed;
  }

  draw() {
    const {pointed, view} = this,
      pen = view.width ? view.pen(view.top) : null;
    this.tip.hidden = !pointed;
    if (!pointed || !pen) return;
    if (pointed.cell) this.drawCell(pen, pointed);
    else this.drawThing(pen, pointed);
    const [x, y] = this.place,
      within = (at, most) => `${Math.max(4, Math.min(at + 14, most - 4))}px`;
    this.tip.style.left = within(x, view.width - this.tip.offsetWidth);
    this.tip.style.top = within(y, view.height - this.tip.offsetHeight);
  }

  drawCell(pen, {panel, group}) {
    const {inks, drawn, carried} = this.told.look(),
      heat = carried.get(`${panel.level} ${group}`);
    pen.path(this.circuit.cell(panel, group), {ink: inks.mark, width: 2});
    const n = drawn.filter(edge => this.circuit.groups(edge).includes(group)).length;
    const here = heat ? `${number(heat)} at this level` : "none at this level";
    this.tip.textContent = `${group}, ${panel.title}\n${n} drawn edges touch the place; sum of |score|: ${here}`;
  }

  drawThing(pen, pointed) {
    const {circuit} = this;
    const look = {...this.told.look(), chosen: this.isEdge ? [] : [pointed.name], marked: new Set()};
    const touches = edge => circuit.boxes[edge.source] === pointed || circuit.boxes[edge.target] === pointed;
    const edges = this.isEdge ? [pointed] : look.drawn.filter(touches);
    const boxes = this.isEdge ? [circuit.boxes[pointed.source], circuit.boxes[pointed.target]] : [pointed];
    for (const edge of edges) drawEdge(pen, edge, look, true, this.isEdge ? 1.5 : 0.5);
    for (const box of boxes) box.frame ? drawFrame(pen, box, look) : drawBox(pen, box, look);
    this.tip.textContent = this.isEdge ? this.says(pointed, look) : `${pointed.name}: ${edges.length} edges drawn`;
  }

  says(edge, look) {
    const error = edge.std_err == null ? "" : ` \u00b1 ${number(edge.std_err)}`;
    const removed = this.circuit.page.removed[edge.name],
      what = edge.exact ? "exact effect" : "score";
    const score = edge.score == null ? "no score" : `${what} ${number(edge.score, true)}${error}`;
    const more = [look.says?.(edge), removed && `removed: ${removed}`].filter(Boolean);
    return [edge.name, `${score}, rank ${edge.rank}${edge.kept ? "" : ", not in the circuit"}`, ...more].join("\n");
  }

  click(event) {
    this.hover({clientX: event.clientX, clientY: event.clientY, buttons: 0});
    if (!this.pointed) this.told.nothing();
    else if (this.pointed.cell) this.told.place(this.pointed.group);
    else if (this.isEdge) this.told.edge(this.pointed);
    else this.told.node(this.pointed, event.shiftKey);
  }

  key(event) {
    const current = this.pointed && !this.isEdge && !this.pointed.cell ? this.pointed : this.told.chosen();
    if (event.key === "Escape") {
      this.told.nothing();
      return this.set(null);
    }
    if (event.key === "Enter" && current) return this.told.node(current, event.shiftKey);
    if (event.key === "p" && current) return this.told.paths(current);
    const next = this.next(event, current);
    if (!next) return;
    event.preventDefault();
    this.set(next, this.view.outside(next.x + next.width / 2, next.y));
    this.view.show(next.x, next.y);
  }

  // Tab goes through the nodes that drawn edges touch, row by row, and out at either end; arrows to the nearest.
  next({key, shiftKey}, current) {
    const {used} = this.told.look();
    const nodes = [...this.circuit.nodes.values()]
      .filter(box => used.has(box.name))
      .sort((a, b) => a.y - b.y || a.x - b.x);
    if (key === "Tab") return nodes[nodes.indexOf(current) + (shiftKey ? -1 : 1)];
    if (!key.startsWith("Arrow")) return null;
    return current ? neighbour(nodes, current, key) : nodes.at(-1);
  }
}
