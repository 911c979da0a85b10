// Elements and words. Text only ever enters the page as text nodes: nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Returns an element; `on…` properties are listeners, `class`, `dataset` and attributes as they are named. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** Returns an SVG element. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "style") Object.assign(element.style, value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(
    ...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Puts `children` in the place of what `element` holds; the focus stays at the same place in it. */
export function put(element, ...children) {
  const way = wayTo(element, document.activeElement);
  element.replaceChildren(
    ...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false),
  );
  if (way) way.reduce((place, index) => place?.children[index], element)?.focus({ preventScroll: true });
  return element;
}

/** Returns the positions that lead from `element` down to `inner`; null when it is not inside. */
function wayTo(element, inner) {
  if (inner === element || !element.contains(inner)) return null;
  const way = [];
  for (let at = inner; at !== element; at = at.parentElement)
    way.unshift([...at.parentElement.children].indexOf(at));
  return way;
}

// --- words ---------------------------------------------------------------------------------------------

export const SEVERITIES = ["critical", "high", "medium", "low", "info"];
const RANK = Object.fromEntries(SEVERITIES.map((name, index) => [name, SEVERITIES.length - index]));

/** Returns how bad a severity is: 5 critical to 1 info, 0 none. */
export const rank = severity => RANK[severity] ?? 0;

