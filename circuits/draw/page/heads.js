// What each head sees, as Python wrote it (circuits/draw/head_page.py): rows of what is read out, and full patterns.

const READOUT = -1; // as a token: those that are read out
const MEAN = -1; // as an image: the mean over all of them
const ROOT = 4; // bytes of full patterns are fourth roots of weights (circuits/draw/head_page.py)

function bytesOf(text) {
  const signs = atob(text),
    bytes = new Uint8Array(signs.length);
  for (let at = 0; at < bytes.length; at++) bytes[at] = signs.charCodeAt(at);
  return bytes;
}

function floatsOf(text) {
  return new Float32Array(bytesOf(text).buffer);
}

// Values by row: 16 bits from the least to the largest, 0 for what a mask forbids.
class Packed {
  constructor({shape, root, data, least, span}) {
    this.shape = shape;
    this.root = root;
    this.words = new Uint16Array(bytesOf(data).buffer);
    this.least = floatsOf(least);
    this.span = floatsOf(span);
  }

  row(image, place) {
    const at = image * this.shape[1] + place,
      width = this.shape[2];
    const part = this.words.subarray(at * width, (at + 1) * width);
    const value = word => this.least[at] + ((word - 1) / 65534) ** this.root * this.span[at];
    return Float32Array.from(part, word => (word ? value(word) : -Infinity));
  }
}

// A head's full pattern on an image.
class FullPattern {
  constructor({data, largest}, width) {
    this.bytes = bytesOf(data);
    this.largest = floatsOf(largest);
    this.width = width;
  }

  get queries() {
    return this.largest.length;
  }

  row(query) {
    return this.bytes.subarray(query * this.width, (query + 1) * this.width);
  }

  pattern(query) {
    const weights = Float32Array.from(this.row(query), byte => POWERS[byte]);
    const sum = weights.reduce((total, one) => total + one, 0);
    return weights.map(one => one / sum);
  }

  score(query) {
    return Float32Array.from(this.row(query), byte => this.largest[query] + ROOT * Math.log(byte / 255));
  }
}

const POWERS = Float32Array.from({length: 256}, (_, byte) => (byte / 255) ** ROOT);

class HeadMaps {
  constructor(page) {
    Object.assign(this, page);
    this.rows = Object.fromEntries(Object.entries(page.rows).map(([kind, rows]) => [kind, new Packed(rows)]));
    this.lengths = new Packed(page.lengths);
    this.heads = page.heads.map((name, at) => ({name, at, layer: Number(name.slice(1).split(".")[0])}));
    this.named = new Map(this.heads.map(head => [head.name, head]));
    this.opened = new Map();
    this.means = new Map();
  }

  get images() {
    return this.rows.pattern.shape[0];
  }

  // Full patterns on an image by head; read from the page when first asked for.
  full(image) {
    if (!this.opened.has(image)) {
      const said = JSON.parse(document.getElementById(`full-${image}`)?.textContent ?? "{}");
      const found = Object.entries(said).map(([name, one]) => [name, new FullPattern(one, this.tokens.length)]);
      this.opened.set(image, new Map(found));
    }
    return this.opened.get(image);
  }

  // Whether it is kept what a head sees from a token of an image.
  keeps(kind, image, head, token) {
    if (token === READOUT) return true;
    if (head.layer === this.pool) return false; // there the pool alone looks
    if (kind === "value_weighted" && !this.one_length) return false;
    const full = this.full(image);
    const needed = kind === "rollout" ? this.heads.filter(one => one.layer <= head.layer) : [head];
    return needed.every(one => full.has(one.name));
  }

  // Weights on all tokens from a token of an image, or from the mean over images that are kept; `asked` is false where
  // none is, and the row is that of the tokens that are read out.
  row(kind, image, head, token) {
    const every = image === MEAN ? Array.from({length: this.images}, (_, at) => at) : [image];
    const kept = every.filter(one => this.keeps(kind, one, head, token)),
      asked = kept.length > 0;
    const rows = (asked ? kept : every).map(one => this.single(kind, one, head, asked ? token : READOUT));
    const values = rows[0].map((_, at) => rows.reduce((sum, row) => sum + row[at], 0) / rows.length);
    return {values, asked, n: rows.length};
  }

  single(kind, image, head, token) {
    if (token === READOUT) return this.rows[kind].row(image, kind === "rollout" ? head.layer : head.at);
    if (kind === "rollout") return this.rolled(image, head.layer, token);
    const full = this.full(image).get(head.name);
    if (kind === "score") return full.score(token);
    if (kind === "pattern") return full.pattern(token);
    const lengths = this.lengths.row(image, head.at);
    return full.pattern(token).map((weight, at) => weight * Math.max(0, lengths[at]));
  }

  // A token's row of the rollout up to a layer: half stays, half goes where the layer's heads look on average.
  rolled(image, layer, token) {
    let row = new Float32Array(this.tokens.length);
    row[token] = 1;
    for (let at = layer; at >= 0; at--) {
      const mean = this.mean(image, at),
        width = row.length,
        next = new Float32Array(width);
      for (let from = 0; from < width; from++) {
        if (row[from] < 1e-9) continue;
        next[from] += row[from] / 2;
        for (let to = 0; to < width; to++) next[to] += (row[from] / 2) * mean[from * width + to];
      }
      row = next;
    }
    return row;
  }

  // A layer's pattern averaged over its heads.
  mean(image, layer) {
    const key = `${image}/${layer}`;
    if (!this.means.has(key)) {
      const width = this.tokens.length,
        found = new Float32Array(width * width);
      const heads = this.heads.filter(head => head.layer === layer);
      for (const head of heads) {
        const {bytes} = this.full(image).get(head.name);
        for (let from = 0; from < width; from++) {
          let sum = 0;
          for (let at = from * width; at < (from + 1) * width; at++) sum += POWERS[bytes[at]];
          for (let at = from * width; at < (from + 1) * width; at++)
            found[at] += POWERS[bytes[at]] / sum / heads.length;
        }
      }
      this.means.set(key, found);
    }
    return this.means.get(key);
  }

  // Values of tokens on the patches of the image, row by row; frames of a video are added up.
  onPatches(values) {
    const area = this.grid[0] * this.grid[1];
    if (this.frames === 1) return values.subarray(this.n_prefix, this.n_prefix + area);
    const found = new Float32Array(area);
    for (let at = 0; at < this.frames * area; at++) found[at % area] += values[this.n_prefix + at];
    return found;
  }

  // Names of the tokens with the largest values, and those.
  strongest(values, n) {
    return Array.from(values, (value, at) => [this.tokens[at], value])
      .sort((one, other) => other[1] - one[1])
      .slice(0, n);
  }
}

// A map over a picture by its largest patch: heights above 0; of scores and rollout, which have none, above the least.
function paintMap(canvas, picture, values, [rows, columns], kind) {
  const known = Array.from(values).filter(Number.isFinite),
    floor = kind === "score" || kind === "rollout" ? Math.min(...known) : 0,
    span = Math.max(...known) - floor || 1;
  const small = paintMap.small ?? (paintMap.small = document.createElement("canvas"));
  small.width = columns;
  small.height = rows;
  const cells = new ImageData(columns, rows);
  values.forEach((value, at) => {
    const share = Number.isFinite(value) ? (value - floor) / span : 0;
    cells.data.set([...STRONGEST, Math.round(255 * 0.88 * Math.max(0, share))], 4 * at);
  });
  small.getContext("2d").putImageData(cells, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}
