// What each patch of the chosen image carries: the circuit's map beside the full model's, with their numbers.

const HELPS = [43, 108, 176], // as in the still pictures
  HURTS = [217, 98, 43];

class EffectsView {
  constructor(effects, pictures, state) {
    this.effects = effects;
    this.pictures = pictures;
    this.state = state;
    this.place = -1;
    this.over = make(
      "select",
      {"aria-label": "Patch effects over", onchange: () => state.set({over: this.over.value})},
      make("option", {value: ""}, "on this image"),
      make("option", {value: "mean"}, `mean over ${effects.n_pairs} pairs`),
    );
    this.maps = effects.subjects.map(subject => this.map(subject));
    this.said = make("p", {class: "at", role: "status"});
    this.element = make(
      "div",
      {class: "effects"},
      make("h3", {}, "What each patch carries ", this.over),
      make("div", {class: "maps"}, ...this.maps.map(map => map.element)),
      this.said,
    );
  }

  map(subject) {
    const picture = make("img", {alt: ""}),
      heat = make("canvas", {
        tabindex: 0,
        role: "img",
        "aria-label": `Patch effects, ${subject}`,
        onpointermove: event => this.point(heat, event),
        onpointerleave: () => this.choose(-1),
        onkeydown: event => this.step(event),
      });
    picture.addEventListener("load", () => picture.classList.toggle("crisp", picture.naturalWidth < 200));
    const shot = make("div", {class: "shot grey"}, picture, heat);
    return {picture, heat, element: make("figure", {}, shot, make("figcaption", {}, subject))};
  }

  point(heat, event) {
    const box = heat.getBoundingClientRect(),
      [rows, columns] = this.effects.grid;
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows),
      column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    if (row >= 0 && row < rows && column >= 0 && column < columns) this.choose(row * columns + column);
  }

  step(event) {
    const [rows, columns] = this.effects.grid;
    const by = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[event.key];
    if (by === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    const next = Math.max(this.place, 0) + (this.place < 0 ? 0 : by);
    if (next >= 0 && next < rows * columns) this.choose(next);
  }

  choose(place) {
    this.place = place;
    this.paint();
  }

  // The effects of each subject: on the chosen image, or their means where these are asked for or all there is.
  get shown() {
    const own = this.effects.images[this.pair];
    return own && this.state.values.over !== "mean" ? own.effect : this.effects.mean.map(mean => mean.effect);
  }

  update() {
    const {pair, over} = this.state.values;
    this.pair = this.pictures[pair] ? pair : 0;
    const [clean] = this.pictures[this.pair];
    for (const {picture} of this.maps) picture.setAttribute("src", clean.source);
    this.over.value = over === "mean" || !this.effects.images[this.pair] ? "mean" : "";
    this.over.disabled = !this.effects.images[this.pair];
    this.paint();
  }

  paint() {
    const {shown} = this,
      largest = Math.max(...shown.flat().map(value => Math.abs(value ?? 0))) || 1;
    this.maps.forEach(({heat}, at) => paintEffects(heat, shown[at], this.effects.grid, largest, this.place));
    this.said.textContent = this.place < 0 ? this.says(largest) : this.saysPatch(this.place);
  }

  says(largest) {
    const measured = this.effects.images[this.pair] ? "" : " This image was not measured: these are means.";
    return `Blue: what the image shows there speaks for its class; orange: against it. Full colour: ${number(largest)} ${this.effects.unit}.${measured} Point at a patch for its numbers.`;
  }

  saysPatch(place) {
    const {grid, unit, n_pairs, mean, images} = this.effects,
      own = images[this.pair];
    const name = `r${Math.floor(place / grid[1])}c${place % grid[1]}`;
    if (mean[0].effect[place] == null) return `${name} was not measured.`;
    const said = tell => mean.map((_, at) => `${at ? "full model" : "circuit"} ${tell(at)}`).join(", ");
    const means = said(at => `${number(mean[at].effect[place], true)} ${ends(mean[at], place)}`);
    const lines = [`${name}, in ${unit}`, `mean over ${n_pairs} pairs: ${means}`];
    if (own) lines.splice(1, 0, `on this image: ${said(at => number(own.effect[at][place], true))}`);
    return lines.join("\n");
  }
}

function ends({low, high}, place) {
  return low[place] == null ? "(no interval)" : `[${number(low[place])}, ${number(high[place])}]`;
}

// Signed heat over the patches, the denser the larger, and a frame around the one that is pointed at.
function paintEffects(canvas, values, [rows, columns], largest, framed) {
  const cell = Math.max(8, Math.ceil(240 / columns));
  canvas.width = columns * cell;
  canvas.height = rows * cell;
  const context = canvas.getContext("2d");
  const corner = place => [(place % columns) * cell, Math.floor(place / columns) * cell];
  values.forEach((value, place) => {
    if (value == null) return;
    context.fillStyle = `rgba(${value > 0 ? HELPS : HURTS},${(0.8 * Math.abs(value)) / largest})`;
    context.fillRect(...corner(place), cell, cell);
  });
  if (framed < 0) return;
  context.strokeStyle = "#e11d48";
  context.lineWidth = 3;
  const [x, y] = corner(framed);
  context.strokeRect(x + 1.5, y + 1.5, cell - 3, cell - 3);
}
