// Elements without a single string of markup: names and prompts stay text.

const SVG = "http://www.w3.org/2000/svg";

/** h("button", {class: "x", onclick: f, "aria-label": "y"}, children...) */
export function h(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && typeof value !== "string") made[key] = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const $ = (id) => document.getElementById(id);

const ICONS = {
  brush: "M14.5 4.5 19.5 9.5 M4 20c3 0 5-1 5-3.5A2.5 2.5 0 0 0 6.500 14C4 14 4 17 4 20Z M8.500 14.500 18 5a1.800 1.800 0 0 1 2.500 2.500L10.500 16.500",
  eraser: "M9 20h11 M4.500 14.500 13 6l6 6-7.500 7.500H8.500Z M9 10l6 6",
  box: "M5 6h14v12H5Z",
  ellipse: "M12 5.500c4.400 0 8 2.900 8 6.500s-3.600 6.500-8 6.500-8-2.900-8-6.500 3.600-6.500 8-6.500Z",
  lasso: "M12 4.500c4.700 0 8.500 2.500 8.500 5.700s-3.800 5.700-8.500 5.700-8.500-2.500-8.500-5.700S7.300 4.500 12 4.500Z M7 15.300c-1.500.7-1.600 2.700 0 3.100 1.800.4 2.300 1.300 1.500 2.600",
  magic: "M5 19 15 9 M14 4v3 M19.500 9.500h-3 M18.500 5.500l-2 2 M9 5.500v2 M8 6.500h2 M18.500 14v2 M17.500 15h2",
  hand: "M12 3v18 M3 12h18 M12 3 9.500 5.500 M12 3l2.500 2.500 M12 21l-2.500-2.500 M12 21l2.500-2.500 M3 12l2.500-2.500 M3 12l2.500 2.500 M21 12l-2.500-2.500 M21 12l-2.500 2.500",
  undo: "M8 5 4 9l4 4 M4 9h10a5.500 5.500 0 0 1 0 11h-4",
  redo: "M16 5l4 4-4 4 M20 9H10a5.500 5.500 0 0 0 0 11h4",
  plus: "M12 5v14 M5 12h14",
  minus: "M5 12h14",
  close: "M6 6l12 12 M18 6 6 18",
  save: "M12 4v11 M7.500 11 12 15.500 16.500 11 M5 19.500h14",
  compare: "M12 3.500v17 M9 6H4.500v12H9 M15 6h4.500v12H15",
  difference: "M9 6.500a5.500 5.500 0 1 0 0 11 5.500 5.500 0 1 0 0-11Z M15 6.500a5.500 5.500 0 1 0 0 11 5.500 5.500 0 1 0 0-11Z",
  reset: "M5 9a8 8 0 1 1-1 5 M5 4v5h5",
  picture: "M4 5.500h16v13H4Z M4 16l4.500-4.500 4 4 3-3L20 16.500 M15.500 9.500h.01",
  models: "M12 3.500 20 8v8l-8 4.500L4 16V8Z M4 8l8 4.500L20 8 M12 12.500v8",
  mask: "M12 4.500a7.500 7.500 0 1 0 0 15Z M12 4.500a7.500 7.500 0 0 1 0 15",
  play: "M8 5.500v13l10.500-6.500Z",
  stop: "M7 7h10v10H7Z",
  trash: "M5 7h14 M9.500 7V4.500h5V7 M7 7l1 12.500h8L17 7",
};

export function icon(name) {
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("viewBox", "0 0 24 24");
  made.setAttribute("aria-hidden", "true");
  made.classList.add("icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  made.append(path);
  return made;
}

/** A button with an icon; its text is what assistive technology reads, and a hint on hovering. */
export function iconButton(name, text, onclick, { class: more = "", ...given } = {}) {
  return h("button", { type: "button", class: `icon-button ${more}`.trim(), "aria-label": text, title: text, onclick, ...given }, icon(name));
}

/** Calls `f` once, when nothing has been asked for `wait` milliseconds. */
export function settled(f, wait) {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(f, wait); };
}
