// The page: what is open, what is asked for, what comes of it.

import { Refused, at, bytes, get, image, post, remove, send, tab, watch } from "./api.js";
import { Chain } from "./cards.js";
import { $, h, icon, iconButton, settled } from "./dom.js";
import { History } from "./history.js";
import { Mask } from "./mask.js";
import { openModels, openSave, openWords } from "./sheets.js";
import { T } from "./texts.js";
import { TOOLS, Tools } from "./tools.js";
import { View } from "./view.js";

const state = {
  picture: null,        // the record that is edited: a file, or a result
  root: null,
  mask: null,           // {id, path, version} as the studio has it
  running: new Map(),   // edits of this picture that wait or run
  group: [],            // the edits asked for last
  alive: true,
  goOn: false,          // a result is shown: whether the next edit is made of it, or of what it was made of
  masks: new Map(),     // of the pictures of this root, by size
};

const view = new View($("canvas"));
const chain = new Chain($("pane-edit"), () => changed());
const history = new History($("pane-history"), { show: (id) => { state.goOn = true; open(id); }, forget: (id) => forget(id) });
const tools = new Tools(view, { asked: (what) => magic(what), changed: () => { drawBar(); drawSettings(); plan(); keepMask(); } });
let studio = {}, folder = [];

// --- saying things

let saying = 0;
function say(text, bad = false) {
  const said = $("said");
  said.replaceChildren(h("p", { class: bad ? "bad" : "" }, text));
  clearTimeout(saying);
  saying = setTimeout(() => said.replaceChildren(), bad ? 9000 : 3500);
}

/** Runs what was asked for; whatever is refused is said. */
const tried = (f) => async (...given) => {
  try { return await f(...given); } catch (error) {
    say(error instanceof Refused ? error.message : error instanceof TypeError ? T.lost : String(error), true);
    if (!(error instanceof Refused)) console.error(error);
  }
};

// --- pictures

const open = tried(async (id, keep = true) => {
  const record = await get(`pictures/${id}`);
  const root = history.rootOf(id), same = state.root?.id === root, before = state.picture;
  state.picture = record;
  state.root = same ? state.root : root === id ? record : await get(`pictures/${root}`);
  await view.open(record, keep && same);
  const made = history.edits.get(id);
  if (!same) { state.masks = new Map(); state.goOn = false; }
  state.base = made && !state.goOn ? await get(`pictures/${made.picture}`) : record;
  if (!before || before.width !== record.width || before.height !== record.height || !same) {
    view.setMask(maskOf(record));
    if (!view.mask.count) await restoreMask();
  }
  if (made) await compare(made);
  history.root = state.root;
  history.seen = id;
  if ("empty" in $("studio").dataset) { delete $("studio").dataset.empty; scrollTo(0, 0); }
  $("file-name").textContent = state.root.name;
  document.title = `${state.root.name} · ${T.title}`;
  globalThis.history.replaceState(null, "", `#picture=${id}`);
  drawAll();
  plan();
});

const sent = tried(async (file) => {
  say(T.opening);
  const record = await send(`pictures?name=${encodeURIComponent(file.name || "pasted.png")}`, file);
  for (const notice of record.notices) say(notice);
  await open(record.id, false);
  $("said").replaceChildren();
});

const openPath = tried(async (path) => { say(T.opening); const record = await post("pictures/open", { path }); await open(record.id, false); $("said").replaceChildren(); });

const forget = tried(async (id) => {
  await remove(`edits/${id}`);
  const made = history.edits.get(id);
  history.edits.delete(id);
  if (state.picture?.id === id) await open(made.picture); else history.draw();
});

/** The mask of pictures of this size. */
function maskOf({ width, height }) {
  const key = `${width}x${height}`;
  if (!state.masks.has(key)) state.masks.set(key, new Mask(width, height));
  return state.masks.get(key);
}

/** Before and after of a result. */
async function compare(edit) {
  const source = await get(`pictures/${edit.picture}`);
  state.compared = source;
  await view.compareWith(source);
}

// --- the mask

