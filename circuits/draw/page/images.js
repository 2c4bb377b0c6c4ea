// The chosen image with a head's attention over its patches, from the tokens that are read out or the patch pointed at.

const STRONGEST = [255, 176, 32]; // the heat's colour, as on the page's still pictures

// The pictures stand in the page once, as its still part shows them: per pair the clean image and its partner.
function picturesInPage() {
  return [...document.querySelectorAll(".pair")].map(pair =>
    [...pair.querySelectorAll("figure")].map(figure => ({
      source: figure.querySelector("image").getAttribute("href"),
      said: figure.querySelector("figcaption").textContent,
    })),
  );
}

const ROW_KINDS = {
  pattern: ["attention", "The weights: how the head shares its attention out"],
  score: ["scores", "What enters the softmax: query times key"],
  value_weighted: ["written", "How long what the head writes is because of each patch: weight times value"],
};

class ImageView {
  constructor(attention, circuit, state) {
    this.attention = attention;
    this.circuit = circuit;
    this.state = state;
    this.pictures = picturesInPage();
    this.picture = make("img", {
      alt: "",
      onload: () => this.picture.classList.toggle("crisp", this.picture.naturalWidth < 200),
    });
    this.heat = make("canvas", {
      "aria-hidden": "true",
      onpointermove: event => this.point(event),
      onpointerleave: () => this.state.set({token: -1}),
      onclick: () => this.open(),
    });
    this.said = make("p", {class: "at", role: "status"});
    this.tokens = make("div", {class: "tokens"});
    this.choices = this.pictures.map(([clean], pair) =>
      make(
        "button",
        {type: "button", title: clean.said, onclick: () => state.set({pair, token: -1})},
        make("img", {src: clean.source, alt: clean.said}),
      ),
    );
    this.kinds = make("div", {class: "same kinds"});
    this.caption = make("p", {class: "at"});
    this.element = make(
      "div",
      {class: "image"},
      make("div", {class: "choices"}, ...this.choices),
      make("div", {class: "shot"}, this.picture, this.heat),
      this.tokens,
      this.said,
      this.kinds,
      this.caption,
    );
    for (let at = 0; at < attention.n_prefix; at++)
      this.tokens.append(
        make(
          "button",
          {
            type: "button",
            onpointerenter: () => this.ask(at),
            onfocus: () => this.ask(at),
            onclick: () => this.open(),
            onpointerleave: () => this.state.set({token: -1}),
            onblur: () => this.state.set({token: -1}),
          },
          attention.tokens[at],
        ),
      );
  }

  ask(token) {
    this.state.set({token});
  }

