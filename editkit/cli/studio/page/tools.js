// Pointer, pen, touch and keyboard on the picture: what they do with the mask and the view.

import { Mask } from "./mask.js";

export const TOOLS = ["brush", "eraser", "box", "ellipse", "lasso", "magic", "hand"];

export class Tools {
  /** `asked`: words for the library to draw (magic colour). `changed`: the mask was changed by a whole step. */
  constructor(view, { asked, changed }) {
    this.view = view;
    this.asked = asked;
    this.changed = changed;
    this.tool = "brush";
    this.size = 40;          // diameter, in CSS pixels at zoom 1 of the screen, as pixels of the picture
    this.tolerance = 24;
    this.joined = true;
    this.takeAway = false;
    this._pointers = new Map();
    this._stroke = null;
    this._space = false;
    this._key = null;        // where the keyboard's brush is
    this._from = null;
    this._listen(view.canvas);
  }

  get radius() { return Math.max(0.5, this.size / 2); }
  get ready() { return this.view.mask !== null; }

  _listen(canvas) {
    canvas.addEventListener("pointerdown", (e) => this._down(e));
    canvas.addEventListener("pointermove", (e) => this._move(e));
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (e) => this._up(e));
    canvas.addEventListener("pointerleave", () => { if (!this._stroke) { this.view.cursor = null; this.view.refresh(); } });
    canvas.addEventListener("contextmenu", (e) => e.preventDefault());
    canvas.addEventListener("wheel", (e) => this._wheel(e), { passive: false });
    canvas.addEventListener("keydown", (e) => this._keyDown(e));
    canvas.addEventListener("blur", () => { this._key = null; this.view.cursor = null; this.view.refresh(); });
    addEventListener("keydown", (e) => { if (e.code === "Space" && document.activeElement === document.body) { this._space = true; e.preventDefault(); } });
    addEventListener("keyup", (e) => { if (e.code === "Space") this._space = false; });
  }

  // --- pointers

  _down(e) {
    if (!this.ready) return;
    this.view.canvas.setPointerCapture(e.pointerId);
    this._pointers.set(e.pointerId, [e.clientX, e.clientY]);
    const touches = e.pointerType === "touch" ? this._pointers.size : 1;
    if (touches === 2) { this._cancel(); this._pinch = this._spread(); return; }
    if (this._onDivider(e)) { this._dividing = true; return; }
    if (this.tool === "hand" || this._space || e.button === 1 || e.button === 2) { this._panning = [e.clientX, e.clientY]; return; }
    if (e.button !== 0) return;
    this.start(this.view.point(e), this._radiusOf(e));
  }

  _move(e) {
    if (!this.ready) return;
    const had = this._pointers.has(e.pointerId);
    if (had) this._pointers.set(e.pointerId, [e.clientX, e.clientY]);
    if (this._pinch && this._pointers.size >= 2) {
      const now = this._spread(), place = this.view.canvas.getBoundingClientRect();
      this.view.pan(now.x - this._pinch.x, now.y - this._pinch.y);
      this.view.zoomTo((this.view.z * now.d) / Math.max(1, this._pinch.d), now.x - place.left, now.y - place.top);
      this._pinch = now;
      return;
    }
    if (this._dividing) {
      const place = this.view.canvas.getBoundingClientRect();
      this.divide(Math.min(0.98, Math.max(0.02, (e.clientX - place.left) / place.width)));
      return;
    }
    if (this._panning) {
      this.view.pan(e.clientX - this._panning[0], e.clientY - this._panning[1]);
      this._panning = [e.clientX, e.clientY];
      return;
    }
    const point = this.view.point(e);
    if (this.tool === "brush" || this.tool === "eraser") {
      this.view.cursor = e.pointerType === "touch" ? null : { x: point[0], y: point[1], r: this._radiusOf(e) };
      this.view.refresh();
    }
    if (!this._stroke || !had) return;
    const all = e.getCoalescedEvents ? e.getCoalescedEvents() : [];
    for (const one of all.length ? all : [e]) this.to(this.view.point(one), this._radiusOf(one));
  }

  _up(e) {
    this._pointers.delete(e.pointerId);
    if (this._pinch) { if (this._pointers.size < 2) this._pinch = null; return; }
    if (this._dividing) { this._dividing = false; return; }
    if (this._panning) { this._panning = null; return; }
    if (e.type === "pointercancel") this._cancel(); else this.finish();
  }

  _spread() {
    const [[ax, ay], [bx, by]] = [...this._pointers.values()];
    return { x: (ax + bx) / 2, y: (ay + by) / 2, d: Math.hypot(ax - bx, ay - by) };
  }

  _onDivider(e) {
    const { view } = this;
    if (view.divider === null || !view.before) return false;
    const place = view.canvas.getBoundingClientRect();
    return Math.abs(e.clientX - place.left - view.divider * place.width) < (e.pointerType === "touch" ? 28 : 14);
  }

  divide(part) { this.view.divider = part; this.view.redraw(); this.ondivide?.(part); }

  _wheel(e) {
    if (!this.ready) return;
    e.preventDefault();
    const place = this.view.canvas.getBoundingClientRect();
    if (e.ctrlKey || e.metaKey || !e.shiftKey && Math.abs(e.deltaY) >= Math.abs(e.deltaX) && e.deltaMode === 0 && !e.altKey)
      this.view.zoomTo(this.view.z * Math.exp(-e.deltaY * (e.ctrlKey ? 0.01 : 0.0016)), e.clientX - place.left, e.clientY - place.top);
    else this.view.pan(-e.deltaX, -e.deltaY);
  }

  /** A pen's pressure makes a thinner line; everything else has the size that was set. */
  _radiusOf(e) { return e.pointerType === "pen" && e.pressure > 0 ? this.radius * (0.25 + 0.75 * e.pressure) : this.radius; }

  // --- strokes and shapes, whoever moves

  get value() { return this.tool === "eraser" || this.takeAway ? 0 : 255; }
  get sign() { return this.value ? "+" : "-"; }

  start(point, r = this.radius) {
    const mask = this.view.mask, at = point.map(Mask.round);
    if (!this.view.showMask) { this.view.showMask = true; this.view.redraw(); }
    if (this.tool === "magic") { this._magic(point); return; }
    mask.begin();
    this._stroke = { points: [at], r: Mask.round(r), from: at, to: at, said: [] };
    if (this.tool === "brush" || this.tool === "eraser") mask.stroke(...at, ...at, this._stroke.r, this.value);
    else this.view.ghost = (to, view) => this._ghost(to, view);
  }

  to(point, r = this.radius) {
    const stroke = this._stroke, at = point.map(Mask.round);
    if (!stroke) return;
    if (this.tool === "brush" || this.tool === "eraser") {
      r = Mask.round(r);
      const last = stroke.points.at(-1);
      if (r !== stroke.r) { // a pen: each width is a line of its own
        stroke.said.push(Mask.brushWords(stroke.points, stroke.r));
        stroke.points = [last];
        stroke.r = r;
      }
      this.view.mask.stroke(...last, ...at, r, this.value);
      stroke.points.push(at);
    } else {
      stroke.to = at;
      if (this.tool === "lasso" && Math.hypot(at[0] - stroke.points.at(-1)[0], at[1] - stroke.points.at(-1)[1]) * this.view.z > 1.5) stroke.points.push(at);
      this.onwords?.(this._words());
      this.view.refresh();
    }
  }

  finish() {
    const stroke = this._stroke, mask = this.view.mask;
    if (!stroke) return;
    let words = this._words();
    if (this.tool === "box") mask.box(...this._corners(), this.value);
    if (this.tool === "ellipse") mask.ellipse(...this._corners(), this.value);
    if (this.tool === "lasso") mask.polygon(stroke.points, this.value);
    this._stroke = null;
    this.view.ghost = null;
    mask.say(this.sign, words);
    mask.end();
    this.view.refresh();
    this.changed();
  }

  _cancel() {
    if (!this._stroke) return;
    const mask = this.view.mask;
    mask.end();
    if (this.tool === "brush" || this.tool === "eraser") { mask.undo(); mask._redo.pop(); }
    this._stroke = null;
    this.view.ghost = null;
    this.view.refresh();
  }

  _corners() {
    const { from, to } = this._stroke;
    return [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
  }

  /** What is being drawn, as `--mask` takes it. */
  _words() {
    const stroke = this._stroke;
    if (this.tool === "brush" || this.tool === "eraser") return [...stroke.said, Mask.brushWords(stroke.points, stroke.r)].join(this.sign);
    if (this.tool === "lasso") return Mask.shapeWords("polygon", stroke.points.flat());
    return Mask.shapeWords(this.tool, this._corners());
  }

  _ghost(to, view) {
    const stroke = this._stroke, put = ([x, y]) => [x * view.z + view.x, y * view.z + view.y];
    if (!stroke) return;
    to.beginPath();
    if (this.tool === "lasso") { stroke.points.forEach((p, k) => to[k ? "lineTo" : "moveTo"](...put(p))); to.closePath(); }
    else {
      const [l, t, r, b] = this._corners(), [x0, y0] = put([l, t]), [x1, y1] = put([r, b]);
      if (this.tool === "box") to.rect(x0, y0, x1 - x0, y1 - y0);
      else to.ellipse((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2, 0, 0, 7);
    }
    to.fillStyle = "rgb(255 255 255 / .18)"; to.fill();
    to.lineWidth = 3; to.strokeStyle = "rgb(0 0 0 / .5)"; to.stroke();
    to.lineWidth = 1.25; to.strokeStyle = "#fff"; to.setLineDash([5, 4]); to.stroke(); to.setLineDash([]);
  }

  _magic([x, y]) {
    const { width, height } = this.view.mask;
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    this.asked({ x: Math.floor(x), y: Math.floor(y), tolerance: this.tolerance, joined: this.joined, how: this.value ? "add" : "take", sign: this.sign });
  }

  // --- the keyboard's brush

  _keyDown(e) {
    if (!this.ready) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (steps && !e.ctrlKey && !e.metaKey && !e.altKey) {
      e.preventDefault();
      const far = e.shiftKey ? 1 : Math.max(1, Math.round(12 / this.view.z));
      const [x, y] = this._key ?? [this.view.width / 2, this.view.height / 2];
      this._key = [Math.min(this.view.width, Math.max(0, x + steps[0] * far)), Math.min(this.view.height, Math.max(0, y + steps[1] * far))];
      if (this._stroke) this.to(this._key);
      this._showKey();
    } else if (e.key === "Enter" && !e.ctrlKey && !e.metaKey) {
      e.preventDefault();
      this._key ??= [this.view.width / 2, this.view.height / 2];
      if (this._stroke) this.finish();
      else { this.start(this._key); this._showKey(); }
    } else if (e.key === "Escape" && this._stroke) { e.stopPropagation(); this._cancel(); }
  }

  _showKey() {
    const { view } = this, sx = this._key[0] * view.z + view.x, sy = this._key[1] * view.z + view.y;
    const w = view.canvas.clientWidth, h = view.canvas.clientHeight;
    view.pan(sx < 20 ? 20 - sx : sx > w - 20 ? w - 20 - sx : 0, sy < 20 ? 20 - sy : sy > h - 20 ? h - 20 - sy : 0);
    view.cursor = { x: this._key[0], y: this._key[1], r: this.tool === "brush" || this.tool === "eraser" ? this.radius : 3 / view.z };
    view.refresh();
  }
}
