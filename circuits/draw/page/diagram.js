// The diagram: bands and lanes, edges (weak ones first), nodes, ports; and which of them is under the pointer.

const INKS = ["ink", "soft", "faint", "line", "paper", "box", "mlp", "lane", "band", "blue", "orange", "mark", "heat"];

// The page's colours, light or dark.
function readInks(element = document.documentElement) {
  const style = getComputedStyle(element);
  return Object.fromEntries(INKS.map(name => [name, style.getPropertyValue(`--${name}`).trim()]));
}

// What a picture is drawn by: drawn edges, the set that is lit (null: all), names of chosen and of marked boxes, signed
// or absolute colours, inks; and what follows, the names of boxes and of ports that drawn edges touch.
function makeLook(circuit, drawn, more) {
  const used = new Set(drawn.flatMap(edge => [circuit.boxes[edge.source].name, circuit.boxes[edge.target].name]));
  const ports = new Set(drawn.flatMap(edge => edge.name.split("->")));
  const carried = circuit.carried(drawn);
  return {
    drawn,
    used,
    ports,
    carried,
    font: circuit.layout.font,
    maps: circuit.layout.panels.length > 0,
    tiny: circuit.layout.box < 10,
    lit: null,
    chosen: [],
    marked: new Set(),
    colours: "signed",
    ...more,
  };
}

function drawDiagram(pen, circuit, look) {
  if (circuit.layout.panels.length) drawPanels(pen, circuit, look);
  else drawGround(pen, circuit.layout, look.inks);
  for (const box of circuit.boxes) if (box.frame) drawFrame(pen, box, look);
  for (const lit of look.lit ? [false, true] : [true]) {
    for (const edge of look.drawn) if (!look.lit || look.lit.has(edge) === lit) drawEdge(pen, edge, look, lit);
  }
  for (const box of circuit.boxes) if (!box.frame) drawBox(pen, box, look);
  for (const port of circuit.ports) drawPort(pen, port, look);
}

// Where several diagrams stand in one picture, each with what is said above it, if anything.
function beside(pictures) {
  const top = pictures.some(({said}) => said) ? 24 : 0;
  let width = 0;
  const places = pictures.map(({circuit}, at) => {
    const left = width + (at ? 16 : 0);
    width = left + circuit.layout.width;
    return left;
  });
  return {top, places, width, height: top + Math.max(...pictures.map(({circuit}) => circuit.layout.height))};
}

const CAPTION = {size: 13, align: "left", weight: 600};

// Whole diagrams side by side as an SVG file, drawn by the same code; a picture is {circuit, look, said}.
function saveSvg(pictures, name) {
  const {top, places, ...size} = beside(pictures),
    {paper, ink} = pictures[0].look.inks;
  const whole = new SvgPen(size, paper);
  pictures.forEach(({circuit, look, said = ""}, at) => {
    const pen = new SvgPen(circuit.layout, paper);
    drawDiagram(pen, circuit, look);
    for (const [key, value] of Object.entries({x: places[at], y: top})) pen.root.setAttribute(key, value);
    whole.root.append(pen.root);
    if (said) whole.text(said, places[at] + 8, 17, {...CAPTION, fill: ink});
  });
  saveAs(new Blob([String(whole)], {type: "image/svg+xml"}), name);
}

function savePng(pictures, name) {
  const {top, places, width, height} = beside(pictures),
    factor = Math.min(2, 8000 / Math.max(width, height)),
    {paper, ink} = pictures[0].look.inks;
  const canvas = make("canvas", {width: Math.ceil(width * factor), height: Math.ceil(height * factor)}),
    context = canvas.getContext("2d");
  context.fillStyle = paper;
  context.fillRect(0, 0, canvas.width, canvas.height);
  pictures.forEach(({circuit, look, said = ""}, at) => {
    const pen = new CanvasPen(context, {left: 0, top: 0, right: circuit.layout.width, bottom: circuit.layout.height});
    context.setTransform(factor, 0, 0, factor, places[at] * factor, 0);
    if (said) pen.text(said, 8, 17, {...CAPTION, fill: ink});
    context.setTransform(factor, 0, 0, factor, places[at] * factor, top * factor);
    drawDiagram(pen, circuit, look);
  });
  canvas.toBlob(blob => saveAs(blob, name));
}

