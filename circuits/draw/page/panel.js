// What is known of the node or the edge that was chosen.

const LISTED = 12;

class Panel {
  constructor(circuit, state, images) {
    this.circuit = circuit;
    this.state = state;
    this.images = images;
    this.element = make("div", {class: "about", "aria-live": "polite"});
  }

  update(drawn) {
    const {node, edge, other} = this.state.values;
    const box = this.circuit.nodes.get(node),
      chosen = this.circuit.named.get(edge);
    if (chosen) this.element.replaceChildren(...this.ofEdge(chosen));
    else if (box) this.element.replaceChildren(...this.ofNode(box, this.circuit.nodes.get(other), drawn));
    else
      this.element.replaceChildren(
        make(
          "p",
          {},
          "Click a node or an edge. Shift and a click on a second node shows the paths between the two; Escape leaves.",
        ),
      );
  }

  ofEdge(edge) {
    const source = this.circuit.boxes[edge.source],
      target = this.circuit.boxes[edge.target];
    const known = [
      [
        edge.exact ? "exact effect" : "score",
        edge.score == null
          ? "none"
          : `${number(edge.score, true)}${edge.std_err == null ? "" : ` \u00b1 ${number(edge.std_err)} (standard error)`}`,
      ],
      ["mean |score|", edge.mean_abs == null ? null : number(edge.mean_abs)],
      ["rank", this.rank(edge)],
      ["it is", edge.exact == null ? null : edge.exact ? "exact: the edge was ablated" : "estimated"],
      ["removed from the circuit", this.circuit.page.removed[edge.name]],
    ];
    return [
      make("h3", {}, edge.name),
      facts(known),
      make("p", {class: "links"}, "From ", this.nodeButton(source), " to ", this.nodeButton(target)),
    ];
  }

  rank({rank, kept}) {
    const {n_circuit, n_graph} = this.circuit.page,
      of = kept ? n_circuit : n_graph;
    return `${rank.toLocaleString("en")} of ${of.toLocaleString("en")}${kept ? "" : ", not in the circuit"}`;
  }

  ofNode(box, other, drawn) {
    const here = new Set(drawn);
    const parts = [make("h3", {}, box.name), make("p", {}, this.says(box)), this.pathChoices(box, other, drawn)];
    if (box.direct)
      parts.push(facts([["straight to the logits", `${number(box.direct[0], true)} \u00b1 ${number(box.direct[1])}`]]));
    parts.push(
      ...this.list(
        "Reads",
        box.reads.filter(edge => here.has(edge)),
      ),
      ...this.list(
        "Is read by",
        box.writes.filter(edge => here.has(edge)),
      ),
    );
    if (box.layer >= 0 && box.kind !== "mlp") parts.push(...this.sameLayer(box, here));
    return parts;
  }

  says(box) {
    const where = box.group ? `, at ${box.group}` : "";
    const words = {
      head: `Head ${box.head} of layer ${box.layer}`,
      mlp: `The MLP of layer ${box.layer}`,
      attention: `The heads of layer ${box.layer}`,
      input: "The residual stream before the first layer",
      logits: "What is read out",
    };
    return `${words[box.kind]}${where}.`;
  }

  // Buttons for a pointer, and a list of nodes for fingers and keys.
  pathChoices(box, other, drawn) {
    const {paths} = this.state.values;
    const through = () => this.state.set({paths: !paths, other: ""});
    const button = make(
      "button",
      {type: "button", "aria-pressed": String(paths), onclick: through},
      "All paths through it",
    );
    const touched = new Set(drawn.flatMap(edge => [edge.source, edge.target]));
    const names = this.circuit.boxes.filter((one, at) => touched.has(at) && one !== box).map(one => one.name);
    const to = event => this.state.set({other: event.target.value, paths: false});
    const options = names.map(name => make("option", {value: name, selected: name === other?.name}, name));
    const choices = [make("option", {value: ""}, "Paths to \u2026"), ...options];
    const select = make("select", {"aria-label": "Paths to another node", onchange: to}, ...choices);
    const said = other ? make("p", {}, `Paths between ${box.name} and ${other.name} are lit.`) : null;
    return make("div", {class: "links"}, button, " ", select, said);
  }

  list(heading, edges) {
    const strongest = [...edges].sort((a, b) => b.share - a.share || a.rank - b.rank),
      rest = strongest.length - LISTED;
    const rows = strongest.slice(0, LISTED).map(edge => make("li", {}, this.edgeButton(edge)));
    if (rest > 0) rows.push(make("li", {}, `and ${rest.toLocaleString("en")} more`));
    return [make("h4", {}, `${heading} (${edges.length.toLocaleString("en")})`), make("ul", {class: "edges"}, ...rows)];
  }

  sameLayer(box, here) {
    const alike = one => one.kind === "head" && one.layer === box.layer && one.group === box.group;
    const placed = new Map(this.circuit.boxes.filter(alike).map(one => [one.head, one]));
    const n = this.images?.attention.heads[box.layer] ?? 0; // of which a map places only those that it uses
    for (let head = 0; head < n; head++) {
      const bare = {layer: box.layer, head, node: `a${box.layer}.h${head}`, label: "", reads: [], writes: []};
      if (!placed.has(head)) placed.set(head, bare);
    }
    const same = [...placed.values()].sort((a, b) => a.head - b.head);
    const cells = same.map(one => {
      const n = [...one.reads, ...one.writes].filter(edge => here.has(edge)).length;
      const attention = this.images ? this.images.thumbnail(one) : null;
      return make(
        "button",
        {type: "button", "aria-pressed": String(one === box), disabled: !one.label, onclick: () => this.open(one.name)},
        attention,
        make("span", {}, one.node),
        make("small", {}, n ? `${n} edges` : "unused"),
      );
    });
    return [make("h4", {}, `Heads of layer ${box.layer}`), make("div", {class: "same"}, ...cells)];
  }

  nodeButton(box) {
    return make("button", {type: "button", onclick: () => this.open(box.name)}, box.name);
  }

  edgeButton(edge) {
    const score = make("span", {class: signOf(edge.score)}, number(edge.score, true));
    return make(
      "button",
      {type: "button", onclick: () => this.state.set({...NOTHING, edge: edge.name})},
      make("span", {}, edge.name),
      score,
    );
  }

  open(node) {
    this.state.set({...NOTHING, node});
  }
}

function facts(pairs) {
  const known = pairs.filter(([, value]) => value != null);
  return make("dl", {}, ...known.flatMap(([label, value]) => [make("dt", {}, label), make("dd", {}, value)]));
}
