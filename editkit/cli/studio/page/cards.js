// The chain: `with` side by side, `then` below each other, and a form for each card, made of its declaration.

import { h, icon, iconButton } from "./dom.js";
import { T } from "./texts.js";

export const PAINTED = Symbol("painted");

let counter = 0;
const fresh = (name) => `${name}-${++counter}`;

export class Chain {
  constructor(place, onchange) {
    this.place = place;
    this.onchange = onchange;
    this.stages = [];         // {plugins: [{name, values}], options}
    this.open = null;         // the card whose form is seen
    this.error = null;        // {place, text}
    this.declared = new Map();
    this.options = [];
    this.models = [];
  }

  declare({ plugins, options }) {
    this.declared = new Map(plugins.map((plugin) => [plugin.name, plugin]));
    this.options = options;
  }

  get empty() { return this.stages.length === 0; }
  get cards() { return this.stages.flatMap((stage) => stage.plugins); }
  get paints() { return this.cards.some((card) => Object.values(card.values).some((v) => v === PAINTED || Array.isArray(v) && v.includes(PAINTED))); }

  /** The recipe's mapping; `mask` is the path of what is painted. */
  recipe(mask) {
    const said = (value) => value === PAINTED ? mask : Array.isArray(value) ? value.map(said) : value;
    return {
      editkit: 2,
      stages: this.stages.map(({ plugins, options }) => ({
        plugins: plugins.map(({ name, values }) => ({ [name]: Object.fromEntries(Object.entries(values).map(([k, v]) => [k, said(v)])) })),
        ...(Object.keys(options).length ? { options: { ...options } } : {}),
      })),
    };
  }

  /** From a recipe's mapping; `painted` says which mask paths are the painted one. */
  take(recipe, painted = () => false) {
    const read = (value) => typeof value === "string" && painted(value) ? PAINTED : value;
    this.stages = recipe.stages.map((stage) => ({
      plugins: stage.plugins.map((entry) => {
        const [name, values] = typeof entry === "string" ? [entry, {}] : Object.entries(entry)[0];
        return { name, values: Object.fromEntries(Object.entries(values || {}).map(([k, v]) => [k, read(v)])) };
      }),
      options: { ...(stage.options || {}) },
    }));
    this.open = this.cards[0] ?? null;
    this.changed();
  }

  add(name, stage) {
    const declared = this.declared.get(name), card = { name, values: {} };
    const mask = declared.fields.find((field) => field.key === "mask" && field.kind === "mask");
    if (mask && declared.masks) card.values.mask = PAINTED;
    if (stage === null) this.stages.push({ plugins: [card], options: {} });
    else this.stages[stage].plugins.push(card);
    this.open = card;
    this.changed();
    this.place.querySelector(".card-form")?.querySelector("input, select, textarea, button")?.focus({ preventScroll: true });
  }

  remove(card) {
    for (const stage of this.stages) stage.plugins = stage.plugins.filter((one) => one !== card);
    const first = this.stages[0]?.options;
    this.stages = this.stages.filter((stage) => stage.plugins.length);
    if (this.stages[0] && first) this.stages[0].options = { ...first, ...this.stages[0].options };
    if (this.open === card) this.open = this.cards.at(-1) ?? null;
    this.changed();
  }

  changed() { this.error = null; this.draw(); this.onchange(); }

  /** An error where it is; without a place, above the button. */
  blame(text, place) {
    this.error = { text, place };
    const card = this._blamed();
    if (card && this.open !== card) { this.open = card; this.draw(); }
    this._mark();
  }

  forgive() { if (this.error) { this.error = null; this._mark(); } }

  _blamed() {
    const place = this.error?.place;
    if (!place || place[0] !== "stages" || place[2] !== "plugins") return null;
    return this.stages[place[1]]?.plugins[place[3]] ?? null;
  }

  _mark() {
    for (const old of this.place.querySelectorAll(".wrong")) old.classList.remove("wrong");
    for (const old of this.place.querySelectorAll(".field-error")) { old.textContent = ""; old.hidden = true; }
    for (const old of this.place.querySelectorAll("[aria-invalid]")) old.removeAttribute("aria-invalid");
    if (this.error) this.error.shown = false;
    if (!this.error?.place) return;
    const key = this.error.place.at(-1), scope = this._blamed() ? ".card-form" : `[data-options="${this.error.place[1] ?? 0}"]`;
    const field = [...this.place.querySelectorAll(`${scope} .field`)].find((one) => one.dataset.key === String(key));
    if (!field) return;
    this.error.shown = true;
    field.closest("details")?.setAttribute("open", "");
    field.classList.add("wrong");
    const said = field.querySelector(".field-error");
    said.textContent = this.error.text; said.hidden = false;
    field.querySelector("input, select, textarea")?.setAttribute("aria-invalid", "true");
  }