function drawGround(pen, layout, inks) {
  const {lanes, rows, row, box, height} = layout,
    middle = height / 2;
  const left = Math.min(...lanes.map(lane => lane.x)),
    right = Math.max(...lanes.map(lane => lane.x + lane.width));
  for (const {title, x, width} of lanes) {
    if (!title) continue;
    pen.rectangle({x: x + width / 2, y: middle, width, height}, {round: 8, fill: inks.lane});
    pen.text(title, x + width / 2, 18, {size: 12.5, fill: inks.ink, weight: 600});
  }
  rows.forEach((y, layer) => {
    const band = {x: (left + right) / 2, y: y - box / 2 - 6, width: right - left, height: row};
    if (layer % 2 === 0) pen.rectangle(band, {fill: inks.band});
    pen.text(layout.row_titles[layer], left - 8, y + 3.5, {size: 10.5, fill: inks.soft, align: "right"});
  });
}

// Where groups are places: each level's map, the more coloured the more the drawn edges carry there.
function drawPanels(pen, {layout, cell}, {inks, picture, place, carried}) {
  const largest = Math.max(...carried.values(), 1e-300);
  for (const panel of layout.panels) {
    const shown = picture?.naturalWidth && layout.picture && panel.level === 0;
    pen.path((panel.outline ??= {path: panel.groups.map(group => cell(panel, group).path).join("")}), {
      fill: inks.lane,
      ink: inks.line,
      width: 0.6,
    });
    if (shown) {
      const [x, y, width, height] = layout.picture;
      pen.picture(picture, [width, 0, (layout.lean * height) / layout.cell[1], height, x, panel.y + y], 0.5);
      pen.path(panel.outline, {ink: inks.paper, width: Math.min(1, layout.cell[1] / 20)});
    }
    for (const group of panel.groups) {
      const heat = carried.get(`${panel.level} ${group}`);
      if (heat) pen.polygon(cell(panel, group).corners, {fill: inks.heat, opacity: 0.7 * Math.sqrt(heat / largest)});
      if (group === place) pen.path(cell(panel, group), {ink: inks.mark, width: 2});
    }
    const [first] = [...panel.groups].sort((a, b) => layout.places[a][0] - layout.places[b][0]);
    const [x, y] = layout.places[first];
    pen.text(panel.title, x - layout.cell[0] / 2 - layout.lean - 8, panel.y + y + 3.5, {
      size: 10.5,
      fill: inks.soft,
      align: "right",
    });
  }
  for (const [group, title] of Object.entries(layout.titles))
    pen.text(title, layout.places[group][0], 18, {size: 12.5, fill: inks.ink, weight: 600});
}

function edgeStyle(edge, look, lit = true) {
  const sign = signOf(edge.score),
    signed = look.colours === "signed";
  const own = sign === "unscored" || !signed ? look.inks.soft : sign === "positive" ? look.inks.blue : look.inks.orange;
  const ink = look.inkOf?.(edge) ?? own;
  const faint = edge.kept ? 1 : 0.45; // what the circuit does not keep
  const opacity = lit ? faint * (0.5 + 0.45 * Math.sqrt(edge.share)) : 0.09;
  return {ink, width: 0.9 + 5.1 * edge.share, dash: signed && sign === "negative", opacity};
}

function drawEdge(pen, edge, look, lit, stronger = 0) {
  if (!pen.sees(edge.extent)) return;
  const style = edgeStyle(edge, look, lit);
  style.width += stronger;
  if (stronger) style.opacity = 1;
  pen.path(edge, style);
  drawArrow(pen, edge, style, look.tiny);
}

