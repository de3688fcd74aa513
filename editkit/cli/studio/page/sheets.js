// What opens beside the picture: saving, the chain in words, models.

import { at, post } from "./api.js";
import { $, h, iconButton } from "./dom.js";
import { T } from "./texts.js";

const FORMATS = [["png", "PNG", ".png"], ["jpeg", "JPEG", ".jpg"], ["tiff", "TIFF", ".tif"], ["webp", "WebP", ".webp"]];
const LOSSY = ["jpeg", "webp"];

export function openSave(edit, state, tried, say, download) {
  const sheet = $("sheet"), root = state.root, inFolder = !root.path.startsWith(".editkit-studio/");
  const folder = inFolder && root.path.includes("/") ? root.path.slice(0, root.path.lastIndexOf("/") + 1) : "";
  const name = h("input", { id: "save-name", type: "text", value: folder + edit.result.name, spellcheck: "false", autocomplete: "off" });
  const format = h("select", { id: "save-format", onchange: () => {
    const row = FORMATS.find(([key]) => key === format.value);
    name.value = name.value.replace(/\.[^./]*$/, "") + row[2];
    quality.parentElement.hidden = !LOSSY.includes(format.value);
  } }, FORMATS.map(([key, text]) => h("option", { value: key }, text)));
  const quality = h("input", { id: "save-quality", type: "number", min: "1", max: "100", placeholder: T.asItCame });
  const wanted = () => (LOSSY.includes(format.value) && quality.value ? Number(quality.value) : null);
  const save = tried(async (path, over) => {
    const done = await post(`edits/${edit.id}/save`, { path, quality: wanted(), over });
    sheet.close();
    say([T.saved(done.path), ...done.notices].join(" · "));
  });
  sheet.replaceChildren(
    h("div", { class: "sheet-head" }, h("h2", { id: "sheet-title" }, T.saveAs), iconButton("close", T.close, () => sheet.close())),
    h("form", { class: "sheet-body", onsubmit: (e) => { e.preventDefault(); save(name.value, false); } },
      h("div", { class: "line" }, h("label", { for: "save-name" }, T.name), name),
      h("div", { class: "line" }, h("label", { for: "save-format" }, T.format), format),
      h("div", { class: "line", hidden: true }, h("label", { for: "save-quality" }, T.quality), quality),
      h("div", { class: "links" },
        inFolder ? h("button", { type: "button", class: "link", id: "save-over", onclick: () => save(root.path, true) }, T.overOriginal) : null,
        h("button", { type: "button", class: "link", onclick: () => download(at(`edits/${edit.id}/recipe`), "recipe.yaml") }, T.recipe)),
      h("div", { class: "buttons end" },
        h("button", { type: "button", class: "soft", onclick: () => download(at(`edits/${edit.id}/result?format=${format.value}${wanted() ? `&quality=${wanted()}` : ""}`), "") }, T.download),
        h("button", { class: "primary", id: "save-go" }, T.intoFolder))));
  sheet.onclose = null;
  sheet.showModal();
}

/** The chain in three ways, each to be copied; and a place to paste one. */
export function openWords(place, said, tried, take, say) {
  const text = h("textarea", { id: "paste", rows: "4", spellcheck: "false", placeholder: "editkit inpaint photo.png --mask mask.png" });
  const kept = $("paste")?.value;
  if (kept) text.value = kept;
  place.replaceChildren(
    ...(said ? [["command", said.command], ["python", said.python], ["yaml", said.yaml]].map(([name, words]) => h("figure", { class: "code" },
      h("figcaption", {}, T[name], h("button", { type: "button", class: "link", onclick: tried(async () => { await navigator.clipboard.writeText(words); say(T.copied); }) }, T.copy)),
      h("pre", { tabindex: "0", id: `said-${name}`, role: "region", "aria-label": T[name] }, words))) : [h("p", { class: "quiet" }, T.wordsEmpty)]),
    h("form", { class: "paste", onsubmit: (e) => { e.preventDefault(); tried(async () => { await take(text.value); text.value = ""; })(); } },
      h("label", { for: "paste" }, T.paste), text, h("button", { class: "soft", id: "paste-go" }, T.read)));
}

export function openModels(place, models, status, use) {
  const gigabytes = (n) => (n / 1e9).toFixed(1);
  place.replaceChildren(
    h("p", { class: "facts" }, h("b", {}, status.device), h("span", {}, T.memory(gigabytes(status.memory_free), gigabytes(status.memory))), h("span", {}, status.offline ? T.offline : T.online)),
    h("ul", { class: "models" }, models.filter((m) => m.name !== "auto").map((model) => h("li", {},
      h("div", {}, h("b", {}, model.name), h("span", { class: "quiet" }, model.why ?? (model.lora ? T.aLora : model.family)),
        model.why || model.lora ? null : h("span", { class: "quiet" }, `${T.takes} ${model.takes.join(", ") || T.nothing}`)),
      model.lora ? null : h("button", { type: "button", class: "soft", disabled: Boolean(model.why), "aria-label": `${T.useIt} ${model.name}`, onclick: () => use(model.name) }, T.useIt)))),
    h("p", { class: "quiet" }, T.modelsMore));
}
