// The window onto the diagram: two canvases of one size, the upper for what is pointed at, moved by d3-zoom.
// The wheel scrolls the page until the diagram has the focus; so does one finger. Ctrl and the wheel always zoom.

const SETTLED = 150; // ms after the last step of a slider, until which dashes, half of the work, are left out
const SLOW = 30; // ms; a picture that takes longer is moved as it is, and drawn again when the gesture ends
const TALLEST = 1100,
  TALLEST_MAPS = 1500; // px
const NARROW = 0.6,
  LEGIBLE = 0.8; // a diagram that would be smaller than the first is shown in part, at the second

class View {
  constructor(layout, draw) {
    this.layout = layout;
    this.draw = draw;
    this.transform = d3.zoomIdentity;
    this.moved = false;
    this.took = 0;
    this.base = make("canvas", {"aria-hidden": "true"});
    this.top = make("canvas", {
      tabindex: 0,
      role: "application",
      "aria-label": "Circuit: arrows and Tab go from node to node, Enter opens one, Escape leaves",
    });
    this.frame = make("div", {class: "frame"}, this.base, this.top);
    this.zoom = d3
      .zoom()
      .scaleExtent([0.05, 12])
      .clickDistance(4)
      .filter(event => this.wanted(event));
    this.zoom.on("zoom", event => this.follow(event)).on("end", event => this.settle(event));
    d3.select(this.top).call(this.zoom).on("dblclick.zoom", null);
    new ResizeObserver(() => this.resize()).observe(this.frame);
  }

  wanted(event) {
    if (event.type === "wheel") return event.ctrlKey || event.metaKey || document.activeElement === this.top;
    if (event.type === "touchstart") return event.touches.length > 1;
    return !event.button;
  }

  resize() {
    const {width} = this.frame.getBoundingClientRect();
    if (!width || width === this.width) return;
    const kept = this.moved && this.width;
    this.width = width;
    const whole = width / this.layout.width;
    this.scale = whole < NARROW ? LEGIBLE : Math.min(1.4, whole);
    const tallest = this.layout.panels.length ? TALLEST_MAPS : TALLEST;
    this.height = Math.round(Math.min(Math.max(260, this.layout.height * this.scale), tallest));
    this.frame.style.height = `${this.height}px`;
    this.density = Math.min(2, devicePixelRatio || 1);
    for (const canvas of [this.base, this.top]) {
      canvas.width = Math.round(this.width * this.density);
      canvas.height = Math.round(this.height * this.density);
    }
    if (kept) this.redraw();
    else this.open(this.wished);
  }

  // Shows a part that was in view before: its offset in pixels and its scale; null for the whole.
  open(at) {
    this.wished = at;
    if (!this.width) return;
    if (!at) return this.begin();
    this.go(at);
    this.moved = true;
  }

  // The whole diagram in the middle.
  fit() {
    this.middle(Math.min(this.scale, this.width / this.layout.width, this.height / this.layout.height));
  }

  // The scale to begin with: a wide diagram is seen from its left end.
  begin() {
    this.middle(Math.min(this.scale, this.height / this.layout.height));
    this.reveal(this.lane);
  }

  middle(k) {
    const {width, height} = this.layout;
    this.go([Math.max(0, (this.width - k * width) / 2), Math.max(0, (this.height - k * height) / 2), k]);
    this.moved = false;
  }

  go([x, y, k]) {
    d3.select(this.top).call(this.zoom.transform, d3.zoomIdentity.translate(x, y).scale(k));
  }

  by(factor) {
    d3.select(this.top).call(this.zoom.scaleBy, factor);
  }

  follow(event) {
    this.transform = event.transform;
    if (event.sourceEvent) this.moved = true;
    if (event.sourceEvent && this.took > SLOW && this.drawn) {
      const {k, x, y} = this.drawn,
        scale = this.transform.k / k;
      this.base.style.transform = `matrix(${scale},0,0,${scale},${this.transform.x - scale * x},${this.transform.y - scale * y})`;
      this.onmove?.();
    } else this.redraw();
  }

  settle() {
    if (this.base.style.transform) this.redraw();
    this.onsettle?.();
  }

  // Draws at once what follows other pictures quickly, and the whole of it when no more come.
  step() {
    this.coarse = true;
    clearTimeout(this.stepping);
    this.stepping = setTimeout(() => {
      this.coarse = false;
      this.redraw();
    }, SETTLED);
    this.redraw();
  }

  // Draws before the next frame, once, however often it is asked to.
  redraw() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      if (!this.width) return;
      const before = performance.now();
      this.base.style.transform = "";
      this.drawn = this.transform;
      this.draw(this.pen(this.base));
      this.took = performance.now() - before;
      this.onmove?.();
    });
  }

  pen(canvas) {
    const {k, x, y} = this.transform,
      context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(k * this.density, 0, 0, k * this.density, x * this.density, y * this.density);
    const seen = {left: -x / k, top: -y / k, right: (this.width - x) / k, bottom: (this.height - y) / k};
    return new CanvasPen(context, seen, this.coarse);
  }

  // From a pointer to the diagram's coordinates, and back to pixels of the frame.
  inside(event) {
    const box = this.top.getBoundingClientRect();
    return this.transform.invert([event.clientX - box.left, event.clientY - box.top]);
  }

  outside(x, y) {
    return this.transform.apply([x, y]);
  }

  // Moves only if the point is out of sight.
  show(x, y) {
    const [left, top] = this.outside(x, y);
    if (left < 20 || top < 20 || left > this.width - 20 || top > this.height - 20) {
      const {k} = this.transform;
      this.go([this.width / 2 - k * x, this.height / 2 - k * y, k]);
    }
  }

  // Moves a lane into the middle, if it is out of sight; nothing for none.
  reveal(lane) {
    this.lane = lane;
    if (!lane || !this.width) return;
    const {k, x, y} = this.transform,
      middle = k * (lane.x + lane.width / 2);
    if (middle + x < 40 || middle + x > this.width - 40) this.go([this.width / 2 - middle, y, k]);
  }
}
