// A mask at the picture's own size, one byte a pixel: 0 keep, 255 regenerate. Shapes are drawn as the library draws the
// same words (a pixel belongs to a shape when its centre does), so `--mask "brush:..."` gives these very bytes.

const TILE = 128;
const MOST_BYTES = 256 << 20; // of what can be undone

const round = (v) => Math.round(v * 100) / 100;

export class Mask {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.data = new Uint8Array(width * height);
    this.words = "";        // what was drawn, while words can say it; null: they cannot
    this.count = 0;         // pixels above 0
    this.version = 0;
    this.onchange = () => {};
    this._across = Math.ceil(width / TILE);
    this._undo = [];
    this._redo = [];
    this._open = null;
    this._bytes = 0;
  }

  // --- drawing; each gives the words of what it drew

  /** Everything until `end` is one step that can be undone. */
  begin() { if (!this._open) this._open = { tiles: new Map(), words: this.words, count: this.count }; }

  end() {
    const step = this._open;
    this._open = null;
    if (!step || !step.tiles.size) return;
    this._undo.push(step);
    this._bytes += step.tiles.size * TILE * TILE;
    this._redo = [];
    while (this._bytes > MOST_BYTES && this._undo.length > 1) this._bytes -= this._undo.shift().tiles.size * TILE * TILE;
  }

  /** A line from (xa, ya) to (xb, yb) of radius r. */
  stroke(xa, ya, xb, yb, r, value = 255) {
    const [l, t, rt, b] = this._cut(Math.min(xa, xb) - r, Math.min(ya, yb) - r, Math.max(xa, xb) + r + 1, Math.max(ya, yb) + r + 1);
    if (l >= rt || t >= b) return;
    this._touch(l, t, rt, b);
    const dx = xb - xa, dy = yb - ya, long = Math.max(dx * dx + dy * dy, 1e-12), rr = r * r, { data, width } = this;
    for (let row = t; row < b; row++) {
      const y = row + 0.5;
      // the row's part of the capsule is one run: look inwards from both ends
      let first = l, last = rt - 1;
      const inside = (column) => {
        const x = column + 0.5;
        const k = Math.min(1, Math.max(0, ((x - xa) * dx + (y - ya) * dy) / long));
        const ex = x - xa - k * dx, ey = y - ya - k * dy;
        return ex * ex + ey * ey <= rr;
      };
      while (first <= last && !inside(first)) first++;
      while (last > first && !inside(last)) last--;
      if (first <= last) this._run(row * width + first, row * width + last + 1, value, data);
    }
    this._changed(l, t, rt, b);
  }

  box(x0, y0, x1, y1, value = 255) {
    const l = Math.max(0, Math.ceil(Math.min(x0, x1) - 0.5)), r = Math.min(this.width, Math.ceil(Math.max(x0, x1) - 0.5));
    const t = Math.max(0, Math.ceil(Math.min(y0, y1) - 0.5)), b = Math.min(this.height, Math.ceil(Math.max(y0, y1) - 0.5));
    if (l >= r || t >= b) return;
    this._touch(l, t, r, b);
    for (let row = t; row < b; row++) this._run(row * this.width + l, row * this.width + r, value, this.data);
    this._changed(l, t, r, b);
  }

  ellipse(x0, y0, x1, y1, value = 255) {
    const cx = (x0 + x1) / 2, cy = (y0 + y1) / 2, a = Math.abs(x1 - x0) / 2, c = Math.abs(y1 - y0) / 2;
    if (a <= 0 || c <= 0) return;
    const [l, t, r, b] = this._cut(cx - a, cy - c, cx + a + 1, cy + c + 1);
    if (l >= r || t >= b) return;
    this._touch(l, t, r, b);
    for (let row = t; row < b; row++)
      for (let column = l; column < r; column++) {
        const u = (2 * (column + 0.5) - x0 - x1) / (x1 - x0), v = (2 * (row + 0.5) - y0 - y1) / (y1 - y0);
        if (u * u + v * v <= 1) this._set(row * this.width + column, value);
      }
    this._changed(l, t, r, b);
  }

  /** points: [[x, y], ...], filled by the even-odd rule at the pixels' centres. */
  polygon(points, value = 255) {
    if (points.length < 3) return;
    const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
    const [l, t, r, b] = this._cut(Math.min(...xs), Math.min(...ys), Math.max(...xs) + 1, Math.max(...ys) + 1);
    if (l >= r || t >= b) return;
    this._touch(l, t, r, b);
    for (let row = t; row < b; row++) {
      const y = row + 0.5, cuts = [];
      for (let k = 0; k < points.length; k++) {
        const [xa, ya] = points[k], [xb, yb] = points[(k + 1) % points.length];
        if (ya <= y !== yb <= y) cuts.push(xa + ((y - ya) * (xb - xa)) / (yb - ya));
      }
      cuts.sort((p, q) => p - q);
      for (let k = 0; k + 1 < cuts.length; k += 2) {
        const from = Math.max(l, Math.ceil(cuts[k] - 0.5)), to = Math.min(r, Math.ceil(cuts[k + 1] - 0.5));
        if (from < to) this._run(row * this.width + from, row * this.width + to, value, this.data);
      }
    }
    this._changed(l, t, r, b);
  }

  /** Joins other bytes of the whole size: "add", "take", "set". */
  join(other, how) {
    this._touch(0, 0, this.width, this.height);
    for (let k = 0; k < other.length; k++) {
      const old = this.data[k];
      const now = how === "set" ? other[k] : how === "add" ? Math.max(old, other[k]) : Math.min(old, 255 - other[k]);
      if (now !== old) this._set(k, now);
    }
    this._changed(0, 0, this.width, this.height);
  }

  fill(value) { this.join(new Uint8Array(this.data.length).fill(value), "set"); }

  invert() {
    this._touch(0, 0, this.width, this.height);
    for (let k = 0; k < this.data.length; k++) this._set(k, 255 - this.data[k]);
    this._changed(0, 0, this.width, this.height);
  }

  /** Says what was drawn: `sign` + or -, null where no words can. */
  say(sign, words) {
    if (words === null || this.words === null) this.words = null;
    else if (!this.words) this.words = sign === "+" ? words : null;
    else this.words += sign + words;
    if (!this.count) this.words = "";
  }

  static brushWords(points, r) { return `brush:${points.map(([x, y]) => `${round(x)},${round(y)}`).join(",")}:${round(r)}`; }
  static shapeWords(name, numbers) { return `${name}:${numbers.map(round).join(",")}`; }
  static round = round;

  // --- grow and feather, from a base: squared distances, exact (Felzenszwalb & Huttenlocher 2012)

  /** The bytes of the base grown by `by` pixels (negative: shrunk), its inner edge blended over `soft` pixels. */
  grown(base, by, soft) {
    const [l, t, r, b] = this.bounds(base, Math.max(0, by) + 2);
    if (l >= r) return base.slice();
    const w = r - l, hgt = b - t, on = new Float64Array(w * hgt), off = new Float64Array(w * hgt), far = 1e12;
    for (let y = 0; y < hgt; y++)
      for (let x = 0; x < w; x++) {
        const marked = base[(y + t) * this.width + x + l] >= 128;
        on[y * w + x] = marked ? 0 : far;
        off[y * w + x] = marked ? far : 0;
      }
    const field = by >= 0 ? on : off;
    distances(field, w, hgt);
    const grown = new Uint8Array(w * hgt);
    for (let k = 0; k < grown.length; k++)
      grown[k] = (by >= 0 ? field[k] <= by * by : field[k] > by * by) ? 255 : 0;
    if (soft > 0) {
      const inner = new Float64Array(w * hgt);
      for (let k = 0; k < inner.length; k++) inner[k] = grown[k] ? far : 0;
      distances(inner, w, hgt);
      for (let k = 0; k < inner.length; k++)
        if (grown[k]) grown[k] = Math.max(1, Math.round(255 * Math.min(1, Math.sqrt(inner[k]) / (soft + 1))));
    }
    const whole = new Uint8Array(base.length);
    for (let y = 0; y < hgt; y++) whole.set(grown.subarray(y * w, (y + 1) * w), (y + t) * this.width + l);
    return whole;
  }

  /** left, top, right, bottom of what is marked, with a rim. */
  bounds(data = this.data, rim = 0) {
    let l = this.width, t = this.height, r = 0, b = 0;
    for (let y = 0; y < this.height; y++) {
      const row = data.subarray(y * this.width, (y + 1) * this.width);
      let x = 0;
      while (x < this.width && !row[x]) x++;
      if (x === this.width) continue;
      let z = this.width - 1;
      while (!row[z]) z--;
      l = Math.min(l, x); r = Math.max(r, z + 1); t = Math.min(t, y); b = y + 1;
    }
    return [Math.max(0, l - rim), Math.max(0, t - rim), Math.min(this.width, r + rim), Math.min(this.height, b + rim)];
  }

  // --- undo

  get canUndo() { return this._undo.length > 0; }
  get canRedo() { return this._redo.length > 0; }
  undo() { this._swap(this._undo, this._redo); }
  redo() { this._swap(this._redo, this._undo); }

  _swap(from, to) {
    this.end();
    const step = from.pop();
    if (!step) return;
    const other = { tiles: new Map(), words: this.words, count: this.count };
    let l = this.width, t = this.height, r = 0, b = 0;
    for (const [index, bytes] of step.tiles) {
      other.tiles.set(index, this._tile(index));
      const [x0, y0, x1, y1] = this._place(index);
      for (let y = y0; y < y1; y++) this.data.set(bytes.subarray((y - y0) * (x1 - x0), (y - y0 + 1) * (x1 - x0)), y * this.width + x0);
      l = Math.min(l, x0); t = Math.min(t, y0); r = Math.max(r, x1); b = Math.max(b, y1);
    }
    this.words = step.words;
    this.count = step.count;
    to.push(other);
    this._changed(l, t, r, b);
  }

  // --- out

  /** The bytes of a PNG file: grey, 8 bits. */
  async png() {
    const { width, height, data } = this, rows = new Uint8Array((width + 1) * height);
    for (let y = 0; y < height; y++) rows.set(data.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
    const packed = new Uint8Array(await new Response(new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer());
    const head = new Uint8Array(13), view = new DataView(head.buffer);
    view.setUint32(0, width); view.setUint32(4, height);
    head[8] = 8; // bits; 0 in the others: grey, deflate, adaptive filter, not interlaced
    return new Blob([new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]), chunk("IHDR", head), chunk("IDAT", packed), chunk("IEND", new Uint8Array(0))], { type: "image/png" });
  }

  // --- within

  _cut(l, t, r, b) {
    return [Math.max(0, Math.floor(l)), Math.max(0, Math.floor(t)), Math.min(this.width, Math.ceil(r)), Math.min(this.height, Math.ceil(b))];
  }

  _set(k, value) {
    const old = this.data[k];
    if (old === value) return;
    this.count += (value > 0) - (old > 0);
    this.data[k] = value;
  }

  _run(from, to, value, data) {
    let was = 0;
    for (let k = from; k < to; k++) if (data[k]) was++;
    data.fill(value, from, to);
    this.count += (value ? to - from : 0) - was;
  }

  _place(index) {
    const x = (index % this._across) * TILE, y = Math.floor(index / this._across) * TILE;
    return [x, y, Math.min(this.width, x + TILE), Math.min(this.height, y + TILE)];
  }

  _tile(index) {
    const [x0, y0, x1, y1] = this._place(index), bytes = new Uint8Array((x1 - x0) * (y1 - y0));
    for (let y = y0; y < y1; y++) bytes.set(this.data.subarray(y * this.width + x0, y * this.width + x1), (y - y0) * (x1 - x0));
    return bytes;
  }

  /** Keeps what is there before it is drawn over. */
  _touch(l, t, r, b) {
    this.begin();
    for (let row = Math.floor(t / TILE); row * TILE < b; row++)
      for (let column = Math.floor(l / TILE); column * TILE < r; column++) {
        const index = row * this._across + column;
        if (!this._open.tiles.has(index)) this._open.tiles.set(index, this._tile(index));
      }
  }

  _changed(l, t, r, b) {
    this.version++;
    this.onchange(l, t, r, b);
  }
}

