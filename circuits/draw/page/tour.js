// The tour: an image to point at, every head in a grid of layers, and the chosen heads side by side in every kind.

const KINDS = {pattern: "pattern", score: "score", value_weighted: "value-weighted", rollout: "rollout"};
const CELL = 64; // pixels of a map in the grid
const CARD = 240; // pixels of a map side by side

class Pictures {
  constructor() {
    this.figures = [...document.querySelectorAll(".pictures figure")].map(figure => ({
      image: figure.querySelector("img"),
      name: figure.querySelector("b").textContent,
      answer: figure.querySelector("span").textContent,
    }));
    this.made = new Map();
  }

  get shape() {
    const {naturalWidth, naturalHeight} = this.figures[0].image;
    return naturalHeight / naturalWidth;
  }

  ready() {
    return Promise.all(this.figures.map(({image}) => image.decode()));
  }

  // A picture, or the mean of all, as wide as asked for; dim and grey under maps.
  canvas(place, width, dim) {
    const key = `${place}/${width}/${dim}`;
    if (!this.made.has(key)) {
      const canvas = make("canvas", {width, height: Math.round(width * this.shape)}),
        context = canvas.getContext("2d");
      const shown = place === MEAN ? this.figures : [this.figures[place]];
      context.imageSmoothingEnabled = shown[0].image.naturalWidth > width;
      shown.forEach(({image}, at) => {
        context.globalAlpha = 1 / (at + 1); // the mean of those so far
        context.drawImage(image, 0, 0, canvas.width, canvas.height);
      });
      context.globalAlpha = 1;
      if (dim) darken(context);
      this.made.set(key, canvas);
    }
    return this.made.get(key);
  }
}

function darken(context) {
  const {width, height} = context.canvas,
    pixels = context.getImageData(0, 0, width, height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const grey = (pixels.data[at] + pixels.data[at + 1] + pixels.data[at + 2]) / 3;
    pixels.data.fill(30 + 0.5 * grey, at, at + 3);
  }
  context.putImageData(pixels, 0, 0);
}

class Tour {
  constructor(page, pictures) {
    this.maps = new HeadMaps(page);
    this.pictures = pictures;
    this.hover = null;
    this.state = new State(page.title, {pair: 0, token: READOUT, kind: page.kind, heads: page.chosen.join(",")});
    this.looks = this.makeLook();
    this.grid = make("div", {class: "every"});
    this.cards = make("div", {class: "chosen"});
    const kinds = Object.entries(KINDS).map(([kind, said]) => this.kindButton(kind, said));
    const bar = make(
      "div",
      {class: "bar"},
      ...kinds,
      this.button("Choose none", () => this.choose([])),
    );
    const work = make("div", {class: "work"}, this.grid, this.cards);
    this.element = make("div", {class: "tourists"}, this.looks, make("div", {}, bar, work));
    this.state.on(changed => this.update(changed));
  }

  show(place) {
    place.append(this.element);
    place.hidden = false;
    this.update(new Set(["kind", "heads"]));
    this.state.fromHash(location.hash);
    addEventListener("hashchange", () => this.state.fromHash(location.hash));
  }

  button(label, onclick, more = {}) {
    return make("button", {type: "button", onclick, ...more}, label);
  }

  kindButton(kind, said) {
    const button = this.button(said, () => this.state.set({kind}));
    this.kinds = {...this.kinds, [kind]: button};
    return button;
  }

  makeLook() {
    const {maps, pictures} = this;
    this.choices = pictures.figures.map(({image, name}, pair) =>
      make(
        "button",
        {type: "button", title: name, onclick: () => this.state.set({pair})},
        make("img", {src: image.getAttribute("src"), alt: name}),
      ),
    );
    if (maps.images > 1)
      this.choices.push(this.button(`mean of all ${maps.images}`, () => this.state.set({pair: MEAN})));
    this.ask = make("canvas", {
      class: "ask",
      tabindex: 0,
      role: "application",
      "aria-label": "The image: point at a patch, or move over patches with the arrow keys; Escape returns",
      onpointermove: event => event.pointerType === "mouse" && this.point(this.patchAt(event, this.ask)),
      onpointerleave: () => this.point(null),
      onclick: event => this.pin(this.patchAt(event, this.ask)),
      onkeydown: event => this.step(event),
    });
    const skipped = maps.only_cls ? 1 : 0; // CLS alone is what is read out
    const chips = maps.tokens.slice(skipped, maps.n_prefix).map((name, at) => [name, at + skipped]);
    this.chips = [[maps.chip, READOUT], ...chips].map(([name, token]) => [
      token,
      this.button(name, () => this.state.set({token})),
    ]);
    this.said = make("p", {class: "at", role: "status"});
    this.answer = make("p", {class: "at answer"});
    const tokens = make("div", {class: "tokens"}, ...this.chips.map(([, chip]) => chip));
    return make(
      "div",
      {class: "look"},
      make("div", {class: "choices"}, ...this.choices),
      this.ask,
      tokens,
      this.said,
      this.answer,
    );
  }

