// The studio's addresses. The token stands in the page's own address, so every relative address carries it.

const BASE = new URL(".", location.href);

export const at = (path) => new URL(path, BASE).href;

/** What the studio refused: its one line, and where in the recipe it is. */
export class Refused extends Error {
  constructor(said, status) {
    super(said.error || `status ${status}`);
    this.place = said.place || null;
    this.status = status;
  }
}

async function asked(path, given = {}) {
  const answer = await fetch(at(path), given);
  if (!answer.ok) {
    let said = {};
    try { said = await answer.json(); } catch { /* no JSON: the status says it */ }
    throw new Refused(said, answer.status);
  }
  return answer;
}

export const get = async (path) => (await asked(path)).json();
export const bytes = async (path) => new Uint8Array(await (await asked(path)).arrayBuffer());
export const post = async (path, data) =>
  (await asked(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(data) })).json();
export const send = async (path, body) => (await asked(path, { method: "POST", body })).json();
export const remove = async (path) => { await asked(path, { method: "DELETE" }); };

/** A picture of the studio, decoded. */
export async function image(path) {
  return createImageBitmap(await (await asked(path)).blob());
}

/** This tab's own name: a reload keeps it, another tab has another. */
export function tab() {
  let name = sessionStorage.getItem("tab");
  if (!name) {
    name = [...crypto.getRandomValues(new Uint8Array(12))].map((b) => b.toString(16).padStart(2, "0")).join("");
    sessionStorage.setItem("tab", name);
  }
  return name;
}

/** Server-sent events of all edits; `told` maps kinds to functions. */
export function watch(told, state) {
  const source = new EventSource(at(`events?tab=${tab()}`));
  source.onopen = () => state(true);
  source.onerror = () => state(false);
  for (const kind of ["state", "progress", "notice", "estimate", "gone", "lost"])
    source.addEventListener(kind, (event) => told[kind](JSON.parse(event.data)));
  return source;
}