/** The mask as the studio has it; sent where it was changed. */
async function painted() {
  const mask = state.base && maskOf(state.base);
  if (!mask || !mask.count) return null;
  if (state.mask?.version !== mask.version || state.mask.of !== mask) {
    const version = mask.version, kept = await send(`masks?picture=${state.base.id}`, await mask.png());
    state.mask = { id: kept.id, path: kept.path, version, of: mask };
    sessionStorage.setItem("mask", JSON.stringify({ id: kept.id, width: mask.width, height: mask.height, root: state.root.id }));
  }
  return state.mask;
}

/** A reload finds what was painted. */
const keepMask = settled(() => { if (view.mask && view.mask.data.length <= 3e7) painted().catch(() => {}); }, 700);

async function restoreMask() {
  const kept = JSON.parse(sessionStorage.getItem("mask") || "null");
  if (!kept || kept.width !== view.width || kept.height !== view.height || kept.root !== (state.root ?? state.picture).id) return;
  try { await takeMask(kept.id); } catch { sessionStorage.removeItem("mask"); }
}

async function takeMask(id, how = "set", words = null, sign = "+") {
  const data = await bytes(`masks/${id}/raw`), mask = view.mask;
  mask.begin();
  mask.join(data, how);
  if (how === "set") mask.words = "";
  mask.say(sign, words);
  mask.end();
  drawBar(); drawSettings(); plan();
}

const wordsDrawn = tried(async (words) => {
  const made = await post("masks/words", { picture: state.picture.id, words });
  await takeMask(made.id, "set", words);
});

const magic = tried(async ({ x, y, tolerance, joined, how, sign }) => {
  let words = `flood:${x},${y}~${tolerance}`;
  if (!joined) words = `color:${await colourAt(x, y)}~${tolerance}`;
  const made = await post("masks/words", { picture: state.picture.id, words });
  await takeMask(made.id, how, words, sign);
  keepMask();
});

async function colourAt(x, y) {
  const tile = await image(`pictures/${state.picture.id}/tiles/0/${Math.floor(x / 512)}/${Math.floor(y / 512)}`);
  const one = new OffscreenCanvas(1, 1).getContext("2d");
  one.drawImage(tile, -(x % 512), -(y % 512));
  return `#${[...one.getImageData(0, 0, 1, 1).data.slice(0, 3)].map((v) => v.toString(16).padStart(2, "0")).join("")}`;
}

const maskFile = tried(async (file) => {
  const made = await send(`masks?picture=${state.picture.id}`, file);
  for (const notice of made.notices) say(notice);
  await takeMask(made.id, "set", null);
});

function undo() { view.mask?.undo(); stepped(); }
function redo() { view.mask?.redo(); stepped(); }
function stepped() { drawBar(); drawSettings(); plan(); keepMask(); }

// --- asking

const changed = () => { drawRun(); plan(); keepChain(); };

const keepChain = () => sessionStorage.setItem("chain", JSON.stringify(chain.recipe("@painted")));

/** The recipe as it would be run; null where something must be painted first. */
async function wanted() {
  if (chain.empty || !state.picture) return null;
  if (!chain.paints) return chain.recipe(null);
  const mask = await painted();
  return mask ? chain.recipe(mask.path) : null;
}

let planned = null, planning = 0;
const plan = settled(async () => {
  const turn = ++planning;
  try {
    const recipe = state.base && maskOf(state.base).data.length > 3e7 && state.mask?.version !== maskOf(state.base).version ? null : await wanted();
    if (!recipe) {
      planned = null; drawRun(); drawWords(null);
      if (!chain.empty && state.base) { await post("said", { picture: state.base.id, recipe: chain.recipe() }); if (turn === planning) chain.forgive(); }
      return;
    }
    const asked = { picture: state.base.id, recipe };
    const [cost, said] = await Promise.all([post("plan", asked), post("said", asked)]);
    if (turn !== planning) return;
    planned = cost;
    chain.forgive();
    drawRun(); drawWords(said);
  } catch (error) {
    if (turn !== planning) return;
    planned = null;
    if (error instanceof Refused) chain.blame(error.message, error.place);
    drawRun();
  }
}, 250);

