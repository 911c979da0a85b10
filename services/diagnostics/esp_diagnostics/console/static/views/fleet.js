// The fleet, by exception: what needs somebody's eye, the worst first; the rest is folded away.

import {
  age,
  ago,
  badge,
  bar,
  button,
  field,
  fold,
  h,
  lasting,
  note,
  num,
  panel,
  put,
  say,
  stateTag,
  words,
} from "../dom.js";
import { follow, stream } from "../live.js";
import { get } from "../session.js";

const RELOAD_MS = 30000;
const SOON_MS = 1500;
const PAGE = 200;
const LAG_SHOWN_S = 60;
const COLUMNS = [
  ["frequency_hz", "Hz"],
  ["motor_current_a", "A"],
  ["intake_pressure_psi", "Intake psi"],
  ["motor_temp_c", "Motor °C"],
  ["flow_rate_bpd", "bpd"],
];

/** Shows the fleet; returns what ends it. */
export function showFleet({ main }, parameters) {
  const wanted = {
    field_id: parameters.field ?? "",
    state: parameters.state ?? "",
    severity: parameters.severity ?? "",
    text: "",
  };
  const pumps = new Map();
  const rows = new Map();
  const opened = new Set();
  let fields = [];
  let summary = null;
  let following = null;
  let timer = 0;
  let ended = false;

  const tiles = h("div", { class: "tiles" });
  const list = h("div");
  const quiet = h("div");
  const chooser = h("select", { "aria-label": "Field", onchange: () => change({ field_id: chooser.value }) });
  const search = h("input", {
    type: "search",
    placeholder: "Pump, well or condition",
    oninput: () => {
      wanted.text = search.value.toLowerCase();
      draw();
    },
  });
  put(
    main,
    h(
      "div",
      { class: "title" },
      h("h1", { class: "grow" }, "Fleet"),
      h("div", { class: "row end" }, field("Field", chooser), field("Find", search)),
    ),
    tiles,
    list,
    quiet,
  );
  put(list, panel("Needs attention", {}, note("Loading…")));

  function change(some) {
    Object.assign(wanted, some);
    const query = new URLSearchParams(
      Object.entries({ field: wanted.field_id, state: wanted.state, severity: wanted.severity }).filter(
        ([, value]) => value,
      ),
    );
    history.replaceState(null, "", `#/fleet${query.size ? `?${query}` : ""}`);
    load();
  }

  async function load(cursor) {
    clearTimeout(timer);
    timer = setTimeout(load, RELOAD_MS);
    const filter = { field_id: wanted.field_id, state: wanted.state, severity: wanted.severity };
    let page;
    try {
      page = await get("/fleet", { ...filter, cursor, limit: PAGE });
    } catch (error) {
      if (!ended && error.status !== 401)
        put(list, panel("Needs attention", {}, note(`${error.message}. ${error.fix ?? ""}`, "bad")));
      return;
    }
    if (ended) return;
    if (!cursor) pumps.clear();
    for (const pump of page.items) pumps.set(pump.pump_id, pump);
    summary = page.summary ?? summary;
    following = page.next_cursor;
    fields = [...new Set([...fields, ...page.items.map(pump => pump.field_id)])].sort();
    put(
      chooser,
      h("option", { value: "" }, "All fields"),
      fields.map(name => h("option", { value: name }, name)),
    );
    chooser.value = wanted.field_id;
    follow({ fields: [wanted.field_id || "*"] });
    draw();
  }

  function draw() {
    if (wanted.text || wanted.state) opened.add("quiet");
    drawTiles();
    const shown = [...pumps.values()].filter(pump => matches(pump, wanted.text));
    const exceptions = shown.filter(isException);
    const others = shown.filter(pump => !isException(pump));
    rows.clear();
    put(
      list,
      panel(
        "Needs attention",
        {},
        exceptions.length
          ? table(exceptions, rows)
          : note(pumps.size ? "Nothing here needs attention." : "No pump matches."),
      ),
    );
    put(
      quiet,
      others.length > 0 &&
        h(
          "section",
          { class: "panel" },
          fold(
            opened,
            "quiet",
            `${others.length} ${others.length === 1 ? "pump" : "pumps"} without findings or alerts`,
            h("div", { class: "healthy" }, others.map(healthy)),
          ),
        ),
      following &&
        h(
          "div",
          { class: "more" },
          button("More pumps", () => load(following)),
        ),
    );
  }

  function drawTiles() {
    if (!summary) return;
    const tile = (label, count, filter) => {
      const pressed = Object.entries(filter).every(([name, value]) => wanted[name] === value);
      return button(
        "",
        () =>
          change(
            pressed
              ? Object.fromEntries(Object.keys(filter).map(name => [name, ""]))
              : { state: "", severity: "", ...filter },
          ),
        {
          class: `tile ${count ? "" : "zero"}`,
          "aria-pressed": String(pressed),
          "aria-label": `${count} ${label}`,
        },
      );
    };
    const severities = ["critical", "high", "medium", "low"].map(name => {
      const element = tile(name, summary.severities?.[name] ?? 0, { severity: name });
      element.append(
        h("b", {}, String(summary.severities?.[name] ?? 0)),
        badge(summary.severities?.[name] ? name : "none", words(name)),
      );
      return element;
    });
    const states = [
      ["running", "Running"],
      ["off", "Not running"],
      ["unknown", "Unknown"],
    ].map(([name, label]) => {
      const element = tile(label, summary.states?.[name] ?? 0, { state: name });
      element.append(h("b", {}, String(summary.states?.[name] ?? 0)), stateTag(name));
      return element;
    });
    const all = tile("pumps", summary.pumps, { state: "", severity: "" });
    all.append(
      h("b", {}, String(summary.pumps)),
      h("span", {}, summary.out_of_service ? `pumps, ${summary.out_of_service} out of service` : "pumps"),
    );
    put(tiles, all, severities, states);
  }

  function hear({ detail: message }) {
    const pump = pumps.get(message.pump_id);
    if (message.kind === "reading" && pump) {
      Object.assign(pump, {
        state: message.state,
        time: message.time,
        silent: false,
        since: pump.silent ? null : pump.since,
      });
      pump.values = { ...pump.values, ...message.values };
      rows.get(pump.pump_id)?.update(pump);
    } else if (message.kind !== "reading") {
      clearTimeout(timer);
      timer = setTimeout(load, SOON_MS);
    }
    if (message.kind === "finding" && message.change === "raised")
      say(
        `${message.pump_id}: ${words(message.condition).toLowerCase()}`,
        message.severity === "critical" ? "bad" : "",
      );
  }

  const resumed = ({ detail: state }) => state === "live" && load();
  stream.addEventListener("message", hear);
  stream.addEventListener("state", resumed);
  const ages = setInterval(() => {
    for (const row of rows.values()) row.age();
  }, 10000);
  load();
  return () => {
    ended = true;
    clearTimeout(timer);
    clearInterval(ages);
    stream.removeEventListener("message", hear);
    stream.removeEventListener("state", resumed);
  };
}