/** Returns `gas_interference` as "Gas interference". */
export function words(name) {
  const text = String(name ?? "").replaceAll(/[_-]/g, " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

const UNITS = {
  degC: "°C",
  g_0: "g",
  Mohm: "MΩ",
  dimensionless: "",
  percent: "%",
  "oil_bbl/day": "bpd",
  psi: "psi",
};

/** Returns a unit as people write it. */
export const unitOf = unit => UNITS[unit] ?? unit ?? "";

const NAMES = {
  intake_pressure_psi: "Intake pressure",
  discharge_pressure_psi: "Discharge pressure",
  intake_temp_c: "Intake temperature",
  motor_temp_c: "Motor temperature",
  vibration_x_g: "Vibration x",
  vibration_y_g: "Vibration y",
  leakage_current_ma: "Leakage current",
  insulation_resistance_mohm: "Insulation resistance",
  frequency_hz: "Frequency",
  motor_current_a: "Motor current",
  current_a_a: "Current A",
  current_b_a: "Current B",
  current_c_a: "Current C",
  motor_voltage_v: "Motor voltage",
  power_factor: "Power factor",
  active_power_kw: "Active power",
  motor_load_pct: "Motor load",
  drive_temp_c: "Drive temperature",
  wellhead_pressure_psi: "Wellhead pressure",
  casing_pressure_psi: "Casing pressure",
  wellhead_temp_c: "Wellhead temperature",
  flow_rate_bpd: "Flow rate",
  water_cut_pct: "Water cut",
  choke_pct: "Choke",
};

/** Returns a channel as people call it. */
export const channelName = name => NAMES[name] ?? words(name);

/** Returns a number with about three significant figures; a dash for none. */
export function num(value, digits) {
  if (value === null || value === undefined || Number.isNaN(Number(value))) return "–";
  const number = Number(value);
  const size = Math.abs(number);
  const places = digits ?? (size >= 1000 || size === 0 ? 0 : size >= 100 ? 0 : size >= 10 ? 1 : 2);
  return number.toLocaleString("en", { minimumFractionDigits: 0, maximumFractionDigits: places });
}

/** Returns a share as a percentage. */
export const percent = share =>
  share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`;

/** Returns a time as `2026-05-01 13:05` UTC, with seconds if asked; a dash for none. */
export function when(time, seconds = false) {
  if (!time) return "–";
  return new Date(time)
    .toISOString()
    .replace("T", " ")
    .slice(0, seconds ? 19 : 16);
}

/** Returns a span in seconds as `3 d 4 h`. */
export function lasting(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const s = Math.max(0, seconds);
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** Returns how long ago a time was. */
export const ago = time => (time ? lasting((Date.now() - new Date(time).getTime()) / 1000) : "–");

/** Returns who did something: `me` as you, another user's id shortened. */
export const whoIs = (actor, me) =>
  actor === me.id ? "you" : String(actor).replace(/^([0-9a-f]{8})-[0-9a-f-]{27}$/, "user $1");

/** Returns an element that shows an instant as its age, with the instant itself as its title. */
export const age = time =>
  h("time", { datetime: time, title: `${when(time, true)} UTC` }, time ? `${ago(time)} ago` : "–");

// --- parts ---------------------------------------------------------------------------------------------

/** Returns a severity as a shape and a word: not by colour alone. */
export const badge = (severity, text) =>
  h(
    "span",
    { class: `badge ${severity ?? "none"}` },
    h("i", { "aria-hidden": "true" }),
    text ?? words(severity ?? "none"),
  );

/** Returns a pump's state. */
export const stateTag = state =>
  h("span", { class: `state ${state ?? "unknown"}` }, h("i", { "aria-hidden": "true" }), state ?? "unknown");

/** Returns a bar filled to `share`, with what it shows as its label. */
export function bar(share, label, kind = "") {
  const filled = h("i", { style: { width: `${Math.round(100 * Math.min(1, Math.max(0, share ?? 0)))}%` } });
  return h("span", { class: `bar ${kind}`, role: "img", "aria-label": label, title: label }, filled);
}

/** Returns a button. */
export const button = (label, onclick, properties = {}) =>
  h("button", { type: "button", onclick, ...properties }, label);

/** Returns a labelled control. */
export const field = (label, control, hint) =>
  h("label", { class: "field" }, h("span", {}, label), control, hint && h("small", {}, hint));

/** Returns a panel with a heading. */
export const panel = (title, properties, ...children) =>
  h(
    "section",
    { class: "panel", "aria-label": title, ...properties },
    h("header", {}, h("h2", {}, title)),
    ...children,
  );

/** Returns what can be unfolded; `opened` (a Set) remembers by `key` what is, over the next drawing. */
export function fold(opened, key, summary, ...children) {
  const ontoggle = event => (event.target.open ? opened.add(key) : opened.delete(key));
  return h("details", { open: opened.has(key), ontoggle }, h("summary", {}, summary), ...children);
}

/** Returns what is shown where there is nothing, or where something went wrong. */
export const note = (text, kind = "") =>
  h("p", { class: `note ${kind}`, role: kind === "bad" ? "alert" : null }, text);

/** Shows a message for a few seconds, for readers of the screen as well. */
export function say(text, kind = "") {
  let place = document.querySelector(".toasts");
  if (!place) {
    place = h("div", { class: "toasts", role: "status", "aria-live": "polite" });
    document.body.append(place);
  }
  const toast = h("p", { class: kind }, text);
  place.append(toast);
  setTimeout(() => toast.remove(), kind === "bad" ? 9000 : 4000);
}

/** Asks in a dialog; `parts` are inside of its form. Resolves with the form's data, null when it is left. */
export const ask = (title, confirm, ...parts) =>
  open(title, parts, dialog => [
    button("Cancel", () => dialog.close()),
    h("button", { type: "submit", class: "primary" }, confirm),
  ]);

/** Shows `parts` in a dialog. Resolves when it is left. */
export const show = (title, ...parts) =>
  open(title, parts, () => [h("button", { type: "submit", class: "primary", autofocus: true }, "Done")]);

function open(title, parts, buttons) {
  return new Promise(resolve => {
    const form = h("form", { method: "dialog" }, h("h2", {}, title), ...parts);
    const dialog = h("dialog", { "aria-label": title }, form);
    let answer = null;
    form.addEventListener("submit", event => {
      event.preventDefault();
      answer = Object.fromEntries(new FormData(form));
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    form.append(h("footer", {}, buttons(dialog)));
    document.body.append(dialog);
    dialog.showModal();
  });
}