const run = tried(async () => {
  if (chain.empty || !state.picture || state.asking) return;
  state.asking = true;
  drawRun();
  try {
    const recipe = await wanted();
    if (!recipe) { say(T.paintFirst, true); return; }
    const edits = await post("edits", { picture: state.base.id, recipe, tab: tab(), candidates: state.candidates ?? 1 });
    state.group = edits.map((edit) => edit.id);
    for (const edit of edits) told.state(history.edits.get(edit.id) ?? edit); // a short one may have been told of before this answer
    $("strip").hidden = true;
  } catch (error) {
    if (error instanceof Refused && error.status === 422) chain.blame(error.message, error.place); else throw error;
  } finally { state.asking = false; drawRun(); }
});

const stop = tried(async () => { for (const id of state.running.keys()) if (history.edits.get(id)?.picture === state.base?.id) await post(`edits/${id}/cancel`, {}); });

// --- what is told

const going = (edit) => edit.state === "waiting" || edit.state === "running";
const looking = new Set(); // edits of which an estimate is being fetched
let news = 0;              // how many changes were told

const told = {
  state(edit) {
    news++;
    history.put(edit);
    if (going(edit)) state.running.set(edit.id, { ...state.running.get(edit.id), ...edit }); else state.running.delete(edit.id);
    if (edit.state === "failed" && state.group.includes(edit.id)) chain.blame(edit.error, null);
    if (!going(edit)) ended(edit);
    history.draw(); drawRun(); drawProgress();
  },
  progress(event) {
    const edit = state.running.get(event.edit);
    if (!edit) return;
    Object.assign(edit, { fraction: event.fraction, seconds_left: event.seconds_left, state: "running" });
    drawProgress();
  },
  notice(event) { if (state.running.has(event.edit)) say(event.text); },
  async estimate(event) {
    const edit = state.running.get(event.edit);
    if (!edit || edit.picture !== state.base?.id || looking.has(edit.id)) return;
    looking.add(edit.id);
    try {
      const bitmap = await image(`edits/${event.edit}/estimates/${event.number}`);
      const same = event.size[0] === view.width && event.size[1] === view.height;
      const [fx, fy] = same ? [1, 1] : [view.width / event.size[0], view.height / event.size[1]];
      if (state.running.has(event.edit) && edit.picture === state.base?.id) {
        view.estimate = { bitmap, box: [event.box[0] * fx, event.box[1] * fy, event.box[2] * fx, event.box[3] * fy] };
        state.estimates = (state.estimates ?? 0) + 1;
        view.showMask = false;
        view.redraw();
      }
    } catch { /* a newer one comes */ }
    looking.delete(edit.id);
  },
  gone(event) { news++; history.edits.delete(event.edit); history.draw(); },
  async lost() { await refresh(); },
};

async function ended(edit) {
  const mine = state.group.includes(edit.id);
  if (edit.picture === state.base?.id || mine) {
    view.estimate = null;
    if (edit.state !== "done") view.showMask = true; // a result is looked at without it, until one paints again
    view.redraw();
  }
  if (edit.state !== "done") return;
  if (mine && state.group.length > 1) drawStrip();
  if (mine && edit.picture === state.base?.id && (state.group.length === 1 || state.group[0] === edit.id)) {
    state.goOn = false;
    await open(edit.id);
    say(edit.kept === null ? T.states.done : edit.kept === 0 ? T.kept : T.keptBy(edit.kept));
  }
}

/** All edits as they stand; asked again where a change was told meanwhile, since the answer may be older. */
async function refresh() {
  let edits, before;
  do { before = news; edits = await get("edits"); } while (news !== before);
  history.edits = new Map(edits.map((edit) => [edit.id, edit]));
  state.running = new Map(edits.filter(going).map((edit) => [edit.id, edit]));
  history.draw(); drawRun(); drawProgress();
}

// --- drawing what is around the picture

function drawAll() { drawBar(); drawTools(); drawSettings(); drawAfter(); history.draw(); drawRun(); drawProgress(); chain.draw(); }

