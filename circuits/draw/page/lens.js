// What a lens reads at each patch (circuits/draw/lens_page.py wrote it): over the image, and layer by layer where asked.

class Readings {
  constructor(page) {
    Object.assign(this, page);
    const bytes = text => Uint8Array.from(atob(text), sign => sign.charCodeAt(0));
    this.numbers = new Uint16Array(bytes(page.top).buffer);
    this.probable = bytes(page.roots);
  }

  // The highest classes of a token with their probabilities.
  at(layer, image, token) {
    const [, images, tokens, ranks] = this.shape,
      start = ((layer * images + image) * tokens + token) * ranks;
    return Array.from({length: ranks}, (_, rank) => ({
      of: this.numbers[start + rank],
      p: (this.probable[start + rank] / 255) ** 2,
    }));
  }

  patches(layer, image) {
    const [rows, columns] = this.grid;
    return Array.from({length: rows * columns}, (_, place) => this.at(layer, image, this.n_prefix + place)[0]);
  }

  // Class -> colour on an image: those named by most patches over all layers have one of their own.
  palette(image) {
    const counts = new Map();
    for (let layer = 0; layer < this.layers.length; layer++)
      for (const {of} of this.patches(layer, image)) counts.set(of, (counts.get(of) ?? 0) + 1);
    const order = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]).map(([of]) => of);
    return new Map(order.slice(0, this.colours.length).map((of, place) => [of, this.colours[place]]));
  }
}

class LensView {
  constructor(readings, pictures) {
    this.readings = readings;
    this.pictures = pictures;
    this.image = 0;
    this.layer = readings.layers.length - 1;
    this.token = -1;
    this.pinned = false;
    this.signs = readings.emoji.some(Boolean);
    this.faded = false;
    this.element = this.build();
    this.choose({});
  }

  build() {
    const {readings} = this;
    this.choices = this.pictures.map((picture, image) =>
      make("button", {type: "button", title: picture.alt, onclick: () => this.choose({image, token: -1, pinned: false})},
        make("img", {src: picture.src, alt: picture.alt})),
    );
    this.slider = make("input", {
      type: "range", min: 0, max: readings.layers.length - 1, step: 1, "aria-label": "Layer",
      oninput: () => this.choose({layer: Number(this.slider.value)}),
    });
    this.toggles = [
      ["signs", "emoji", readings.emoji.some(Boolean)],
      ["faded", "fade by probability", true],
    ].filter(([, , there]) => there).map(([key, said]) => [
      key,
      make("button", {type: "button", onclick: () => this.choose({[key]: !this[key]})}, said),
    ]);
    this.stage = make("canvas", {
      class: "ask", tabindex: 0, role: "img", "aria-label": "What each patch says; arrows move from patch to patch",
      onpointermove: event => this.pinned || this.point(event),
      onpointerleave: () => this.pinned || this.choose({token: -1}),
      onclick: event => { this.pinned = false; this.point(event); this.choose({pinned: true}); },
      onkeydown: event => this.step(event),
    });
    this.others = readings.tokens.slice(0, readings.n_prefix).map((name, token) =>
      make("button", {type: "button", onclick: () => this.choose({token, pinned: true})}, name));
    this.named = make("p", {class: "layer"});
    this.said = make("p", {class: "at", role: "status"});
    this.legend = make("ul");
    this.table = make("div", {class: "readings"});
    this.small = readings.layers.map((name, layer) => {
      const canvas = make("canvas");
      return [canvas, make("button", {type: "button", onclick: () => this.choose({layer})}, canvas, name)];
    });
    return make("div", {},
      make("div", {class: "choices"}, ...this.choices),
      make("div", {class: "reader"},
        make("div", {}, this.named, this.slider, make("div", {class: "bar"}, ...this.toggles.map(([, button]) => button)),
          this.stage, make("div", {class: "tokens"}, ...this.others), this.said, make("div", {class: "legend"}, this.legend)),
        this.table),
      make("div", {class: "every"}, ...this.small.map(([, button]) => button)));
  }

