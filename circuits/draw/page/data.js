// What Python wrote (circuits/draw/page_data.py), and what follows from it: neighbours, sizes, paths, attention.

function readPage() {
  return JSON.parse(document.getElementById("page-data").textContent);
}

class Circuit {
  constructor(page) {
    this.page = page;
    this.layout = page.layout;
    this.ports = page.ports;
    this.cells = new Map();
    this.boxes = page.boxes.map(box => ({...box, reads: [], writes: []}));
    const columns = Object.entries(page.edges);
    this.edges = page.edges.name.map((_, at) => Object.fromEntries(columns.map(([key, values]) => [key, values[at]])));
    for (const edge of this.edges) {
      edge.extent = extent(edge.path);
      edge.tail = points(edge.path).slice(-4);
      this.boxes[edge.source].writes.push(edge);
      this.boxes[edge.target].reads.push(edge);
    }
    this.nodes = new Map(this.boxes.filter(box => box.label || box.frame).map(box => [box.name, box]));
    this.named = new Map(this.edges.map(edge => [edge.name, edge]));
    this.edges.forEach((edge, at) => (edge.kept = at < page.n_kept));
    this.entered = this.edges
      .map(edge => edge.enters)
      .filter(place => place < page.end)
      .sort((a, b) => a - b);
    this.size = this.entered.filter(place => place <= page.n_circuit).length;
  }

  // Edges on paths from input to logits, beyond the circuit's own too: the slider's largest number.
  get total() {
    return this.entered.length;
  }

  // What no size of this page draws.
  get missing() {
    const {n_circuit, off_paths} = this.page,
      left = n_circuit - off_paths - this.size;
    const off = off_paths ? `; ${off_paths.toLocaleString("en")} lie on no path from input to logits` : "";
    return off + (left ? `; ${left.toLocaleString("en")} weaker ones are not in this page` : "");
  }

  // C(n): the longest prefix of the ranking that leaves at most n edges on paths, weak edges first.
  within(n) {
    const limit = this.entered[n] ?? this.page.end;
    return this.edges.filter(edge => edge.enters < limit).sort((a, b) => a.share - b.share || b.rank - a.rank);
  }

  // Token groups that an edge touches: one, or two where it runs inside a head.
  groups(edge) {
    return [this.boxes[edge.source].group, this.boxes[edge.target].group];
  }

  // Where groups are places on a map: the cell of one on a level.
  cell = (panel, group) => {
    const {layout, cells} = this,
      key = `${panel.level} ${group}`;
    if (!cells.has(key)) {
      const [x, y] = layout.places[group],
        [width, height] = layout.cell.map(size => size / 2),
        lean = layout.lean / 2,
        middle = panel.y + y;
      const corners = [
        [x - width - lean, middle - height],
        [x + width - lean, middle - height],
        [x + width + lean, middle + height],
        [x - width + lean, middle + height],
      ];
      cells.set(key, {corners, path: `M${corners.map(corner => corner.join(" ")).join("L")}Z`});
    }
    return cells.get(key);
  };

  // By level and group, the sum of |score| of the edges that start or end there; nothing for lanes.
  carried(edges) {
    const sums = new Map(),
      {panels} = this.layout;
    if (!panels.length) return sums;
    const at = ({kind, layer, group}) => `${kind === "logits" ? panels.length - 1 : layer + 1} ${group}`;
    for (const edge of edges) {
      for (const key of new Set([at(this.boxes[edge.source]), at(this.boxes[edge.target])]))
        sums.set(key, (sums.get(key) ?? 0) + Math.abs(edge.score ?? 0));
    }
    return sums;
  }

  lane(group) {
    const {places, cell} = this.layout,
      place = places[group];
    if (place) return {x: place[0] - cell[0] / 2, width: cell[0]};
    return group && this.layout.lanes.find(lane => lane.group === group);
  }

  // Nodes of walks that belong to a box: where it reads, where it writes, and for a frame, where the heads in it write.
  places(box) {
    const inside = one => one.kind === "head" && one.layer === box.layer && one.group === box.group;
    const written = box.kind === "attention" ? this.boxes.filter(inside).map(one => one.place) : [box.place];
    return [...written, ...box.reads.map(edge => edge.to), ...box.writes.map(edge => edge.from)];
  }