  // The token of the patch under a pointer; none in videos, where a place is many tokens.
  patchAt(event, canvas) {
    const box = canvas.getBoundingClientRect(),
      [rows, columns] = this.maps.grid;
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows),
      column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    const inside = row >= 0 && row < rows && column >= 0 && column < columns && this.maps.frames === 1;
    return inside ? this.maps.n_prefix + row * columns + column : null;
  }

  point(token) {
    if (token === this.hover) return;
    this.hover = token;
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this.paint();
    });
  }

  pin(token) {
    if (token === null) return;
    this.hover = null;
    this.state.set({token: token === this.state.values.token ? READOUT : token});
  }

  step(event) {
    const [rows, columns] = this.maps.grid,
      patch = this.state.values.token - this.maps.n_prefix;
    const by = {ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0]}[event.key];
    if (event.key === "Escape") this.state.set({token: READOUT});
    if (!by || this.maps.frames > 1) return;
    event.preventDefault();
    const [row, column] =
      patch < 0 ? [rows >> 1, columns >> 1] : [Math.floor(patch / columns) + by[0], (patch % columns) + by[1]];
    const within = (value, most) => Math.max(0, Math.min(most - 1, value));
    this.state.set({token: this.maps.n_prefix + within(row, rows) * columns + within(column, columns)});
  }

  get chosen() {
    return this.state.values.heads
      .split(",")
      .map(name => this.maps.named.get(name))
      .filter(Boolean);
  }

  choose(names) {
    this.state.set({heads: names.join(",")});
  }

  toggle(names) {
    const chosen = this.chosen.map(head => head.name),
      all = names.every(name => chosen.includes(name));
    this.choose(all ? chosen.filter(name => !names.includes(name)) : [...new Set([...chosen, ...names])]);
  }

  update(changed) {
    const {values} = this.state;
    values.pair = values.pair < this.maps.images && values.pair >= MEAN ? values.pair : 0;
    values.kind = values.kind in KINDS ? values.kind : "pattern";
    values.token = values.token < this.maps.tokens.length && values.token >= READOUT ? values.token : READOUT;
    if (changed.has("kind")) this.makeGrid();
    if (changed.has("heads")) this.makeCards();
    const pressed = (button, on) => button.setAttribute("aria-pressed", on);
    Object.entries(this.kinds).forEach(([kind, button]) => pressed(button, kind === values.kind));
    this.choices.forEach((choice, at) =>
      pressed(choice, at === (values.pair === MEAN ? this.maps.images : values.pair)),
    );
    this.chips.forEach(([token, chip]) => pressed(chip, token === values.token));
    this.paint();
    this.remember();
  }

  // Rows are layers; of rollout there is one map for each.
  makeGrid() {
    const rollout = this.state.values.kind === "rollout";
    const canvas = () => make("canvas", {width: CELL, height: Math.round(CELL * this.pictures.shape)});
    this.cells = [];
    const rows = Array.from({length: this.maps.layers}, (_, layer) => {
      const heads = this.maps.heads.filter(head => head.layer === layer);
      const names = heads.map(head => head.name);
      const cells = (rollout ? heads.slice(0, 1) : heads).map(head => {
        const map = canvas(),
          label = rollout ? `rollout@${layer}` : head.name;
        const button = make(
          "button",
          {type: "button", title: label, onclick: () => this.toggle(rollout ? names : [head.name])},
          map,
          label,
        );
        this.cells.push({head, map, button, names: rollout ? names : [head.name]});
        return make("td", {}, button);
      });
      return make(
        "tr",
        {},
        make(
          "th",
          {scope: "row"},
          this.button(`layer ${layer}`, () => this.toggle(names)),
        ),
        ...cells,
      );
    });
    const most = Math.max(...rows.map(row => row.children.length)) - 1;
    this.grid.style.setProperty("--wide", `${most > 8 ? 50 : CELL}px`);
    this.grid.replaceChildren(make("table", {}, make("tbody", {}, ...rows)));
  }

  makeCards() {
    this.sides = [];
    const cards = this.chosen.map(head => {
      const here = make("p", {class: "at here"});
      const figures = Object.entries(KINDS).map(([kind, said]) => {
        const map = make("canvas", {
          width: CARD,
          height: Math.round(CARD * this.pictures.shape),
          onpointermove: event => this.tell(head, this.patchAt(event, map), here),
          onpointerleave: () => (here.textContent = ""),
        });
        const about = make("span");
        this.sides.push({head, kind, map, about});
        const name = kind === "rollout" ? `rollout@${head.layer}` : said;
        return make("figure", {}, map, make("figcaption", {}, make("b", {}, name), make("br"), about));
      });
      return make("div", {class: "card"}, make("h3", {}, head.name), make("div", {class: "sides"}, ...figures), here);
    });
    this.cards.replaceChildren(...(cards.length ? cards : [make("p", {}, "Choose heads to see them side by side.")]));
  }

  // What a head gives to the patch under the pointer, in every kind.
  tell(head, token, here) {
    if (token === null) return;
    const told = Object.entries(KINDS).map(([kind, said]) => {
      return `${said} ${amount(this.maps.row(kind, this.state.values.pair, head, this.token).values[token])}`;
    });
    here.textContent = `${this.maps.tokens[token]}: ${told.join(", ")}`;
  }

  get token() {
    return this.hover ?? this.state.values.token;
  }

  paint() {
    const {maps, pictures, token} = this,
      {pair, kind} = this.state.values,
      chosen = new Set(this.chosen);
    this.paintImage();
    let asked = 0;
    for (const {head, map, button, names} of this.cells) {
      const found = maps.row(kind, pair, head, token);
      paintMap(map, pictures.canvas(pair, CELL, true), maps.onPatches(found.values), maps.grid, kind);
      button.classList.toggle("unasked", !found.asked);
      button.setAttribute(
        "aria-pressed",
        names.every(name => chosen.has(maps.named.get(name))),
      );
      asked += found.asked;
    }
    for (const {head, kind: own, map, about} of this.sides) {
      const found = maps.row(own, pair, head, token);
      paintMap(map, pictures.canvas(pair, CARD, true), maps.onPatches(found.values), maps.grid, own);
      map.parentElement.classList.toggle("unasked", !found.asked);
      about.textContent = this.about(own, found);
    }
    const from = token === READOUT ? maps.looker : maps.tokens[token];
    const less =
      asked < this.cells.length
        ? ` Kept for ${asked} of ${this.cells.length} maps; the pale ones are from ${maps.looker}.`
        : "";
    this.said.textContent = `From ${from}.${less}`;
    const shown = pictures.figures[pair];
    this.answer.textContent = shown ? `${shown.name}: ${shown.answer}` : `Mean of ${maps.images} images`;
  }

  about(kind, {values, asked, n}) {
    if (!asked) return `only kept from ${this.maps.looker}`;
    const best = this.maps.strongest(values, 2).map(([name, value]) => `${name} ${amount(value)}`);
    const shares = kind === "pattern" || kind === "rollout";
    const patches =
      this.maps.n_prefix && shares
        ? `${Math.round(100 * this.maps.onPatches(values).reduce((a, b) => a + b, 0))}% on patches; `
        : "";
    const mean = n > 1 ? `mean of ${n}; ` : "";
    return `${mean}${patches}most ${best.join(", ")}`;
  }

  // The picture, its patches, and a frame around the one that looks.
  paintImage() {
    const {pair} = this.state.values,
      [rows, columns] = this.maps.grid,
      width = Math.max(640, columns * 16);
    const picture = this.pictures.canvas(pair, width, false);
    this.ask.width = picture.width;
    this.ask.height = picture.height;
    const context = this.ask.getContext("2d"),
      wide = picture.width / columns,
      high = picture.height / rows;
    context.drawImage(picture, 0, 0);
    context.strokeStyle = "rgba(140,150,165,.55)";
    context.beginPath();
    for (let row = 1; row < rows; row++) context.rect(0, row * high, picture.width, 0);
    for (let column = 1; column < columns; column++) context.rect(column * wide, 0, 0, picture.height);
    context.stroke();
    const patch = this.token - this.maps.n_prefix;
    if (patch < 0) return;
    context.strokeStyle = "#e11d48";
    context.lineWidth = 5;
    context.strokeRect((patch % columns) * wide + 1, Math.floor(patch / columns) * high + 1, wide - 2, high - 2);
  }

  // Writes what is chosen into the address; not where a page may not, such as in a frame of a notebook.
  remember() {
    clearTimeout(this.remembering);
    this.remembering = setTimeout(() => {
      try {
        history.replaceState(null, "", this.state.toHash());
      } catch (error) {
        if (error.name !== "SecurityError") throw error;
      }
    }, 150);
  }
}

function amount(value) {
  return Number.isFinite(value) ? number(value) : "forbidden";
}

const pictures = new Pictures();
pictures.ready().then(() => {
  const tour = new Tour(readPage(), pictures);
  document.documentElement.classList.add("scripted");
  tour.show(document.getElementById("tour"));
});