function drawBar() {
  const mask = view.mask;
  $("bar-edit").replaceChildren(
    iconButton("undo", T.undo, undo, { disabled: !mask?.canUndo, id: "undo" }), iconButton("redo", T.redo, redo, { disabled: !mask?.canRedo, id: "redo" }));
  $("bar-zoom").replaceChildren(
    iconButton("minus", T.zoomOut, () => view.zoomTo(view.z / 1.5)),
    h("button", { type: "button", class: "zoom", id: "zoom", title: T.fit, onclick: () => (Math.abs(view.z - 1) < 0.001 ? view.fit() : view.zoomTo(1)) }),
    iconButton("plus", T.zoomIn, () => view.zoomTo(view.z * 1.5)));
  view.onview = () => { const said = `${view.z < 0.1 ? (100 * view.z).toFixed(1) : Math.round(100 * view.z)} %`; const place = $("zoom"); if (place && place.textContent !== said) place.textContent = said; };
  view.onview();
}

function drawTools() {
  $("tools").replaceChildren(...TOOLS.map((name) => iconButton(name, T[name], () => { tools.tool = name; drawTools(); drawSettings(); }, { "aria-pressed": String(tools.tool === name), "data-tool": name, class: "tool" })));
  $("canvas").dataset.tool = tools.tool;
}

function slider(id, text, given, oninput) {
  const out = h("output", { for: id }, String(given.value));
  return h("div", { class: "knob" }, h("label", { for: id }, text), h("input", { id, type: "range", "aria-label": text, ...Object.fromEntries(Object.entries(given).map(([k, v]) => [k, String(v)])), oninput: (e) => { out.textContent = e.target.value; oninput(Number(e.target.value)); }, onchange: given.onchange }), out);
}

const check = (id, text, checked, put) => h("label", { class: "tick", for: id }, h("input", { id, type: "checkbox", checked, onchange: (e) => put(e.target.checked) }), text);

function drawSettings() {
  if (!view.mask) return;
  const { tool } = tools, parts = [];
  if (tool === "brush" || tool === "eraser") parts.push(slider("size", T.size, { min: 1, max: 400, value: tools.size }, (v) => { tools.size = v; }));
  if (tool === "magic") parts.push(slider("tolerance", T.tolerance, { min: 0, max: 128, value: tools.tolerance }, (v) => { tools.tolerance = v; }), check("joined", T.joined, tools.joined, (v) => { tools.joined = v; }));
  if (["box", "ellipse", "lasso", "magic"].includes(tool)) parts.push(check("take-away", T.takeAway, tools.takeAway, (v) => { tools.takeAway = v; }));
  const share = view.mask.count / view.mask.data.length;
  parts.push(h("button", { type: "button", class: "soft", id: "mask-menu", "aria-haspopup": "dialog", "aria-label": `${T.maskMenu}: ${view.mask.count ? T.maskOf(share) : T.maskEmpty}`, onclick: openMask }, icon("mask"), h("span", { id: "mask-share" }, view.mask.count ? T.maskOf(share) : T.maskEmpty)));
  const focus = document.activeElement?.id;
  $("settings").replaceChildren(...parts);
  if (focus) document.getElementById(focus)?.focus({ preventScroll: true });
}

function openMask() {
  const sheet = $("sheet"), mask = view.mask;
  if (sheet.open) { sheet.close(); return; }
  if (!view.showMask) { view.showMask = true; view.redraw(); }
  const base = mask.data.slice();
  let by = 0, soft = 0;
  const live = settled(() => { mask.join(mask.grown(base, by, soft), "set"); mask.say("+", null); }, 30);
  const again = () => { mask.end(); stepped(); };
  const words = h("input", { id: "mask-words", type: "text", value: mask.words ?? "", placeholder: "box:10%,10%,50%,50%", spellcheck: "false", autocomplete: "off" });
  const file = h("input", { type: "file", accept: "image/*", hidden: true, onchange: (e) => { sheet.close(); if (e.target.files[0]) maskFile(e.target.files[0]); } });
  mask.begin();
  sheet.replaceChildren(
    h("div", { class: "sheet-head" }, h("h2", { id: "sheet-title" }, T.maskMenu), iconButton("close", T.close, () => sheet.close())),
    h("div", { class: "sheet-body" },
      slider("grow", T.grow, { min: -60, max: 60, value: 0 }, (v) => { by = v; live(); }),
      slider("feather", T.feather, { min: 0, max: 60, value: 0 }, (v) => { soft = v; live(); }),
      h("div", { class: "buttons" },
        h("button", { type: "button", class: "soft", onclick: () => { mask.invert(); mask.say("+", null); again(); mask.begin(); } }, T.invert),
        h("button", { type: "button", class: "soft", onclick: () => { mask.fill(0); mask.say("+", ""); again(); sheet.close(); } }, T.clear),
        h("button", { type: "button", class: "soft", onclick: () => file.click() }, T.maskIn),
        h("button", { type: "button", class: "soft", disabled: !mask.count, onclick: async () => download(URL.createObjectURL(await mask.png()), "mask.png") }, T.maskOut), file),
      h("form", { class: "line", onsubmit: (e) => { e.preventDefault(); sheet.close(); if (words.value.trim()) wordsDrawn(words.value.trim()); } },
        h("label", { for: "mask-words" }, T.maskWords), words, h("button", { class: "soft" }, T.draw))));
  sheet.classList.add("floating"); // beside the picture, on which its outline is seen to change
  sheet.onkeydown = (e) => { if (e.key === "Escape") sheet.close(); };
  sheet.onclose = () => { sheet.classList.remove("floating"); sheet.onkeydown = null; again(); };
  sheet.show();
}