  point(event) {
    const box = this.stage.getBoundingClientRect(),
      [rows, columns] = this.readings.grid;
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows),
      column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    if (row >= 0 && row < rows && column >= 0 && column < columns)
      this.choose({token: this.readings.n_prefix + row * columns + column});
  }

  step(event) {
    const [rows, columns] = this.readings.grid,
      move = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (event.key === "Escape") this.choose({token: -1, pinned: false});
    if (!move) return;
    event.preventDefault();
    const at = Math.max(0, this.token - this.readings.n_prefix),
      row = Math.min(rows - 1, Math.max(0, Math.floor(at / columns) + move[0])),
      column = Math.min(columns - 1, Math.max(0, (at % columns) + move[1]));
    this.choose({token: this.readings.n_prefix + row * columns + column, pinned: true});
  }

  choose(change) {
    const whole = !("token" in change && Object.keys(change).length === 1);
    Object.assign(this, change);
    const {readings, image, layer, token} = this;
    if (whole) {
      this.colours = readings.palette(image);
      this.small.forEach(([canvas, button], place) => {
        this.paint(canvas, place, 112);
        button.setAttribute("aria-pressed", place === layer);
      });
    }
    this.choices.forEach((choice, place) => choice.setAttribute("aria-pressed", place === image));
    this.others.forEach((button, place) => button.setAttribute("aria-pressed", place === token));
    this.toggles.forEach(([key, button]) => button.setAttribute("aria-pressed", this[key]));
    this.slider.value = layer;
    this.slider.setAttribute("aria-valuetext", readings.layers[layer]);
    this.named.textContent = `${readings.layers[layer]}: ${this.pictures[image].alt}`;
    const shown = token < 0 ? this.surest() : token;
    this.paint(this.stage, layer, 480, shown);
    this.tell(shown);
  }

  label(of) {
    const sign = this.signs && this.readings.emoji[of];
    const swatch = make("span", {class: "swatch"}, sign || "\u25a0");
    if (!sign) swatch.style.color = this.colours.get(of) ?? this.readings.other;
    return [swatch, ` ${this.readings.classes[of]}`];
  }

  // The patch that is most certain of its class at this layer; shown where none is pointed at.
  surest() {
    const found = this.readings.patches(this.layer, this.image).map(({p}) => p);
    return this.readings.n_prefix + found.indexOf(Math.max(...found));
  }

  tell(token) {
    const {readings, image, layer} = this,
      named = readings.patches(layer, image),
      counts = new Map();
    for (const {of} of named) counts.set(of, (counts.get(of) ?? 0) + 1);
    const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 8);
    this.legend.replaceChildren(...most.map(([of, n]) => make("li", {}, ...this.label(of), `, ${n}`)));
    const answer = readings.answers[image],
      share = Math.round((100 * (counts.get(answer) ?? 0)) / named.length);
    const name = readings.tokens[token],
      where = this.token < 0 ? `${name} is the surest; point at another to see what it says at every layer, click to keep it.`
        : `${name}${this.pinned ? ", kept; Escape lets go" : ""}.`;
    this.said.textContent = `${share}% of the patches name the model\u2019s answer. ${where}`;
    const rows = readings.layers.map((name, place) =>
      make("tr", {class: place === layer ? "chosen" : null}, make("td", {}, name),
        ...readings.at(place, image, token).map(({of, p}) =>
          make("td", {class: of === answer ? "answer" : null}, ...this.label(of), " ", make("small", {}, percent(p))))));
    const heads = Array.from({length: readings.shape[3] + 1}, (_, place) => (place ? `${place}.` : "layer"));
    this.table.replaceChildren(make("table", {},
      make("thead", {}, make("tr", {}, ...heads.map(said => make("th", {}, said)))), make("tbody", {}, ...rows)));
  }

  // The image, in grey under colours and pale under emoji, with a frame around one patch.
  paint(canvas, layer, wide, framed = -1) {
    const {readings} = this,
      [rows, columns] = readings.grid,
      cell = Math.max(2, Math.round(wide / columns)),
      picture = this.pictures[this.image];
    canvas.width = columns * cell;
    canvas.height = rows * cell;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = picture.naturalWidth > 200;
    context.filter = this.signs ? "grayscale(1) opacity(.45)" : "grayscale(1)";
    if (this.signs) {
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, canvas.height);
    }
    if (picture.complete && picture.naturalWidth) context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    context.filter = "none";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.font = `${Math.round(cell * 0.8)}px sans-serif`;
    readings.patches(layer, this.image).forEach(({of, p}, place) => {
      const left = (place % columns) * cell,
        top = Math.floor(place / columns) * cell,
        sign = this.signs && readings.emoji[of],
        strength = this.faded ? Math.max(0.06, Math.sqrt(p)) : 1;
      context.globalAlpha = strength * (sign ? 1 : 0.6);
      context.fillStyle = sign ? "#111" : (this.colours.get(of) ?? readings.other);
      if (sign) context.fillText(sign, left + cell / 2, top + cell / 2);
      else context.fillRect(left, top, cell, cell);
    });
    context.globalAlpha = 1;
    if (framed < readings.n_prefix) return;
    const place = framed - readings.n_prefix;
    context.strokeStyle = "#e11d48";
    context.lineWidth = 3;
    context.strokeRect((place % columns) * cell + 1.5, Math.floor(place / columns) * cell + 1.5, cell - 3, cell - 3);
  }
}

function percent(p) {
  return p < 0.001 ? "<0.1%" : p < 0.1 ? `${(100 * p).toFixed(1)}%` : `${Math.round(100 * p)}%`;
}

async function start() {
  const pictures = [...document.querySelectorAll(".pictures img")];
  await Promise.all(pictures.map(picture => picture.decode().catch(() => null)));
  const view = new LensView(new Readings(JSON.parse(document.getElementById("page-data").textContent)), pictures);
  const place = document.getElementById("lens");
  place.append(view.element);
  place.hidden = false;
  document.documentElement.classList.add("scripted");
}

start();
