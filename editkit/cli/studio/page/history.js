// History as a tree: each result under what it was made of.

import { at } from "./api.js";
import { h, icon, iconButton } from "./dom.js";
import { T } from "./texts.js";

export class History {
  /** `show`: a picture is to be seen, and gone on from. `forget`: an edit is to be deleted. */
  constructor(place, { show, forget }) {
    this.place = place;
    this.show = show;
    this.forget = forget;
    this.edits = new Map();
    this.root = null;
    this.seen = null;
  }

  put(edit) { this.edits.set(edit.id, { ...this.edits.get(edit.id), ...edit }); }

  /** The picture at the root of what a picture was made from. */
  rootOf(id) { let edit; while ((edit = this.edits.get(id))) id = edit.picture; return id; }

  draw() {
    const { root } = this;
    if (!root) { this.place.replaceChildren(); return; }
    const rows = this._under(root.id, 0);
    this.place.replaceChildren(
      h("ul", { class: "tree" }, this._row({ id: root.id, name: root.name, title: T.original }, 0, null), rows),
      rows.length ? "" : h("p", { class: "quiet" }, T.historyEmpty));
  }

  _under(id, depth) {
    const made = [...this.edits.values()].filter((edit) => edit.picture === id).sort((a, b) => a.created - b.created);
    return made.flatMap((edit) => [this._row({ id: edit.id, name: edit.summary, title: edit.summary }, depth + 1, edit), ...this._under(edit.id, depth + 1)]);
  }

  _row({ id, title }, depth, edit) {
    const ready = !edit || edit.state === "done", last = edit && !["waiting", "running"].includes(edit.state);
    const row = h("li", { class: id === this.seen ? "node seen" : "node" });
    row.style.setProperty("--depth", String(Math.min(depth, 6)));
    const facts = edit ? [edit.state === "done" ? null : T.states[edit.state], edit.state === "done" && edit.seconds ? T.seconds(edit.seconds) : null, T.seed(edit.seed)] : [];
    row.append(
      h("button", { type: "button", class: "node-open", disabled: !ready, title: T.goOn, "aria-current": id === this.seen ? "true" : null, onclick: () => this.show(id) },
        ready ? h("img", { src: at(`pictures/${id}/preview`), alt: "", loading: "lazy", class: "thumb" })
          : h("span", { class: `thumb blank ${edit.state}` }, icon(edit.state === "failed" ? "close" : edit.state === "running" ? "play" : "stop")),
        h("span", { class: "node-text" }, h("b", {}, title),
          facts.length ? h("span", {}, facts.filter(Boolean).join(" · ")) : null,
          edit?.error ? h("span", { class: "error-text" }, edit.error) : null)),
      last ? iconButton("trash", T.takeAwayEdit(title), () => this.forget(id), { class: "icon-button faint" }) : "");
    return row;
  }
}
