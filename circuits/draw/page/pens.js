// Two pens with one hand: what is drawn on a canvas is saved as SVG by the same code.

class CanvasPen {
  // `coarse` leaves dashes out.
  constructor(context, seen, coarse = false) {
    this.context = context;
    this.seen = seen;
    this.coarse = coarse;
  }

  sees({left, right, top, bottom}) {
    return right >= this.seen.left && left <= this.seen.right && bottom >= this.seen.top && top <= this.seen.bottom;
  }

  path(item, {fill, ink, width, dash, opacity = 1}) {
    const {context} = this;
    context.globalAlpha = opacity;
    item.shape ??= new Path2D(item.path);
    if (fill) {
      context.fillStyle = fill;
      context.fill(item.shape);
    }
    context.strokeStyle = ink;
    context.lineWidth = width;
    context.setLineDash(dash && !this.coarse ? [5, 3] : []);
    context.stroke(item.shape);
    context.globalAlpha = 1;
  }

  polygon(corners, {fill, opacity = 1}) {
    const {context} = this;
    context.globalAlpha = opacity;
    context.fillStyle = fill;
    context.beginPath();
    corners.forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.fill();
    context.globalAlpha = 1;
  }

  rectangle({x, y, width, height}, {round = 0, fill, ink, line = 1, opacity = 1}) {
    const {context} = this;
    context.globalAlpha = opacity;
    context.setLineDash([]);
    context.beginPath();
    context.roundRect(x - width / 2, y - height / 2, width, height, round);
    if (fill) {
      context.fillStyle = fill;
      context.fill();
    }
    if (ink) {
      context.strokeStyle = ink;
      context.lineWidth = line;
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  // A picture from the unit square to where a matrix leads.
  picture(image, matrix, opacity) {
    const {context} = this;
    context.save();
    context.globalAlpha = opacity;
    context.imageSmoothingEnabled = image.naturalWidth >= CRISP;
    context.transform(...matrix);
    context.drawImage(image, 0, 0, 1, 1);
    context.restore();
  }

  text(words, x, y, {size, fill, align = "center", weight = 400}) {
    const {context} = this;
    if (size * context.getTransform().a < UNREADABLE) return;
    context.font = `${weight} ${size}px ${FONT}`;
    context.fillStyle = fill;
    context.textAlign = align;
    context.fillText(words, x, y);
  }
}

const CRISP = 200, // px; smaller pictures keep their pixels
  UNREADABLE = 3.5; // px on the screen
const FONT = "'Helvetica Neue',Helvetica,Arial,'Liberation Sans',sans-serif";

class SvgPen {
  constructor({width, height}, paper) {
    const size = {width, height, viewBox: `0 0 ${width} ${height}`};
    this.root = makeSvg("svg", {xmlns: "http://www.w3.org/2000/svg", ...size, "font-family": FONT});
    this.root.append(makeSvg("rect", {width, height, fill: paper}));
  }

  sees() {
    return true;
  }

  path(item, {fill = "none", ink, width, dash, opacity}) {
    const style = {fill, stroke: ink, "stroke-width": width, "stroke-dasharray": dash ? "5 3" : null};
    this.root.append(makeSvg("path", {d: item.path, ...style, "stroke-opacity": opacity}, ...this.title(item)));
  }

  picture(image, matrix, opacity) {
    const size = {width: 1, height: 1, preserveAspectRatio: "none"};
    this.root.append(makeSvg("image", {href: image.src, transform: `matrix(${matrix})`, opacity, ...size}));
  }

  title({name}) {
    if (!name) return [];
    const title = makeSvg("title");
    title.textContent = name;
    return [title];
  }

  polygon(corners, {fill, opacity}) {
    this.root.append(makeSvg("polygon", {points: corners.join(" "), fill, "fill-opacity": opacity}));
  }

  rectangle({x, y, width, height}, {round, fill = "none", ink, line, opacity}) {
    const where = {x: x - width / 2, y: y - height / 2, width, height, rx: round};
    this.root.append(makeSvg("rect", {...where, fill, stroke: ink, "stroke-width": line, opacity}));
  }

  text(words, x, y, {size, fill, align, weight}) {
    const anchor = {left: "start", right: "end"}[align] ?? "middle";
    const element = makeSvg("text", {x, y, "font-size": size, fill, "text-anchor": anchor, "font-weight": weight});
    element.textContent = words;
    this.root.append(element);
  }

  toString() {
    return new XMLSerializer().serializeToString(this.root);
  }
}