/** Squared distances to the nearest 0 of `f` (w x h), in place. */
function distances(f, w, h) {
  const most = Math.max(w, h), line = new Float64Array(most), at = new Int32Array(most), cut = new Float64Array(most + 1);
  const one = (start, step, n) => {
    for (let k = 0; k < n; k++) line[k] = f[start + k * step];
    let top = 0;
    at[0] = 0; cut[0] = -Infinity; cut[1] = Infinity;
    for (let q = 1; q < n; q++) {
      let s;
      do {
        const p = at[top];
        s = (line[q] + q * q - line[p] - p * p) / (2 * (q - p));
      } while (s <= cut[top] && --top >= 0);
      top++;
      at[top] = q; cut[top] = s; cut[top + 1] = Infinity;
    }
    for (let q = 0, k = 0; q < n; q++) {
      while (cut[k + 1] < q) k++;
      const d = q - at[k];
      f[start + q * step] = d * d + line[at[k]];
    }
  };
  for (let x = 0; x < w; x++) one(x, w, h);
  for (let y = 0; y < h; y++) one(y * w, 1, w);
}

const CRC = new Uint32Array(256).map((_, n) => { for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1; return n >>> 0; });

function chunk(kind, body) {
  const made = new Uint8Array(12 + body.length), view = new DataView(made.buffer);
  view.setUint32(0, body.length);
  for (let k = 0; k < 4; k++) made[4 + k] = kind.charCodeAt(k);
  made.set(body, 8);
  let crc = 0xffffffff;
  for (let k = 4; k < 8 + body.length; k++) crc = CRC[(crc ^ made[k]) & 255] ^ (crc >>> 8);
  view.setUint32(8 + body.length, (crc ^ 0xffffffff) >>> 0);
  return made;
}