  // Of the edges given, those on paths through a box.
  through(edges, box) {
    const start = this.places(box);
    const after = this.reached(edges, start, false),
      before = this.reached(edges, start, true);
    return new Set(edges.filter(edge => after.has(edge.from) || before.has(edge.to)));
  }

  // Of the edges given, those on paths from one box to another, whichever comes first.
  between(edges, one, other) {
    for (const [first, last] of [
      [one, other],
      [other, one],
    ]) {
      const after = this.reached(edges, this.places(first), false),
        before = this.reached(edges, this.places(last), true);
      const found = edges.filter(edge => after.has(edge.from) && before.has(edge.to));
      if (found.length) return new Set(found);
    }
    return new Set();
  }

  // Places that walks along these edges lead to from some places, or backwards, that lead to them.
  reached(edges, places, back) {
    const steps = new Map();
    const add = (from, to) => (steps.has(from) ? steps.get(from).push(to) : steps.set(from, [to]));
    const links = [...edges.map(edge => [edge.from, edge.to]), ...this.page.links];
    for (const [from, to] of links) back ? add(to, from) : add(from, to);
    const seen = new Set(places),
      waiting = [...places];
    while (waiting.length) {
      for (const next of steps.get(waiting.pop()) ?? []) {
        if (!seen.has(next)) {
          seen.add(next);
          waiting.push(next);
        }
      }
    }
    return seen;
  }
}

// The numbers of a path's points; Python writes absolute M, C and L only.
function points(path) {
  return path.match(/-?[\d.]+(?:e-?\d+)?/g).map(Number);
}

function extent(path) {
  const numbers = points(path),
    x = numbers.filter((_, at) => at % 2 === 0),
    y = numbers.filter((_, at) => at % 2);
  return {left: Math.min(...x), right: Math.max(...x), top: Math.min(...y), bottom: Math.max(...y)};
}

// Numbers of tokens as Python packs them: bytes per row, and the range of each.
class Rows {
  constructor({shape, data, smallest, largest}) {
    this.shape = shape;
    this.smallest = smallest;
    this.bytes = Uint8Array.from(atob(data), sign => sign.charCodeAt(0));
    this.largest = largest;
  }

  row(...place) {
    const at = place.reduce((sum, index, axis) => sum * this.shape[axis] + index, 0),
      width = this.shape.at(-1);
    const low = this.smallest?.[at] ?? 0,
      scale = (this.largest[at] - low) / 255;
    return Array.from(this.bytes.subarray(at * width, (at + 1) * width), byte => low + byte * scale);
  }
}

class Attention {
  constructor(images) {
    Object.assign(this, images);
    this.gathered = new Map(Object.entries(images.rows).map(([kind, rows]) => [kind, new Rows(rows)]));
    this.full = new Map(Object.entries(images.patterns).map(([name, rows]) => [name, new Rows(rows)]));
  }

  get pairs() {
    return this.gathered.get("pattern").shape[0];
  }

  // Whether a token of a pair's clean image can be asked where it looks.
  asks(pair, head, kind) {
    return kind === "pattern" && this.frames === 1 && pair < (this.full.get(head.node)?.shape[0] ?? 0);
  }

  // What edges carry at each token, where lanes are places on the image: the sum of their |score|.
  carried(circuit, edges) {
    const sums = new Map();
    for (const edge of edges) {
      for (const group of new Set(circuit.groups(edge)))
        sums.set(group, (sums.get(group) ?? 0) + Math.abs(edge.score ?? 0));
    }
    return this.places.map(group => sums.get(group) ?? 0);
  }

  // Weights on all tokens, from a token, or from those that are read out (token -1).
  weights(pair, head, token, kind) {
    if (token >= 0 && this.asks(pair, head, kind)) return this.full.get(head.node).row(pair, token);
    return this.gathered.get(kind).row(pair, head.layer, head.head);
  }

  // Weights of tokens on the patches of the image, frames of a video together, row by row.
  onPatches(weights) {
    const [rows, columns] = this.grid,
      area = rows * columns;
    const cell = place => {
      let sum = 0;
      for (let frame = 0; frame < this.frames; frame++) sum += weights[this.n_prefix + frame * area + place];
      return sum;
    };
    return Array.from({length: area}, (_, place) => cell(place));
  }
}
