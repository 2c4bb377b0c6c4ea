// The chosen image with a head's attention over its patches, from the tokens that are read out or the patch pointed at.

const STRONGEST = [255, 176, 32]; // the heat's colour, as on the page's still pictures

// The pictures stand in the page once, as its still part shows them: per pair the clean image and its partner.
function picturesInPage() {
  return [...document.querySelectorAll(".pair")].map(pair => [...pair.querySelectorAll("figure")].map(figure => ({
    source: figure.querySelector("image").getAttribute("href"),
    said: figure.querySelector("figcaption").textContent,
  })));
}

class ImageView {
  constructor(attention, state) {
    this.attention = attention;
    this.state = state;
    this.pictures = picturesInPage();
    this.picture = make("img", {alt: ""});
    this.heat = make("canvas", {"aria-hidden": "true", onpointermove: event => this.point(event), onpointerleave: () => this.state.set({token: -1})});
    this.said = make("p", {class: "at", role: "status"});
    this.tokens = make("div", {class: "tokens"});
    this.choices = this.pictures.map(([clean], pair) => make("button", {type: "button", title: clean.said, onclick: () => state.set({pair, token: -1})}, make("img", {src: clean.source, alt: clean.said})));
    this.caption = make("p", {class: "at"});
    this.element = make("div", {class: "image"}, make("div", {class: "choices"}, ...this.choices), make("div", {class: "shot"}, this.picture, this.heat), this.tokens, this.said, this.caption);
    for (let at = 0; at < attention.n_prefix; at++) this.tokens.append(make("button", {type: "button", onpointerenter: () => this.ask(at), onfocus: () => this.ask(at), onpointerleave: () => this.state.set({token: -1}), onblur: () => this.state.set({token: -1})}, attention.tokens[at]));
  }

  ask(token) {
    this.state.set({token});
  }

  point(event) {
    const box = this.heat.getBoundingClientRect(), [rows, columns] = this.attention.grid;
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows), column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    if (row >= 0 && row < rows && column >= 0 && column < columns) this.ask(this.attention.n_prefix + row * columns + column);
  }

  update(head) {
    const {pair, token} = this.state.values, shown = this.pictures[pair] ? pair : 0;
    const [clean, partner] = this.pictures[shown];
    this.choices.forEach((choice, at) => choice.setAttribute("aria-pressed", at === shown));
    this.picture.setAttribute("src", clean.source);
    this.picture.setAttribute("alt", clean.said);
    this.caption.textContent = `${clean.said}; ${partner.said}`;
    this.tokens.hidden = !head || !this.attention.asks(shown, head);
    if (!head) {
      this.paint(null);
      this.said.textContent = "Choose a head to see where it looks.";
      return;
    }
    const weights = this.attention.onPatches(shown, head, token);
    this.paint(weights, this.attention.asks(shown, head) ? token - this.attention.n_prefix : -1);
    this.said.textContent = this.says(shown, head, token, weights);
  }

  says(pair, head, token, weights) {
    const asks = this.attention.asks(pair, head), pool = this.attention.tokens.at(-1) === "pool" && head.layer === this.attention.heads.length - 1;
    const from = asks && token >= 0 ? this.attention.tokens[token] : pool ? "the pool" : this.attention.has_cls ? "CLS" : "all tokens, averaged";
    const share = weights.reduce((sum, weight) => sum + weight, 0);
    const more = asks ? " Point at a patch to see where it looks." : this.attention.full.size ? " Full patterns are kept for the circuit\u2019s heads over the first image." : "";
    return `${head.node} from ${from}: ${Math.round(100 * Math.min(1, share))}% of its attention is on patches.${token >= 0 && asks ? "" : more}`;
  }

  paint(weights, asked = -1) {
    const [rows, columns] = this.attention.grid, cell = Math.max(8, Math.ceil(320 / columns));
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
    if (asked < 0) return;
    context.strokeStyle = "#e11d48";
    context.lineWidth = 3;
    context.strokeRect((asked % columns) * cell + 1.5, Math.floor(asked / columns) * cell + 1.5, cell - 3, cell - 3);
  }

  // A small picture of a head's attention, for lists of heads.
  thumbnail(head) {
    const {pair} = this.state.values, [rows, columns] = this.attention.grid, cell = Math.max(1, Math.round(56 / columns));
    const canvas = make("canvas", {width: columns * cell, height: rows * cell});
    const context = canvas.getContext("2d");
    context.fillStyle = "#1f2530";
    context.fillRect(0, 0, canvas.width, canvas.height);
    paintHeat(context, this.attention.onPatches(Math.min(pair, this.attention.pairs - 1), head, -1), columns, cell);
    return canvas;
  }
}

// The strongest patch gets the full colour.
function paintHeat(context, weights, columns, cell) {
  const largest = Math.max(...weights) || 1;
  weights.forEach((weight, at) => {
    context.fillStyle = `rgba(${STRONGEST},${(0.85 * weight) / largest})`;
    context.fillRect((at % columns) * cell, Math.floor(at / columns) * cell, cell, cell);
  });
}