  point(event) {
    const box = this.heat.getBoundingClientRect(),
      [rows, columns] = this.attention.grid;
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows),
      column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    if (row >= 0 && row < rows && column >= 0 && column < columns)
      this.ask(this.attention.n_prefix + row * columns + column);
  }

  // Chooses the lane of the token that is pointed at, where lanes are places on the image.
  open() {
    const {token, place} = this.state.values,
      group = this.attention.places?.[token];
    if (group) this.state.set({...NOTHING, place: group === place ? "" : group});
  }

  // What attention is told by: of what is in the state, what is known.
  get kind() {
    const {kind} = this.state.values;
    return this.attention.gathered.has(kind) ? kind : "pattern";
  }

  // The chosen head by every kind, side by side.
  showKinds(head) {
    const kinds = head ? [...this.attention.gathered.keys()] : [];
    const choice = kind =>
      make(
        "button",
        {
          type: "button",
          title: ROW_KINDS[kind][1],
          "aria-pressed": String(kind === this.kind),
          onclick: () => this.state.set({kind, token: -1}),
        },
        this.thumbnail(head, kind),
        make("span", {}, ROW_KINDS[kind][0]),
      );
    this.kinds.replaceChildren(...(kinds.length > 1 ? kinds.map(choice) : []));
  }

  update(head, drawn) {
    const {pair, token, place} = this.state.values,
      shown = this.pictures[pair] ? pair : 0,
      {attention} = this;
    const [clean, partner] = this.pictures[shown],
      {kind} = this,
      asks = head && attention.asks(shown, head, kind);
    if (token < 0) this.showKinds(head);
    this.choices.forEach((choice, at) => choice.setAttribute("aria-pressed", at === shown));
    this.picture.setAttribute("src", clean.source);
    this.picture.setAttribute("alt", clean.said);
    this.caption.textContent = `${clean.said}; ${partner.said}`;
    this.tokens.hidden = !asks && !attention.places;
    if (head) {
      const weights = attention.onPatches(attention.weights(shown, head, token, kind));
      this.paint(weights, asks ? [token] : []);
      this.said.textContent = this.says(shown, head, token, weights);
    } else if (attention.places) {
      const here = attention.places.map((group, at) => (group === place ? at : -1));
      this.paint(attention.onPatches(attention.carried(this.circuit, drawn)), token < 0 ? here : [token, ...here]);
      this.said.textContent = this.saysPlace(attention.places[token] ?? place, drawn);
    } else {
      this.paint(null, []);
      this.said.textContent = "Choose a head to see where it looks.";
    }
  }

  saysPlace(group, drawn) {
    if (!group)
      return "What the drawn edges carry at each place, by |score|. Click a place to see its edges, or a head to see where it looks.";
    const n = drawn.filter(edge => this.circuit.groups(edge).includes(group)).length;
    return `${n} drawn edges touch ${group}.`;
  }

  says(pair, head, token, weights) {
    const {kind} = this,
      asks = this.attention.asks(pair, head, kind),
      pool = this.attention.tokens.at(-1) === "pool" && head.layer === this.attention.heads.length - 1;
    const from =
      asks && token >= 0
        ? this.attention.tokens[token]
        : pool
          ? "the pool"
          : this.attention.has_cls
            ? "CLS"
            : "all tokens, averaged";
    if (kind === "score")
      return `${head.node} from ${from}: scores of patches from ${number(Math.min(...weights))} to ${number(Math.max(...weights))}, before the softmax.`;
    if (kind === "value_weighted")
      return `${head.node} from ${from}: length of what it writes because of each patch, at most ${number(Math.max(...weights))}.`;
    const share = weights.reduce((sum, weight) => sum + weight, 0);
    const more = asks
      ? " Point at a patch to see where it looks."
      : this.attention.full.size
        ? " Full patterns are kept for the circuit\u2019s heads over the first image."
        : "";
    return `${head.node} from ${from}: ${Math.round(100 * Math.min(1, share))}% of its attention is on patches.${token >= 0 && asks ? "" : more}`;
  }

  // Heat over the patches, their grid, and a frame around some tokens.
  paint(weights, framed) {
    const [rows, columns] = this.attention.grid,
      cell = Math.max(8, Math.ceil(320 / columns));
    this.heat.width = columns * cell;
    this.heat.height = rows * cell;
    const context = this.heat.getContext("2d");
    if (weights) paintHeat(context, weights, columns, cell);
    context.strokeStyle = "rgba(140,150,165,.5)";
    context.lineWidth = 1;
    context.beginPath();
    for (let row = 1; row < rows; row++) context.rect(0, row * cell, columns * cell, 0);
    for (let column = 1; column < columns; column++) context.rect(column * cell, 0, 0, rows * cell);
    context.stroke();
    context.strokeStyle = "#e11d48";
    context.lineWidth = 3;
    for (const token of framed) {
      const patch = token - this.attention.n_prefix;
      if (patch >= 0)
        context.strokeRect(
          (patch % columns) * cell + 1.5,
          Math.floor(patch / columns) * cell + 1.5,
          cell - 3,
          cell - 3,
        );
    }
  }

  // A small picture of a head's attention, for lists of heads.
  thumbnail(head, kind = this.kind) {
    const {pair} = this.state.values,
      [rows, columns] = this.attention.grid,
      cell = Math.max(1, Math.round(56 / columns));
    const canvas = make("canvas", {width: columns * cell, height: rows * cell});
    const context = canvas.getContext("2d");
    context.fillStyle = "#1f2530";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const weights = this.attention.weights(Math.min(pair, this.attention.pairs - 1), head, -1, kind);
    paintHeat(context, this.attention.onPatches(weights), columns, cell);
    return canvas;
  }
}

// The strongest patch gets the full colour; what can be negative starts at the weakest.
function paintHeat(context, weights, columns, cell) {
  const low = Math.min(0, ...weights),
    range = Math.max(...weights) - low || 1;
  weights.forEach((weight, at) => {
    context.fillStyle = `rgba(${STRONGEST},${(0.85 * (weight - low)) / range})`;
    context.fillRect((at % columns) * cell, Math.floor(at / columns) * cell, cell, cell);
  });
}
