// What circuits of every size keep, on a logarithmic axis, with a mark where the slider stands.

const CURVE = {width: 640, height: 190, left: 46, right: 12, top: 10, bottom: 30};

class CurveView {
  constructor({measure, lines, own}, largest) {
    this.measure = measure;
    this.lines = lines;
    const values = lines.flatMap(line => [...line.value, ...(line.low ?? []), ...(line.high ?? [])]);
    const known = [0, 1, ...(own ? own.slice(1) : []), ...values].filter(value => value != null);
    this.low = Math.min(...known);
    this.high = Math.max(...known);
    this.largest = Math.max(2, largest);
    const {width, height} = CURVE;
    this.root = makeSvg("svg", {
      viewBox: `0 0 ${width} ${height}`,
      class: "curve-view",
      role: "img",
      "aria-label": `${measure} against edges`,
    });
    this.axes();
    let told = 0;
    for (const line of lines) line.kind = line.random ? "random" : `line${told++ % 3}`;
    for (const line of [...lines].sort((a, b) => b.random - a.random)) this.line(line);
    if (own) this.own(own);
    this.rule = makeSvg("line", {y1: CURVE.top, y2: height - CURVE.bottom, class: "rule"});
    this.root.append(this.rule);
    this.said = make("ul", {class: "lines"});
    this.element = make("figure", {}, this.root, this.said);
  }

  x(n) {
    const {width, left, right} = CURVE;
    return left + ((width - left - right) * Math.log(Math.max(1, n))) / Math.log(this.largest);
  }

  y(value) {
    const {height, top, bottom} = CURVE;
    return height - bottom - ((height - top - bottom) * (value - this.low)) / (this.high - this.low || 1);
  }

  text(words, x, y, anchor = "middle") {
    const element = makeSvg("text", {x, y, "text-anchor": anchor});
    element.textContent = words;
    this.root.append(element);
  }

  axes() {
    const {width, height, left, right} = CURVE;
    for (const level of [0, 0.5, 1]) {
      this.root.append(
        makeSvg("line", {x1: left, x2: width - right, y1: this.y(level), y2: this.y(level), class: "level"}),
      );
      this.text(String(level), left - 6, this.y(level) + 4, "end");
    }
    for (let n = 1; n <= this.largest; n *= 10) this.text(n.toLocaleString("en"), this.x(n), height - 16);
    this.text(`${this.measure} against edges`, (left + width - right) / 2, height - 2);
  }

  line({n, value, low, high, kind}) {
    const corners = values =>
      n.map((size, at) => (values[at] == null ? null : `${this.x(size)},${this.y(values[at])}`)).filter(Boolean);
    if (low)
      this.root.append(
        makeSvg("polygon", {points: [...corners(high), ...corners(low).reverse()].join(" "), class: kind}),
      );
    this.root.append(makeSvg("polyline", {points: corners(value).join(" "), class: kind}));
  }

  own([n, value, low, high]) {
    if (low != null)
      this.root.append(
        makeSvg("line", {x1: this.x(n), x2: this.x(n), y1: this.y(low), y2: this.y(high), class: "own"}),
      );
    this.root.append(makeSvg("circle", {cx: this.x(n), cy: this.y(value), r: 4.5, class: "point"}));
  }

  // The rule stands at the size that is drawn; what is said is of the nearest size that was measured.
  mark(n) {
    this.rule.setAttribute("x1", this.x(n));
    this.rule.setAttribute("x2", this.x(n));
    const said = this.lines
      .filter(line => line.n.length)
      .map(line => {
        const at = line.n.reduce(
          (best, size, place) => (Math.abs(size - n) < Math.abs(line.n[best] - n) ? place : best),
          0,
        );
        return make(
          "li",
          {class: line.kind},
          `${line.label}: ${number(line.value[at])} at ${line.n[at].toLocaleString("en")} edges`,
        );
      });
    this.said.replaceChildren(...said);
  }
}