export function download(href, name) {
  const link = h("a", { href, download: name });
  document.body.append(link); link.click(); link.remove();
}

function drawAfter() {
  const done = history.edits.get(state.picture?.id), place = $("bar-after"), divider = $("divider");
  const comparing = view.divider !== null;
  place.replaceChildren(...(done ? [
    iconButton("compare", T.compare, () => { view.divider = comparing ? null : 0.5; view.difference = false; view.redraw(); drawAfter(); if (!comparing) divider.focus(); }, { "aria-pressed": String(comparing), id: "compare" }),
    iconButton("difference", T.difference, () => { view.difference = !view.difference; view.divider = null; view.redraw(); drawAfter(); }, { "aria-pressed": String(view.difference), id: "difference", disabled: Boolean(state.compared && (state.compared.width !== view.width || state.compared.height !== view.height)) }),
    h("button", { type: "button", class: "soft strong", id: "save", "aria-label": T.save, onclick: () => openSave(done, state, tried, say, download) }, icon("save"), h("span", {}, T.save)),
  ] : []));
  divider.hidden = !comparing;
  $("labels").hidden = !comparing;
  divider.value = String(Math.round(100 * (view.divider ?? 0.5)));
  $("labels").replaceChildren(h("span", {}, T.beforeLabel), h("span", {}, T.afterLabel));
}

function drawStrip() {
  const place = $("strip"), done = state.group.map((id) => history.edits.get(id)).filter((edit) => edit?.state === "done");
  place.hidden = done.length < 2;
  place.replaceChildren(...done.map((edit) => h("button", { type: "button", class: "candidate", "aria-pressed": String(state.picture?.id === edit.id), onclick: async () => { await open(edit.id); drawStrip(); } },
    h("img", { src: at(`pictures/${edit.id}/preview`), alt: `${edit.summary}, ${T.seed(edit.seed)}` }), h("span", {}, T.seed(edit.seed)))));
}

function drawProgress() {
  const place = $("progress"), mine = [...state.running.values()].filter((edit) => history.rootOf(edit.picture) === state.root?.id);
  place.hidden = !mine.length;
  if (!mine.length) return;
  const edit = mine.find((one) => one.state === "running") ?? mine[0], part = edit.fraction ?? 0;
  const bar = h("progress", { max: 1, value: part, "aria-label": edit.summary });
  place.replaceChildren(bar, h("p", {}, h("b", {}, edit.summary), h("span", {}, edit.state === "waiting" ? T.states.waiting : part ? `${Math.round(100 * part)} % · ${T.left(edit.seconds_left)}` : T.states.running)));
}

const masked = () => Boolean(state.base && maskOf(state.base).count);

