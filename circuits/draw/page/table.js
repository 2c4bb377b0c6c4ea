// The table of edges: sorts by any column, keeps what holds every word that is searched for, opens an edge.

const ROWS = 100; // at first, and more with each request
const COLUMNS = [
  ["rank", "rank", "n"],
  ["name", "edge", "name"],
  ["kind", "ends in", ""],
  ["score", "score", "n"],
  ["std_err", "std. error", "n"],
  ["mean_abs", "mean |score|", "n"],
  ["exact", "", "soft"],
];

// Whether a text holds every word of another, in any case.
function holds(text, words) {
  const said = text.toLowerCase();
  return words
    .toLowerCase()
    .split(/\s+/)
    .every(word => said.includes(word));
}

class EdgeTable {
  constructor(circuit, state) {
    this.circuit = circuit;
    this.state = state;
    this.most = ROWS;
    this.heads = COLUMNS.map(([key, label, kind]) =>
      make(
        "th",
        {class: kind, scope: "col"},
        label ? make("button", {type: "button", onclick: () => this.sort(key)}, label) : "",
      ),
    );
    this.body = make("tbody");
    this.said = make("p", {role: "status"});
    this.more = make("button", {type: "button", onclick: () => this.grow()}, `${ROWS} more rows`);
    const kinds = [...new Set(circuit.edges.map(edge => edge.kind))];
    this.only = make(
      "select",
      {"aria-label": "Which edges", onchange: () => state.set({only: this.only.value})},
      make("option", {value: ""}, "the circuit\u2019s edges"),
      make("option", {value: "drawn"}, "edges in the diagram"),
      ...kinds.map(kind => make("option", {value: kind}, `edges into ${kind}`)),
    );
    this.search = searchField(state);
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...this.heads)), this.body);
    this.element = make(
      "div",
      {class: "edge-table"},
      make("div", {class: "bar"}, this.search, this.only),
      this.said,
      make("div", {class: "scroll"}, table, this.more),
    );
  }

  sort(key) {
    const {sort, down} = this.state.values;
    this.state.set({sort: key, down: sort === key ? !down : key !== "rank" && key !== "name"});
  }

  grow() {
    this.most += ROWS;
    this.fill();
  }

  update(drawn) {
    this.drawn = new Set(drawn);
    this.most = ROWS;
    this.fill();
  }

  fill() {
    const {sort, down, search, only, edge} = this.state.values;
    const wanted = one =>
      holds(one.name, search) &&
      (only === "drawn" ? this.drawn.has(one) : one.kept && (!only || one.kind === only));
    const found = this.circuit.edges
      .filter(wanted)
      .sort((a, b) => (down ? -1 : 1) * compare(a[sort], b[sort]) || a.rank - b.rank);
    this.body.replaceChildren(...found.slice(0, this.most).map(one => this.row(one, one.name === edge)));
    this.search.value = search;
    this.only.value = only;
    this.more.hidden = found.length <= this.most;
    const shown = Math.min(this.most, found.length);
    this.said.textContent = `${shown.toLocaleString("en")} of ${found.length.toLocaleString("en")} edges. Positive scores help the metric, negative ones hurt it.`;
    this.heads.forEach((head, at) => {
      if (COLUMNS[at][0] === sort) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  row(edge, chosen) {
    const cells = {
      rank: edge.rank,
      name: edge.name,
      kind: edge.kind,
      score: number(edge.score, true),
      std_err: number(edge.std_err),
      mean_abs: number(edge.mean_abs),
      exact: edge.exact == null ? "" : edge.exact ? "exact" : "estimated",
    };
    const open = () => this.state.set({...NOTHING, edge: edge.name});
    const name = make("button", {type: "button", onclick: open}, edge.name);
    return make(
      "tr",
      {class: chosen ? "chosen" : null},
      ...COLUMNS.map(([key, , kind]) =>
        make(
          "td",
          {class: key === "score" ? `${kind} ${signOf(edge.score)}` : kind},
          key === "name" ? name : cells[key],
        ),
      ),
    );
  }
}

function compare(a, b) {
  if (a == null || b == null) return (a == null) - (b == null);
  return typeof a === "string" ? a.localeCompare(b, "en", {numeric: true}) : a - b;
}

function searchField(state) {
  return make("input", {
    type: "search",
    placeholder: "search nodes and edges",
    "aria-label": "Search nodes and edges",
    oninput: event => state.set({search: event.target.value}),
  });
}