const isException = pump =>
  (pump.severity && pump.severity !== "info") ||
  pump.findings > 0 ||
  pump.alerts > 0 ||
  pump.silent ||
  pump.gauge_fault ||
  pump.state === "off";

function matches(pump, text) {
  return (
    !text ||
    [pump.pump_id, pump.well_id, pump.field_id, pump.condition, words(pump.condition)].some(word =>
      word?.toLowerCase().includes(text),
    )
  );
}

function table(pumps, rows) {
  return h(
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
          h("th", { scope: "col" }, "Pump"),
          h("th", { scope: "col" }, "What is wrong"),
          h("th", { scope: "col" }, "State"),
          h("th", { scope: "col" }, "Health"),
          COLUMNS.map(([, label]) => h("th", { class: "n", scope: "col" }, label)),
          h("th", { class: "n", scope: "col" }, "Alerts"),
          h("th", { class: "n", scope: "col" }, "Last reading"),
        ),
      ),
      h(
        "tbody",
        {},
        pumps.map(pump => row(pump, rows)),
      ),
    ),
  );
}

function row(pump, rows) {
  const state = h("td");
  const values = COLUMNS.map(() => h("td", { class: "n" }));
  const last = h("td", { class: "n" });
  const why = pump.condition
    ? words(pump.condition)
    : pump.silent
      ? "No readings"
      : pump.state === "off"
        ? "Not running"
        : pump.gauge_fault
          ? "Gauge fault"
          : pump.alerts
            ? "Alert"
            : "–";
  const element = h(
    "tr",
    { class: pump.severity ?? "" },
    h(
      "td",
      {},
      h("a", { class: "pump", href: `#/pumps/${encodeURIComponent(pump.pump_id)}` }, pump.pump_id),
      h("small", {}, `${pump.well_id} · ${pump.field_id}`),
    ),
    h("td", {}, badge(pump.severity, why), h("small", {}, details(pump))),
    state,
    h("td", {}, health(pump.health)),
    values,
    h(
      "td",
      { class: "n" },
      pump.alerts
        ? h(
            "a",
            { href: `#/alerts?pump=${encodeURIComponent(pump.pump_id)}` },
            String(pump.alerts),
            pump.unacknowledged_alerts ? ` (${pump.unacknowledged_alerts} new)` : "",
          )
        : "–",
    ),
    last,
  );
  const told = {
    age() {
      put(last, pump.time ? age(pump.time) : "never");
      last.classList.toggle("late", pump.silent);
    },
    update(now) {
      put(
        state,
        stateTag(now.in_service ? now.state : "out of service"),
        h("small", {}, now.since ? `for ${ago(now.since)}` : ""),
      );
      for (const [i, [name]] of COLUMNS.entries()) put(values[i], num(now.values?.[name]));
      told.age();
    },
  };
  told.update(pump);
  rows.set(pump.pump_id, told);
  return element;
}

function details(pump) {
  const parts = [];
  if (pump.findings > 1) parts.push(`${pump.findings} findings`);
  if (pump.gauge_fault && pump.condition) parts.push("gauge fault");
  if (pump.silent && pump.condition) parts.push("no readings");
  if (pump.diagnosis_lag_s >= LAG_SHOWN_S) parts.push(`diagnosis ${lasting(pump.diagnosis_lag_s)} behind`);
  if (pump.shelved_alerts) parts.push(`${pump.shelved_alerts} shelved`);
  return parts.join(" · ");
}

/** Returns a pump's health as a bar and a number. */
export function health(score) {
  if (score === null || score === undefined) return h("span", { class: "over" }, "–");
  const kind = score < 40 ? "critical" : score < 60 ? "high" : score < 80 ? "medium" : "";
  return h(
    "span",
    { class: "row" },
    bar(score / 100, `Health ${Math.round(score)} of 100`, kind),
    String(Math.round(score)),
  );
}

function healthy(pump) {
  return h(
    "a",
    { href: `#/pumps/${encodeURIComponent(pump.pump_id)}` },
    h("b", {}, pump.pump_id),
    pump.in_service ? stateTag(pump.state) : h("span", {}, "out of service"),
    h("span", {}, pump.health === null ? "" : String(Math.round(pump.health))),
  );
}