function drawRun() {
  const place = $("run"), going = [...state.running.values()].some((edit) => edit.picture === state.base?.id);
  const focus = document.activeElement?.id;
  const error = chain.error && !chain.error.shown ? chain.error.text : null;
  const passes = planned?.stages.reduce((sum, stage) => sum + stage.passes.length, 0);
  place.hidden = !state.picture || chain.empty;
  place.replaceChildren(
    h("p", { class: error ? "cost bad" : "cost", role: error ? "alert" : null }, error ?? (planned ? T.cost(planned.calls, passes) : chain.paints && !masked() ? T.paintFirst : chain.error ? T.wrongAbove : T.planning)),
    history.edits.get(state.picture?.id) ? fromWhat() : "",
    h("div", { class: "run-row" },
      h("label", { class: "hidden", for: "candidates" }, T.candidates),
      h("select", { id: "candidates", title: T.candidates, onchange: (e) => { state.candidates = Number(e.target.value); } }, [1, 2, 4, 8].map((n) => h("option", { value: String(n), selected: n === (state.candidates ?? 1) }, `${n}×`))),
      going ? h("button", { type: "button", class: "primary stop", id: "stop", onclick: stop }, icon("stop"), T.stop)
        : h("button", { type: "button", class: "primary", id: "go", disabled: state.asking || Boolean(chain.paints && !masked()), onclick: run }, icon("play"), T.run)));
  if (focus) document.getElementById(focus === "go" || focus === "stop" ? (going ? "stop" : "go") : focus)?.focus({ preventScroll: true });
}

/** What the next edit is made of, where a result is shown. */
function fromWhat() {
  const row = (on, text, id) => h("label", { for: id }, h("input", { id, type: "radio", name: "from", checked: state.goOn === on, onchange: async () => { state.goOn = on; await open(state.picture.id); } }), text);
  return h("fieldset", { class: "from" }, h("legend", { class: "hidden" }, T.from), row(false, T.fromBefore, "from-before"), row(true, T.fromThis, "from-this"));
}

function drawWords(said) { openWords($("pane-words"), said, tried, async (text) => {
  const recipe = await post("read", { text });
  const own = JSON.stringify(recipe).match(/\.editkit-studio\/masks\/([0-9a-f]{16})\.png/);
  if (own && state.picture) await takeMask(own[1]);
  chain.take(recipe, (path) => Boolean(own) && path.endsWith(`${own[1]}.png`));
  pick("edit");
}, say); }

const PANES = ["edit", "history", "words", "models"];
function pick(name) {
  for (const one of PANES) {
    const on = one === name, button = $(`tab-${one}`);
    button.setAttribute("aria-selected", String(on)); button.tabIndex = on ? 0 : -1;
    $(`pane-${one}`).hidden = !on;
  }
  if (name === "models") tried(async () => openModels($("pane-models"), await get("models"), await get("status"), (model) => { const first = chain.stages[0]; if (first) { if (model === "auto") delete first.options.model; else first.options.model = model; chain.changed(); pick("edit"); } }))();
}

function drawTabs() {
  $("tabs").setAttribute("aria-label", T.panels);
  $("tabs").replaceChildren(...PANES.map((name) => h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `pane-${name}`, onclick: () => pick(name),
    onkeydown: (e) => { const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key]; if (step) { const next = PANES[(PANES.indexOf(name) + step + PANES.length) % PANES.length]; pick(next); $(`tab-${next}`).focus(); } } }, T[name])));
  pick("edit");
}

function drawWelcome() {
  const shown = folder.slice(0, 60);
  $("welcome").replaceChildren(
    h("div", { class: "welcome-card" }, h("div", { class: "welcome-mark" }, icon("picture")), h("h2", {}, T.welcome), h("p", {}, T.welcomeMore),
      h("button", { type: "button", class: "primary", onclick: () => $("pick").click() }, T.pick)),
    h("div", { class: "welcome-folder" }, h("p", { class: "quiet" }, folder.length ? T.folderHas(folder.length, studio.folder) : T.folderEmpty),
      h("ul", { class: "grid" }, shown.map(({ path }) => h("li", {}, h("button", { type: "button", class: "tile", "data-path": path, onclick: () => openPath(path) },
        h("img", { src: at(`folder/thumb?path=${encodeURIComponent(path)}`), alt: "", loading: "lazy" }), h("span", {}, path)))))));
}

// --- the window

