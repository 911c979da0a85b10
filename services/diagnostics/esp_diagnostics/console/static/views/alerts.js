// Alerts of all pumps, with filters by what they are, where, and when.

import { age, badge, button, field, h, note, panel, put, when, whoIs, words } from "../dom.js";
import { follow, stream } from "../live.js";
import { get } from "../session.js";
import { alertButtons, stateOf } from "./alert.js";

const LIMIT = 50;
const SOON_MS = 1000;
const STATES = [
  ["", "Present and unacknowledged"],
  ["active_unacknowledged", "Active, not acknowledged"],
  ["active_acknowledged", "Active, acknowledged"],
  ["cleared_unacknowledged", "Cleared, not acknowledged"],
  ["shelved", "Shelved"],
  ["suppressed", "Suppressed"],
  ["out_of_service", "Out of service"],
  ["normal", "Cleared"],
  ["closed", "Closed"],
];
const PRESENT = ["active_unacknowledged", "active_acknowledged", "cleared_unacknowledged"];
const PRIORITIES = ["critical", "high", "medium", "low"];
const DATES = [
  ["raised", "Raised"],
  ["cleared", "Cleared"],
  ["acknowledged", "Acknowledged"],
];

/** Shows the alerts; returns what ends it. */
export function showAlerts(context, parameters) {
  const { main, may } = context;
  let ended = false;
  let timer = 0;
  let alerts = [];
  let following = null;

  const select = (options, value) =>
    h(
      "select",
      { onchange: load, value },
      options.map(([name, label]) => h("option", { value: name }, label)),
    );
  const state = select(STATES);
  const priority = select([["", "Any"], ...PRIORITIES.map(name => [name, words(name)])]);
  const fieldId = h("input", { value: parameters.field ?? "", onchange: load, size: 10 });
  const pumpId = h("input", { value: parameters.pump ?? "", onchange: load, size: 10 });
  const assignee = h("input", { onchange: load, size: 12 });
  const date = select(DATES);
  const from = h("input", { type: "datetime-local", onchange: load });
  const to = h("input", { type: "datetime-local", onchange: load });
  const list = h("div");
  const statistics = h("div", { class: "bits" });
  put(
    main,
    h("div", { class: "title" }, h("h1", { class: "grow" }, "Alerts"), statistics),
    panel(
      "Alerts",
      {},
      h(
        "form",
        { class: "filters", onsubmit: event => event.preventDefault() },
        field("State", state),
        field("Priority", priority),
        field("Field", fieldId),
        field("Pump", pumpId),
        field("Assigned to", assignee),
        field("Date", date),
        field("From (UTC)", from),
        field("To (UTC)", to),
        button("Clear", clear),
      ),
      list,
    ),
  );

  function clear() {
    for (const control of [state, priority, fieldId, pumpId, assignee, from, to]) control.value = "";
    load();
  }

  function filter() {
    const dated = from.value || to.value;
    return {
      state: state.value || (dated ? undefined : PRESENT),
      priority: priority.value,
      field_id: fieldId.value.trim(),
      pump_id: pumpId.value.trim(),
      assignee: assignee.value.trim(),
      [`${date.value}_from`]: from.value && `${from.value}Z`,
      [`${date.value}_to`]: to.value && `${to.value}Z`,
    };
  }

  async function load(cursor) {
    if (!may("alerts:read")) return put(list, note("Your role does not see alerts.", "bad"));
    const more = typeof cursor === "string";
    try {
      const page = await get("/alerts", { ...filter(), cursor: more ? cursor : undefined, limit: LIMIT });
      if (ended) return;
      alerts = more ? [...alerts, ...page.items] : page.items;
      following = page.next_cursor;
      draw();
    } catch (error) {
      if (!ended && error.status !== 401) put(list, note(`${error.message}. ${error.fix ?? ""}`, "bad"));
    }
  }

  function draw() {
    put(
      list,
      alerts.length
        ? h(
            "div",
            { class: "scroll" },
            h(
              "table",
              {},
              h(
                "thead",
                {},
                h(
                  "tr",
                  {},
                  ["Priority", "Alert", "Pump", "State", "Raised", "Acknowledged", ""].map(label =>
                    h("th", { scope: "col" }, label),
                  ),
                ),
              ),
              h("tbody", {}, alerts.map(row)),
            ),
          )
        : note("No alert fits."),
      following &&
        h(
          "div",
          { class: "more" },
          button("More", () => load(following)),
        ),
    );
  }

  function row(alert) {
    const over = ["normal", "closed"].includes(alert.state);
    const changed = now => {
      alerts = alerts.map(each => (each.alert_id === now.alert_id ? now : each));
      draw();
    };
    return h(
      "tr",
      { class: over ? "over" : PRESENT.includes(alert.state) ? alert.priority : "" },
      h("td", {}, badge(over ? "none" : alert.priority, words(alert.priority))),
      h("td", {}, h("b", {}, alert.title), h("small", {}, alert.action)),
      h(
        "td",
        {},
        alert.pump_id
          ? h("a", { class: "name", href: `#/pumps/${encodeURIComponent(alert.pump_id)}` }, alert.pump_id)
          : "Platform",
        h("small", {}, alert.field_id ?? ""),
      ),
      h(
        "td",
        {},
        stateOf(alert),
        h(
          "small",
          {},
          alert.occurrences > 1 ? `${alert.occurrences} times` : "",
          alert.assignee ? ` ${alert.assignee}` : "",
        ),
      ),
      h("td", { class: "name" }, age(alert.last_raised_at), h("small", {}, when(alert.last_raised_at))),
      h(
        "td",
        { class: "name" },
        alert.acknowledged_by ? whoIs(alert.acknowledged_by, context.me) : "–",
        h("small", {}, alert.acknowledged_at ? when(alert.acknowledged_at) : ""),
      ),
      h("td", { class: "acts" }, h("div", { class: "row" }, alertButtons(alert, context, changed))),
    );
  }

  async function loadStatistics() {
    if (!may("alerts:read")) return;
    const seen = await get("/alerts/statistics", { field_id: fieldId.value.trim() }).catch(() => null);
    if (!seen || ended) return;
    put(
      statistics,
      h("span", {}, "24 h: ", h("b", {}, String(seen.annunciated)), " annunciated"),
      h("span", {}, h("b", {}, seen.per_operator_hour.toFixed(1)), " per operator and hour"),
      h("span", {}, "load ", h("b", {}, words(seen.load).toLowerCase())),
      seen.top[0] &&
        h(
          "span",
          {},
          "most: ",
          h("b", {}, `${seen.top[0].pump_id ?? "platform"} ${words(seen.top[0].condition).toLowerCase()}`),
        ),
    );
  }

  const hear = ({ detail: message }) => {
    if (message.kind !== "alert") return;
    clearTimeout(timer);
    timer = setTimeout(load, SOON_MS);
  };
  const resumed = ({ detail }) => detail === "live" && load();
  stream.addEventListener("message", hear);
  stream.addEventListener("state", resumed);
  follow({ fields: ["*"] });
  load();
  loadStatistics();
  return () => {
    ended = true;
    clearTimeout(timer);
    stream.removeEventListener("message", hear);
    stream.removeEventListener("state", resumed);
  };
}