  // --- drawing

  draw() {
    const focus = document.activeElement?.dataset?.focus;
    this.place.replaceChildren(...(this.empty ? [this._begin()] : [this._chain()]));
    this._mark();
    if (focus) this.place.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
  }

  _begin() {
    return h("div", { class: "begin" }, h("h2", {}, T.choose), h("p", {}, T.chooseMore), this._menu(null));
  }

  /** The methods in their groups, with a search. */
  _menu(stage, close = () => {}) {
    const id = fresh("search"), list = h("div", { class: "methods" });
    const fill = (wanted = "") => {
      const groups = new Map();
      for (const plugin of this.declared.values()) {
        if (wanted && !`${plugin.name} ${plugin.help}`.toLowerCase().includes(wanted)) continue;
        if (!groups.has(plugin.group)) groups.set(plugin.group, []);
        groups.get(plugin.group).push(plugin);
      }
      list.replaceChildren(...[...groups].flatMap(([group, plugins]) => [
        h("h3", {}, T.sections[group] ?? group),
        h("ul", {}, plugins.map((plugin) => h("li", {}, h("button", {
          type: "button", class: "method", disabled: Boolean(plugin.broken), "data-plugin": plugin.name,
          onclick: () => { close(); this.add(plugin.name, stage); },
        }, h("b", {}, plugin.name), h("span", {}, plugin.broken ? `${T.broken}: ${plugin.broken}` : plugin.help.split("\n")[0]))))),
      ]));
    };
    fill();
    return h("div", { class: "menu" },
      h("label", { class: "hidden", for: id }, T.search),
      h("input", { id, type: "search", class: "search", placeholder: T.search, oninput: (e) => fill(e.target.value.trim().toLowerCase()) }), list);
  }

  _chain() {
    return h("div", { class: "chain" },
      this.stages.map((stage, number) => [
        number ? h("div", { class: "then" }, h("span", {}, T.thenMore)) : null,
        h("section", { class: "process", "aria-label": T.process(number + 1) },
          h("div", { class: "row" }, stage.plugins.map((card, k) => [
            k ? h("span", { class: "with" }, T.withMore) : null, this._chip(card)]),
            this._adder(T.addWith, number, `with-${number}`)),
          stage.plugins.includes(this.open) ? this._form(this.open) : null,
          number ? this._later(stage.options, number) : null),
      ]),
      h("div", { class: "then last" }, this._adder(T.addThen, null, "then", T.thenMore)),
      this._options());
  }

  _chip(card) {
    const seen = card === this.open;
    return h("span", { class: seen ? "chip seen" : "chip" },
      h("button", { type: "button", class: "chip-name", "aria-expanded": String(seen), "data-focus": `chip-${this.cards.indexOf(card)}`,
        onclick: () => { this.open = seen ? null : card; this.draw(); } }, card.name),
      iconButton("close", T.remove(card.name), () => this.remove(card), { class: "chip-close" }));
  }

  _adder(text, stage, name, word = null) {
    const button = h("button", { type: "button", class: word ? "adder wide" : "adder", "aria-label": text, title: text, "aria-haspopup": "dialog", "data-focus": name,
      onclick: () => {
        const sheet = h("dialog", { class: "sheet small", "aria-label": text });
        sheet.append(h("div", { class: "sheet-head" }, h("h2", {}, text), iconButton("close", T.close, () => sheet.close())),
          this._menu(stage, () => sheet.close()));
        sheet.addEventListener("close", () => sheet.remove());
        sheet.addEventListener("click", (e) => { if (e.target === sheet) sheet.close(); });
        document.body.append(sheet);
        sheet.showModal();
      } }, icon("plus"), word);
    return button;
  }

  _form(card) {
    const declared = this.declared.get(card.name);
    if (!declared) return null;
    const own = declared.fields.filter((field) => field.own), more = declared.fields.filter((field) => !field.own);
    const seen = own.slice(0, 6), rest = [...own.slice(6), ...more];
    return h("div", { class: "card-form" },
      h("p", { class: "about" }, declared.help.split("\n\n")[0].replaceAll("\n", " ")),
      seen.map((field) => this._field(field, card.values)),
      this._rest(rest, card.values));
  }

