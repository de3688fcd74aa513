// The picture on the screen: zoom and pan, tiles where one comes near, the mask over it, estimates, before and after.
//
// screen = picture * z + (x, y), in CSS pixels. Two layers are kept apart, the picture and the mask, so that a stroke of
// the brush redraws only the rectangle it touched.

import { image } from "./api.js";

const TILE = 512;
const MOST_TILES = 160;
const MOST_ZOOM = 64;

/** One picture of the studio: a preview, and tiles that are fetched where they are seen. */
class Shown {
  constructor(record, preview, onload) {
    this.record = record;
    this.preview = preview;
    this.tiles = new Map();
    this.wanted = new Set();
    this.onload = onload;
  }

  /** Draws what covers the picture's rectangle l, t, r, b. `z`: device pixels a pixel of the picture. */
  draw(to, z, l, t, r, b) {
    const { width, height, id } = this.record, shown = this.preview.width / width;
    to.imageSmoothingEnabled = z < 3;
    to.imageSmoothingQuality = "medium";
    to.drawImage(this.preview, 0, 0, width, height);
    if (z <= shown * 1.05) return;
    const level = Math.max(0, Math.min(12, Math.floor(Math.log2(1 / z)))), side = TILE << level;
    for (let row = Math.max(0, Math.floor(t / side)); row * side < Math.min(height, b); row++)
      for (let column = Math.max(0, Math.floor(l / side)); column * side < Math.min(width, r); column++) {
        const key = `${level}/${column}/${row}`, tile = this.tiles.get(key);
        if (tile) {
          this.tiles.delete(key); this.tiles.set(key, tile);
          to.drawImage(tile, column * side, row * side, Math.min(side, width - column * side), Math.min(side, height - row * side));
        } else this._fetch(id, key);
      }
  }