function listen() {
  $("pick").addEventListener("change", (e) => { if (e.target.files[0]) sent(e.target.files[0]); e.target.value = ""; });
  $("file").addEventListener("click", () => { $("studio").dataset.empty = ""; drawWelcome(); tried(async () => { folder = await get("folder"); drawWelcome(); })(); });
  $("divider").setAttribute("aria-label", T.divider);
  $("divider").addEventListener("input", (e) => { view.divider = Number(e.target.value) / 100; view.redraw(); });
  tools.ondivide = (part) => { $("divider").value = String(Math.round(100 * part)); };
  tools.onwords = (words) => { const share = $("mask-share"); if (share) share.textContent = words.length > 60 ? `${words.slice(0, 57)}…` : words; };
  $("canvas").setAttribute("aria-label", T.canvas);
  $("tools").setAttribute("aria-label", T.tools);
  $("drop").firstElementChild.textContent = T.dropHere;
  let inside = 0;
  addEventListener("dragenter", (e) => { if (e.dataTransfer?.types.includes("Files")) { inside++; $("drop").hidden = false; } });
  addEventListener("dragleave", () => { if (--inside <= 0) { inside = 0; $("drop").hidden = true; } });
  addEventListener("dragover", (e) => e.preventDefault());
  addEventListener("drop", (e) => { e.preventDefault(); inside = 0; $("drop").hidden = true; if (e.dataTransfer.files[0]) sent(e.dataTransfer.files[0]); });
  addEventListener("paste", (e) => { const file = [...(e.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/")); if (file) sent(file); });
  addEventListener("keydown", keys);
  addEventListener("keyup", (e) => { if (e.key.toLowerCase() === "c" && view.peek) { view.peek = false; view.redraw(); } });
}

const typing = () => ["INPUT", "TEXTAREA", "SELECT"].includes(document.activeElement?.tagName) && document.activeElement.type !== "range" && document.activeElement.type !== "checkbox";

function keys(e) {
  const key = e.key.toLowerCase(), command = e.ctrlKey || e.metaKey;
  if (command && key === "enter") { e.preventDefault(); run(); return; }
  if (typing() || !state.picture || document.querySelector("dialog[open]:not(.floating)")) return;
  if (command && key === "z") { e.preventDefault(); if (e.shiftKey) redo(); else undo(); return; }
  if (command && key === "y") { e.preventDefault(); redo(); return; }
  if (command || e.altKey) return;
  const tool = { b: "brush", e: "eraser", r: "box", o: "ellipse", l: "lasso", w: "magic", h: "hand" }[key];
  if (tool) { tools.tool = tool; drawTools(); drawSettings(); }
  else if (key === "+" || key === "=") view.zoomTo(view.z * 1.5);
  else if (key === "-") view.zoomTo(view.z / 1.5);
  else if (key === "0") view.fit();
  else if (key === "1") view.zoomTo(1);
  else if (key === "[" || key === "]") { tools.size = Math.min(400, Math.max(1, Math.round(tools.size * (key === "]" ? 1.25 : 0.8)) + (key === "]" ? 1 : 0))); drawSettings(); }
  else if (key === "c" && view.before && !view.peek) { view.peek = true; view.redraw(); }
  else if (key === "escape" && state.running.size) stop();
}

async function begin() {
  drawTabs();
  listen();
  drawWords(null);
  [studio, folder] = await Promise.all([get("status"), get("folder")]);
  const [declared, models] = await Promise.all([get("plugins"), get("models")]);
  chain.declare(declared);
  chain.models = models;
  $("pictures").replaceChildren(...folder.slice(0, 500).map(({ path }) => h("option", { value: path })));
  await refresh();
  const kept = JSON.parse(sessionStorage.getItem("chain") || "null");
  if (kept?.stages.length) chain.take(kept, (path) => path === "@painted"); else chain.draw();
  watch(told, (alive) => {
    if (alive !== state.alive) say(alive ? T.back : T.lost, !alive);
    state.alive = alive;
    if (alive) refresh().catch(() => {}); // what happened before the stream began is not told in it
  });
  const asked = new URLSearchParams(location.hash.slice(1));
  drawWelcome();
  drawRun();
  if (asked.get("open")) await openPath(asked.get("open"));
  else if (asked.get("picture")) await open(asked.get("picture"), false);
  document.documentElement.dataset.ready = "";
}

globalThis.studio = { state, view, tools, chain, history, Mask }; // for tests, and for whoever is curious
tried(begin)();