  _options() {
    const first = this.stages[0];
    const model = this.models.find((one) => one.name === first.options.model), reads = model?.takes.includes("prompt");
    const seen = ["model", ...(reads ? ["prompt", "negative"] : [])], pair = ["steps", "seed"];
    const of = (keys) => keys.map((key) => this.options.find((field) => field.key === key)).filter(Boolean);
    const drawn = (field) => this._field(field.key === "model" ? { ...field, kind: "model", help: "" } : field, first.options);
    const rest = this.options.filter((field) => ![...seen, ...pair].includes(field.key));
    return h("section", { class: "options", "data-options": "0" }, h("h2", {}, T.options), of(seen).map(drawn), h("div", { class: "pair" }, of(pair).map(drawn)),
      this._rest(rest, first.options));
  }

  /** The options of a process below the first; what is not set here is as in the first. */
  _later(values, number) {
    const first = this.stages[0].options, as = (field) => (field.key in first ? { ...field, default: first[field.key] } : field);
    const fields = this.options.map((field) => as(field.key === "model" ? { ...field, kind: "model", help: "" } : field));
    const made = this._rest(fields, values, T.ownOptions);
    made.dataset.options = String(number);
    return made;
  }

  _rest(fields, values, text = T.more(fields.length)) {
    if (!fields.length) return null;
    const set = fields.some((field) => field.key in values);
    return h("details", { class: "more", open: set }, h("summary", {}, text), fields.map((field) => this._field(field, values)));
  }

  /** One parameter: a label, something to enter it by, its hint, and its error. */
  _field(field, values) {
    const id = fresh(field.key), row = h("div", { class: "field", "data-key": field.key });
    const put = (value) => {
      if (value === undefined) delete values[field.key]; else values[field.key] = value;
      row.classList.toggle("set", field.key in values);
      this.forgive();
      this.onchange();
    };
    row.classList.toggle("set", field.key in values);
    const hint = h("p", { class: "hint", id: `${id}-hint` }, field.help);
    const reset = iconButton("reset", T.reset(field.key), () => { delete values[field.key]; const made = this._field(field, values); row.replaceWith(made); this.onchange(); made.querySelector("input, select, textarea")?.focus(); }, { class: "reset" });
    const label = field.key.replaceAll("_", " ");
    const inputs = this._inputs(field, id, values[field.key], put);
    const flag = field.kind === "flag";
    row.append(h("div", { class: flag ? "field-line flag" : "field-line" }, h("label", { for: id }, label), flag ? inputs : null, reset),
      ...(flag ? [] : [h("div", { class: "field-input" }, inputs)]), hint,
      h("p", { class: "field-error", id: `${id}-error`, hidden: true }));
    for (const one of row.querySelectorAll("input, select, textarea")) one.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
    return row;
  }