// As large as in the still: larger at wide edges, small on maps of small cells.
function drawArrow(pen, edge, {ink, opacity, width}, tiny) {
  const [x0, y0, x, y] = edge.tail,
    length = Math.hypot(x - x0, y - y0) || 1,
    size = tiny ? 0.5 : width > 2.5 ? 1.6 : 1;
  const [u, v] = [(size * (x - x0)) / length, (size * (y - y0)) / length];
  const back = side => [x - 5 * u - 3 * side * v, y - 5 * v + 3 * side * u];
  pen.polygon([[x + 2 * u, y + 2 * v], back(1), back(-1)], {fill: ink, opacity});
}

function drawFrame(pen, box, {inks, chosen}) {
  pen.rectangle(box, {
    round: 5,
    ink: chosen.includes(box.name) ? inks.mark : box.state === "unused" ? inks.line : inks.faint,
  });
}

function drawBox(pen, box, look) {
  const {inks} = look;
  if (look.maps && !look.used.has(box.name)) return; // they would fill every cell
  if (!box.label) return pen.rectangle(box, {round: 2, fill: inks.line});
  const used = look.used.has(box.name);
  const outline =
    look.chosen.includes(box.name) || look.marked.has(box.name) ? inks.mark : used ? inks.soft : inks.line;
  const line = (outline === inks.mark ? 2.4 : 1.1) * Math.min(1, box.height / 10);
  pen.rectangle(box, {round: Math.min(4, box.height / 4), fill: used && box.kind === "mlp" ? inks.mlp : inks.box, ink: outline, line});
  pen.text(box.label, box.x, box.y + 0.35 * look.font, {size: look.font, fill: used ? inks.ink : inks.faint});
}

function drawPort(pen, port, {inks, ports, maps}) {
  const used = ports.has(port.name);
  if (maps && !used) return;
  const round = Math.min(port.width, port.height) / 2;
  pen.rectangle(port, {round, fill: inks.box, ink: used ? inks.soft : inks.line, line: 0.9});
  const size = Math.min(7, 1.6 * round);
  if (port.label) pen.text(port.label, port.x, port.y + 0.3 * size, {size, fill: used ? inks.ink : inks.faint});
}

function boxAt(circuit, x, y) {
  const hit = box => Math.abs(x - box.x) <= box.width / 2 && Math.abs(y - box.y) <= box.height / 2;
  const nodes = [...circuit.nodes.values()];
  return nodes.find(box => !box.frame && hit(box)) ?? nodes.find(box => box.frame && hit(box));
}

// The place on a map under the pointer.
function cellAt({layout}, x, y) {
  const [width, height] = layout.cell;
  for (const panel of layout.panels) {
    const inside = group => {
      const [middle, at] = layout.places[group],
        down = y - panel.y - at;
      return Math.abs(down) <= height / 2 && Math.abs(x - middle - (layout.lean * down) / height) <= width / 2;
    };
    const group = panel.groups.find(inside);
    if (group !== undefined) return {cell: true, panel, group};
  }
}

// The strongest drawn edge within a few pixels; the last that is drawn lies on top.
function edgeAt(context, drawn, x, y, slack) {
  context.save();
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.setLineDash([]);
  const found = drawn.findLast(edge => {
    const {left, right, top, bottom} = edge.extent;
    if (x < left - slack || x > right + slack || y < top - slack || y > bottom + slack) return false;
    context.lineWidth = Math.max(0.9 + 5.1 * edge.share, 2 * slack);
    return context.isPointInStroke((edge.shape ??= new Path2D(edge.path)), x, y);
  });
  context.restore();
  return found;
}

// The nearest node in the direction of an arrow key, straight ahead before aside.
function neighbour(nodes, from, key) {
  const [u, v] = {ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]}[key];
  let best = from,
    least = Infinity;
  for (const box of nodes) {
    const [x, y] = [box.x - from.x, box.y - from.y],
      ahead = x * u + y * v,
      aside = Math.abs(x * v) + Math.abs(y * u);
    const far = ahead + 2.5 * aside;
    if (ahead > 1 && far < least) [best, least] = [box, far];
  }
  return best;
}