  async _fetch(id, key) {
    if (this.wanted.has(key) || this.wanted.size >= 6) return;
    this.wanted.add(key);
    try {
      this.tiles.set(key, await image(`pictures/${id}/tiles/${key}`));
      while (this.tiles.size > MOST_TILES) { const [old, tile] = this.tiles.entries().next().value; tile.close(); this.tiles.delete(old); }
    } catch { /* the preview stays */ }
    this.wanted.delete(key);
    this.onload();
  }
}

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.to = canvas.getContext("2d", { alpha: false });
    this.base = document.createElement("canvas");
    this.over = document.createElement("canvas");
    this.z = 1; this.x = 0; this.y = 0;
    this.width = 0; this.height = 0; // of the picture
    this.mask = null;
    this.shown = null; this.before = null;
    this.divider = null;      // 0 to 1 of the canvas's width: left of it is `before`
    this.peek = false;        // all of it is `before`
    this.difference = false;
    this.estimate = null;     // {bitmap, box}
    this.ghost = null;        // draws a shape that is being made: (context, view)
    this.cursor = null;       // {x, y, r} in the picture
    this.showMask = true;
    this.onview = () => {};
    this.frames = null;       // a list to which frame times are written, for the benchmark
    this._whole = true; this._part = null; this._asked = false;
    new ResizeObserver(() => this._resize()).observe(canvas);
    this._scheme = matchMedia("(prefers-color-scheme: dark)");
    this._scheme.addEventListener("change", () => this.redraw());
    this._resize();
  }

  // --- what is shown

  async open(record, keepView = false) {
    const preview = await image(`pictures/${record.id}/preview`);
    this.shown = new Shown(record, preview, () => this.redraw());
    this.before = null; this.divider = null; this.difference = false; this.estimate = null;
    const same = keepView && this.width === record.width && this.height === record.height;
    this.width = record.width; this.height = record.height;
    if (!same) this.fit(); else this.redraw();
  }

  async compareWith(record) {
    this.before = record ? new Shown(record, await image(`pictures/${record.id}/preview`), () => this.redraw()) : null;
    this.redraw();
  }

  setMask(mask) {
    this.mask = mask;
    if (mask) {
      mask.onchange = (l, t, r, b) => this._maskChanged(l, t, r, b);
      this.mips = [4, 16].map((f) => ({ f, w: Math.ceil(mask.width / f), h: Math.ceil(mask.height / f), data: new Uint8Array(Math.ceil(mask.width / f) * Math.ceil(mask.height / f)) }));
      if (mask.count) this._maskChanged(0, 0, mask.width, mask.height);
    }
    this.redraw();
  }

  // --- coordinates

  /** A point of the window in the picture's pixels. */
  point(event) {
    const place = this.canvas.getBoundingClientRect();
    return [(event.clientX - place.left - this.x) / this.z, (event.clientY - place.top - this.y) / this.z];
  }

  fit() {
    this.auto = true; // a window of another size fits it anew
    const w = this.canvas.clientWidth, h = this.canvas.clientHeight, rim = Math.min(28, w / 24), foot = 72;
    if (!this.width || !w) return;
    this.z = Math.min((w - 2 * rim) / this.width, (h - rim - foot) / this.height, 8);
    this.x = (w - this.width * this.z) / 2;
    this.y = rim + (h - rim - foot - this.height * this.z) / 2;
    this.redraw();
  }

  /** Zooms to `z` about a point of the canvas. */
  zoomTo(z, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    const least = Math.min(0.02, 0.5 * Math.min(this.canvas.clientWidth / this.width, this.canvas.clientHeight / this.height));
    z = Math.min(MOST_ZOOM, Math.max(least, z));
    this.x = px - ((px - this.x) * z) / this.z;
    this.y = py - ((py - this.y) * z) / this.z;
    this.z = z;
    this.auto = false;
    this._hold();
    this.redraw();
  }

  pan(dx, dy) { this.auto = false; this.x += dx; this.y += dy; this._hold(); this.redraw(); }

  /** Some of the picture stays on the canvas. */
  _hold() {
    const w = this.canvas.clientWidth, h = this.canvas.clientHeight, keep = 48;
    this.x = Math.min(w - keep, Math.max(keep - this.width * this.z, this.x));
    this.y = Math.min(h - keep, Math.max(keep - this.height * this.z, this.y));
  }

  // --- drawing

  redraw() { this._whole = true; this._ask(); }
  get _maskSeen() { return this.showMask && this.divider === null && !this.difference && !this.peek; }
  refresh() { this._ask(); } // the cursor or a ghost moved

  _ask() {
    if (this._asked) return;
    this._asked = true;
    requestAnimationFrame(() => { this._asked = false; this._frame(); });
  }

  _resize() {
    const ratio = Math.min(3, devicePixelRatio || 1);
    const w = Math.max(1, Math.round(this.canvas.clientWidth * ratio)), h = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    const was = [this.canvas.width / this.ratio, this.canvas.height / this.ratio];
    for (const one of [this.canvas, this.base, this.over]) { one.width = w; one.height = h; }
    if (this.ratio) { this.x += (w / ratio - was[0]) / 2; this.y += (h / ratio - was[1]) / 2; }
    this.ratio = ratio;
    if (this.auto) this.fit();
    this.redraw();
  }

  _frame() {
    const began = performance.now();
    const { canvas, to } = this, w = canvas.width, h = canvas.height;
    if (this._whole) {
      this._drawBase();
      if (this.mask && this._maskSeen) this._drawMask(0, 0, w, h);
      else this.over.getContext("2d").clearRect(0, 0, w, h);
      this._part = null;
    } else if (this._part && this._maskSeen) {
      this._drawMask(...this._part);
    }
    this._whole = false; this._part = null;
    to.drawImage(this.base, 0, 0);
    to.drawImage(this.over, 0, 0);
    if (this.ghost) { to.save(); to.scale(this.ratio, this.ratio); this.ghost(to, this); to.restore(); }
    if (this.cursor) this._drawCursor();
    if (this.divider !== null && this.before) this._drawDivider();
    this.onview();
    if (this.frames) this.frames.push(performance.now() - began);
  }

  _drawBase() {
    const to = this.base.getContext("2d", { alpha: false }), { ratio } = this, w = this.base.width, h = this.base.height;
    to.setTransform(1, 0, 0, 1, 0, 0);
    to.fillStyle = getComputedStyle(this.canvas).backgroundColor;
    to.fillRect(0, 0, w, h);
    if (!this.shown) return;
    const z = this.z * ratio, l = -this.x / this.z, t = -this.y / this.z, r = l + w / z, b = t + h / z;
    const place = () => to.setTransform(z, 0, 0, z, this.x * ratio, this.y * ratio);
    place();
    if (this.shown.record.alpha) this._checks(to);
    const other = this.before, split = this.divider === null ? w : this.divider * w;
    if (this.peek && other) { other.draw(to, z, l, t, r, b); }
    else if (this.difference && other) {
      other.draw(to, z, l, t, r, b);
      // whole first: its tiles lie over its preview, and only what is seen of both is taken off
      const apart = new OffscreenCanvas(w, h), on = apart.getContext("2d");
      on.setTransform(z, 0, 0, z, this.x * ratio, this.y * ratio);
      this.shown.draw(on, z, l, t, r, b);
      to.globalCompositeOperation = "difference";
      to.setTransform(1, 0, 0, 1, 0, 0);
      to.drawImage(apart, 0, 0);
      place();
      to.globalCompositeOperation = "color-dodge"; // small differences are seen
      to.fillStyle = "#aaaaaa";
      to.fillRect(0, 0, this.width, this.height);
      to.globalCompositeOperation = "source-over";
    } else if (this.divider !== null && other) {
      for (const [one, from, upto] of [[other, 0, split], [this.shown, split, w]]) {
        to.save();
        to.setTransform(1, 0, 0, 1, 0, 0);
        to.beginPath(); to.rect(from, 0, upto - from, h); to.clip();
        // an enlarged result lies over the same place as what it was made from
        const fit = (z * this.width) / one.record.width;
        to.setTransform(fit, 0, 0, (z * this.height) / one.record.height, this.x * ratio, this.y * ratio);
        one.draw(to, fit, (l * z) / fit, (t * z) / fit, (r * z) / fit, (b * z) / fit);
        to.restore();
      }
    } else this.shown.draw(to, z, l, t, r, b);
    if (this.estimate) {
      place();
      const [x0, y0, x1, y1] = this.estimate.box;
      to.imageSmoothingEnabled = true;
      to.drawImage(this.estimate.bitmap, x0, y0, x1 - x0, y1 - y0);
    }
    to.setTransform(1, 0, 0, 1, 0, 0);
  }

  _checks(to) {
    const side = 8 / this.z;
    to.fillStyle = "#fff"; to.fillRect(0, 0, this.width, this.height);
    if (this.width / side > 400) return;
    to.fillStyle = "#ddd";
    for (let y = 0, row = 0; y < this.height; y += side, row++)
      for (let x = (row % 2) * side; x < this.width; x += 2 * side)
        to.fillRect(x, y, Math.min(side, this.width - x), Math.min(side, this.height - y));
  }

  // --- the mask over it

  _maskChanged(l, t, r, b) {
    for (const { f, w, h, data } of this.mips)
      for (let y = Math.floor(t / f); y < Math.min(h, Math.ceil(b / f)); y++)
        for (let x = Math.floor(l / f); x < Math.min(w, Math.ceil(r / f)); x++) {
          let most = 0;
          const y1 = Math.min(this.mask.height, (y + 1) * f), x1 = Math.min(this.mask.width, (x + 1) * f);
          for (let v = y * f; v < y1 && most < 255; v++)
            for (let u = x * f; u < x1; u++) { const m = this.mask.data[v * this.mask.width + u]; if (m > most) most = m; }
          data[y * w + x] = most;
        }
    const z = this.z * this.ratio, ox = this.x * this.ratio, oy = this.y * this.ratio;
    const part = [Math.floor(l * z + ox) - 2, Math.floor(t * z + oy) - 2, Math.ceil(r * z + ox) + 2, Math.ceil(b * z + oy) + 2];
    const had = this._part;
    this._part = had ? [Math.min(had[0], part[0]), Math.min(had[1], part[1]), Math.max(had[2], part[2]), Math.max(had[3], part[3])] : part;
    this._ask();
  }

  /** Composes the mask within device pixels l, t to r, b: a tint, and a line where it ends. */
  _drawMask(l, t, r, b) {
    const to = this.over.getContext("2d", { willReadFrequently: true });
    l = Math.max(0, l); t = Math.max(0, t); r = Math.min(this.over.width, r); b = Math.min(this.over.height, b);
    if (l >= r || t >= b || !this.mask) return;
    const w = r - l, hgt = b - t, seen = to.createImageData(w, hgt), out = new Uint32Array(seen.data.buffer);
    const z = this.z * this.ratio, ox = this.x * this.ratio, oy = this.y * this.ratio;
    const mip = z > 0.3 ? null : z > 0.07 ? this.mips[0] : this.mips[1];
    const f = mip ? mip.f : 1, wide = mip ? mip.w : this.mask.width, high = mip ? mip.h : this.mask.height, data = mip ? mip.data : this.mask.data;
    const columns = new Int32Array(w + 1);
    for (let k = 0; k <= w; k++) { const c = Math.floor((l + k - 1 + 0.5 - ox) / z / f); columns[k] = c >= 0 && c < wide ? c : -1; }
    const [tint, edge] = this._colours();
    let above = new Uint8Array(w + 1), here = new Uint8Array(w + 1);
    for (let k = -1; k < hgt; k++) {
      const row = Math.floor((t + k + 0.5 - oy) / z / f), inside = row >= 0 && row < high;
      for (let c = 0; c <= w; c++) here[c] = inside && columns[c] >= 0 ? data[row * wide + columns[c]] : 0;
      if (k >= 0)
        for (let c = 1; c <= w; c++) {
          const m = here[c], on = m >= 128;
          if (on !== here[c - 1] >= 128 || on !== above[c] >= 128) out[k * w + c - 1] = edge;
          else if (m) out[k * w + c - 1] = (tint & 0xffffff) | (Math.round((tint >>> 24) * m / 255) << 24);
        }
      [above, here] = [here, above];
    }
    to.putImageData(seen, l, t);
  }

  /** Tint and edge as 0xAABBGGRR. */
  _colours() {
    const read = (name) => getComputedStyle(this.canvas).getPropertyValue(name).trim().match(/[\da-f]{2}/gi).map((v) => parseInt(v, 16));
    if (!this._read || this._readDark !== this._scheme.matches) {
      this._readDark = this._scheme.matches;
      this._read = [["--mask-tint", 0x80], ["--mask-edge", 0xff]].map(([name, alpha]) => { const [r, g, b] = read(name); return ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0; });
    }
    return this._read;
  }

  _drawCursor() {
    const { to, ratio } = this, { x, y, r } = this.cursor;
    const cx = (x * this.z + this.x) * ratio, cy = (y * this.z + this.y) * ratio, wide = Math.max(2 * ratio, r * this.z * ratio);
    to.lineWidth = 3 * ratio; to.strokeStyle = "rgb(0 0 0 / .55)";
    to.beginPath(); to.arc(cx, cy, wide, 0, 7); to.stroke();
    to.lineWidth = 1.25 * ratio; to.strokeStyle = "#fff";
    to.beginPath(); to.arc(cx, cy, wide, 0, 7); to.stroke();
  }

  _drawDivider() {
    const { to, canvas, ratio } = this, x = Math.round(this.divider * canvas.width), y = canvas.height / 2;
    to.fillStyle = "rgb(0 0 0 / .35)"; to.fillRect(x - 1.5 * ratio, 0, 3 * ratio, canvas.height);
    to.fillStyle = "#fff"; to.fillRect(x - 0.75 * ratio, 0, 1.5 * ratio, canvas.height);
    to.beginPath(); to.arc(x, y, 15 * ratio, 0, 7); to.fill();
    to.strokeStyle = "#222"; to.lineWidth = 1.75 * ratio; to.lineCap = to.lineJoin = "round";
    for (const side of [-1, 1]) {
      to.beginPath();
      to.moveTo(x + side * 4 * ratio, y - 4 * ratio); to.lineTo(x + side * 8 * ratio, y); to.lineTo(x + side * 4 * ratio, y + 4 * ratio);
      to.stroke();
    }
  }
}