  _inputs(field, id, value, put) {
    const shown = value === undefined ? field.default : value;
    const number = (text) => (text.trim() === "" ? undefined : Number.isNaN(Number(text)) ? text : Number(text));
    switch (field.kind) {
      case "flag":
        return [h("input", { id, type: "checkbox", class: "switch", role: "switch", checked: Boolean(shown), onchange: (e) => put(e.target.checked === field.default ? undefined : e.target.checked) })];
      case "choice":
        return [select(id, [["", field.default === null ? T.byDefault : `${field.default} · ${T.byDefault}`], ...field.choices.filter((c) => c !== field.default).map((c) => [c, c])], value ?? "", (v) => put(v === "" ? undefined : v))];
      case "model":
        return [select(id, this.models.filter((m) => !m.lora).map((m) => (m.name === field.default ? ["", `${m.name} · ${T.byDefault}`] : [m.name, m.name])), value ?? "", (v) => put(v === "" ? undefined : v))];
      case "lora": return [this._loras(id, value ?? [], put)];
      case "int":
      case "float": {
        const bounded = field.low !== null && field.high !== null && field.high <= 1000, step = field.kind === "int" ? 1 : "any";
        const box = h("input", { id, type: "number", inputmode: "decimal", step, placeholder: field.default ?? T.byDefault, value: value === undefined ? "" : String(value),
          oninput: (e) => { put(number(e.target.value)); if (slide) slide.value = e.target.value === "" ? field.default : e.target.value; } });
        const slide = bounded ? h("input", { type: "range", min: String(field.low), max: String(field.high), step: field.kind === "int" ? "1" : String((field.high - field.low) / 100), value: String(shown ?? field.low), "aria-label": field.key,
          oninput: (e) => { const v = Number(e.target.value); box.value = v; put(v); } }) : null;
        return slide ? [slide, box] : [box];
      }
      case "color": {
        const box = h("input", { id, type: "text", placeholder: field.default, value: value ?? "", spellcheck: "false", oninput: (e) => { put(e.target.value.trim() || undefined); if (/^#[\da-f]{6}$/i.test(e.target.value)) well.value = e.target.value; } });
        const well = h("input", { type: "color", value: shown, "aria-label": field.key, oninput: (e) => { box.value = e.target.value; put(e.target.value); } });
        return [well, box];
      }
      case "mask": return this._maskInputs(field, id, value, put);
      case "weights": return [select(id, [["", (Array.isArray(field.default) ? "" : field.default) || T.none], ...this.models.filter((m) => !m.lora && !["auto", "patches", "pocket"].includes(m.name)).map((m) => [m.name, m.name])], (Array.isArray(value) ? value[0] : value) ?? "", (v) => put(!v ? undefined : field.repeated ? [v] : v))];
      default: return [this._text(field, id, value, put)];
    }
  }

  /** The LoRAs that may be named, each with its weight; `FILE` or `FILE:WEIGHT` are the values. */
  _loras(id, values, put) {
    const known = this.models.filter((m) => m.lora).map((m) => m.name);
    const set = new Map(values.map((word) => {
      const name = known.find((one) => word === one || word.startsWith(`${one}:`)) ?? word.replace(/:[^:/]*$/, "");
      return [name, word.slice(name.length + 1)];
    }));
    const names = [...new Set([...known, ...set.keys()])];
    const tell = () => put(set.size ? [...set].map(([name, weight]) => (weight ? `${name}:${weight}` : name)) : undefined);
    if (!names.length) return h("p", { class: "quiet", id }, T.noLoras);
    return h("ul", { class: "loras" }, names.map((name, k) => {
      const weight = h("input", { type: "number", step: "any", placeholder: "1", value: set.get(name) ?? "", "aria-label": T.weightOf(name), disabled: !set.has(name),
        oninput: () => { set.set(name, weight.value.trim()); tell(); } });
      const one = k ? fresh("lora") : id;
      return h("li", {}, h("input", { id: one, type: "checkbox", checked: set.has(name), onchange: (e) => {
        if (e.target.checked) set.set(name, weight.value.trim()); else set.delete(name);
        weight.disabled = !e.target.checked;
        tell();
      } }), h("label", { for: one }, name.split("/").at(-1)), weight);
    }));
  }

  _text(field, id, value, put) {
    const list = field.kind === "picture" ? "pictures" : null, several = field.repeated;
    const text = Array.isArray(value) ? value.join("\n") : value === undefined ? "" : String(value);
    const numeric = (v) => (/^-?\d+$/.test(v) && typeof field.default === "number" ? Number(v) : v);
    const read = (raw) => {
      const lines = raw.split("\n").map((line) => line.trim()).filter(Boolean);
      put(!lines.length ? undefined : several ? lines : numeric(raw.trim()));
    };
    const hint = field.default === null || Array.isArray(field.default) || field.default === "" ? "" : String(field.default);
    return several || field.key === "prompt" || field.key === "negative"
      ? h("textarea", { id, rows: "2", placeholder: hint, oninput: (e) => read(e.target.value) }, text)
      : h("input", { id, type: "text", list, placeholder: hint, value: text, spellcheck: "false", autocomplete: "off", oninput: (e) => read(e.target.value) });
  }

  _maskInputs(field, id, value, put) {
    const kind = value === PAINTED ? "painted" : value === undefined ? "" : "words";
    const said = h("input", { type: "text", "aria-label": T.inWords, class: "words-input", placeholder: "box:10%,10%,50%,50%", spellcheck: "false", hidden: kind !== "words",
      value: Array.isArray(value) ? value.filter((v) => v !== PAINTED).join(" ") : kind === "words" ? String(value) : "", oninput: (e) => put(e.target.value.trim() || undefined) });
    const which = select(id, [["painted", T.painted], ["words", T.inWords], ["", T.none]], kind, (v) => {
      said.hidden = v !== "words";
      put(v === "painted" ? PAINTED : v === "words" ? said.value.trim() || undefined : undefined);
      if (v === "words") said.focus();
    });
    return [which, said];
  }
}

function select(id, rows, value, onchange) {
  const made = h("select", { id, onchange: (e) => onchange(e.target.value) },
    rows.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
  if (!rows.some(([key]) => key === value)) made.append(h("option", { value, selected: true }, value));
  return made;
}
