// One pump: what it does, what it suffers from and why, where it runs on its curve, and its past.

import { curveChart } from "../curve.js";
import {
  ago,
  badge,
  bar,
  button,
  channelName,
  field,
  fold,
  h,
  lasting,
  note,
  num,
  panel,
  percent,
  put,
  rank,
  stateTag,
  unitOf,
  when,
  words,
} from "../dom.js";
import { follow, stream } from "../live.js";
import { api, get } from "../session.js";
import { Trends } from "../trends.js";
import { alertBlock } from "./alert.js";
import { health as healthBar } from "./fleet.js";

const HOUR = 3600e3;
const SPANS = [
  [1, "1 h"],
  [6, "6 h"],
  [24, "24 h"],
  [24 * 7, "7 d"],
  [24 * 30, "30 d"],
];
const FIRST_CHANNELS = [
  "frequency_hz",
  "motor_current_a",
  "intake_pressure_psi",
  "discharge_pressure_psi",
  "motor_temp_c",
];
const HEADLINE = [
  "frequency_hz",
  "motor_current_a",
  "intake_pressure_psi",
  "discharge_pressure_psi",
  "motor_temp_c",
  "vibration_x_g",
  "wellhead_pressure_psi",
  "flow_rate_bpd",
];
const SHOWN_EVIDENCE = 4;
const RELOAD_MS = 30000;
const SOON_MS = 1500;
const POINTS = 900;
const LIVE_POINTS = 20000;

let chosen = [...FIRST_CHANNELS];

/** Shows a pump; returns what ends it. */
export function showPump(context, pumpId) {
  const path = `/pumps/${encodeURIComponent(pumpId)}`;
  const parts = [
    trendPanel(context, path),
    diagnosesPanel(path),
    pointPanel(path),
    alertsPanel(context, pumpId),
    kpisPanel(path),
    healthPanel(path),
  ];
  const [trends, diagnoses, point, alerts, kpis, health] = parts;
  const header = h("div");
  const values = h("dl", { class: "values" });
  const latest = {};
  let state = null;
  let ended = false;
  let soon = 0;

  put(
    context.main,
    header,
    h("section", { class: "panel", "aria-label": "Latest values" }, values),
    h(
      "div",
      { class: "page" },
      h("div", { class: "column" }, trends.element, point.element),
      h("div", { class: "column" }, diagnoses.element, alerts.element, health.element, kpis.element),
    ),
  );
  drawHeader();

  function drawHeader() {
    put(
      header,
      h(
        "div",
        { class: "title" },
        h(
          "h1",
          {},
          h("a", { class: "crumb", href: "#/fleet" }, "Fleet"),
          h("span", { class: "crumb" }, " / "),
          pumpId,
        ),
        state && stateTag(state.state),
        h(
          "div",
          { class: "bits" },
          state?.field_id && h("span", {}, "Field ", h("b", {}, state.field_id)),
          state?.since && h("span", {}, h("b", {}, words(state.state)), ` for ${ago(state.since)}`),
          state?.time && h("span", {}, "Last reading ", h("b", {}, `${ago(state.time)} ago`)),
        ),
      ),
    );
  }

  function drawValues() {
    const units = new Map(context.channels.map(channel => [channel.name, channel.unit]));
    put(
      values,
      HEADLINE.map(name =>
        h(
          "div",
          {},
          h("dt", { title: channelName(name) }, channelName(name)),
          h("dd", {}, num(latest[name]), " ", h("small", {}, unitOf(units.get(name)))),
        ),
      ),
    );
  }

  async function load() {
    const [told, measured] = await Promise.allSettled([
      diagnoses.load(),
      get(`${path}/latest`),
      ...[point, alerts, kpis, health].map(part => part.load()),
    ]);
    if (ended) return;
    if (measured.status === "fulfilled") {
      for (const [name, { value }] of Object.entries(measured.value.channels)) latest[name] = value;
      state = { ...state, time: measured.value.time };
    } else if (measured.reason.status === 404) {
      return put(
        context.main,
        h("div", { class: "title" }, h("h1", {}, pumpId)),
        panel("Pump", {}, note("There is no such pump.", "bad")),
      );
    }
    if (told.status === "fulfilled") state = { ...state, ...told.value };
    trends.mark(diagnoses.marks());
    drawHeader();
    drawValues();
  }

  function hear({ detail: message }) {
    if (message.pump_id !== pumpId) return;
    if (message.kind === "reading") {
      Object.assign(latest, message.values);
      state = { ...state, state: message.state, time: message.time };
      trends.append(message);
      drawValues();
      drawHeader();
    } else {
      clearTimeout(soon);
      soon = setTimeout(load, SOON_MS);
    }
  }

  const resumed = ({ detail }) => {
    if (detail !== "live") return;
    load();
    trends.load();
  };
  const timer = setInterval(load, RELOAD_MS);
  stream.addEventListener("message", hear);
  stream.addEventListener("state", resumed);
  follow({ pumps: [pumpId] });
  load();
  trends.load();
  return () => {
    ended = true;
    clearInterval(timer);
    clearTimeout(soon);
    for (const part of parts) part.close?.();
    stream.removeEventListener("message", hear);
    stream.removeEventListener("state", resumed);
  };
}

/** Fills `body` with what `make()` gives, or says why there is nothing. */
async function fillWith(body, make) {
  try {
    put(body, await make());
  } catch (error) {
    if (error.status !== 401 && error.name !== "AbortError")
      put(
        body,
        note(
          [error.message, error.fix].filter(Boolean).join(": "),
          error.status === 404 || error.status === 409 ? "" : "bad",
        ),
      );
    throw error;
  }
}

// --- trends --------------------------------------------------------------------------------------------

function trendPanel({ channels }, path) {
  let hours = 24;
  let moved = null;
  let asking = null;
  const chart = new Trends(channels, (from, to) => {
    moved = from === null ? null : { from, to };
    load();
  });
  const source = h("small");
  const spans = h("div", { class: "segments", role: "group", "aria-label": "Span" });
  const picker = h(
    "div",
    { class: "picker", hidden: true },
    ["downhole gauge", "drive", "surface"].map(group =>
      h(
        "fieldset",
        {},
        h("legend", {}, words(group)),
        channels
          .filter(channel => channel.group === group)
          .map(channel =>
            h(
              "label",
              {},
              h("input", {
                type: "checkbox",
                checked: chosen.includes(channel.name),
                onchange: event => choose(channel.name, event.target.checked),
              }),
              channelName(channel.name),
            ),
          ),
      ),
    ),
  );
  const toggle = button(
    "Channels",
    () => {
      picker.hidden = !picker.hidden;
      toggle.setAttribute("aria-expanded", String(!picker.hidden));
    },
    { class: "small", "aria-expanded": "false" },
  );
  const element = h(
    "section",
    { class: "panel", "aria-label": "Trends" },
    h("header", {}, h("h2", {}, "Trends"), source, spans, toggle),
    picker,
    chart.element,
  );
  drawSpans();

  function drawSpans() {
    put(
      spans,
      SPANS.map(([span, label]) =>
        button(
          label,
          () => {
            hours = span;
            moved = null;
            load();
          },
          { "aria-pressed": String(!moved && hours === span) },
        ),
      ),
    );
  }

  function choose(name, on) {
    chosen = channels
      .map(channel => channel.name)
      .filter(each => (each === name ? on : chosen.includes(each)));
    load();
  }

  async function load() {
    asking?.abort();
    asking = new AbortController();
    const to = moved?.to ?? Date.now();
    const from = moved?.from ?? to - hours * HOUR;
    chart.span(from, to);
    drawSpans();
    if (!chosen.length) return chart.show([]);
    try {
      const trend = await get(
        `${path}/telemetry`,
        {
          from: new Date(from).toISOString(),
          to: new Date(to).toISOString(),
          channels: chosen.join(","),
          max_points: POINTS,
        },
        { signal: asking.signal },
      );
      const times = trend.time.map(Date.parse);
      chart.show(
        chosen
          .filter(name => trend.channels[name])
          .map(name => ({ name, times: [...times], ...columns(trend.channels[name]) })),
      );
      put(
        source,
        trend.bucket_s ? `${trend.points} points of ${lasting(trend.bucket_s)}` : `${trend.points} readings`,
      );
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 401) put(source, error.message);
    }
  }

  /** Adds what has just been measured, while the chart's end is now. */
  function append(message) {
    if (moved) return;
    const time = Date.parse(message.time);
    for (const series of chart.series) {
      const value = message.values[series.name];
      if (value === undefined || time <= series.times.at(-1) || series.times.length > LIVE_POINTS) continue;
      series.times.push(time);
      for (const name of ["value", "avg", "min", "max"]) series[name]?.push(value);
    }
    const to = Math.max(chart.to, time);
    chart.span(to - hours * HOUR, to);
  }

  return {
    element,
    load,
    append,
    mark: marks => chart.mark(marks),
    close: () => {
      asking?.abort();
      chart.close();
    },
  };
}

const columns = ({ value, avg, min, max }) => (value ? { value } : { avg, min, max });

// --- diagnoses -----------------------------------------------------------------------------------------

function diagnosesPanel(path) {
  const body = h("div");
  const element = panel("Diagnosis", {}, body);
  const opened = new Set();
  let told = null;

  async function load() {
    await fillWith(body, async () => {
      told = await get(`${path}/diagnostics`);
      const hypotheses = [...(told.hypotheses ?? [])].sort((a, b) => b.confidence - a.confidence);
      const [likely, unlikely] = [
        hypotheses.filter(each => each.confidence >= 0.3),
        hypotheses.filter(each => each.confidence < 0.3),
      ];
      return [
        told.silent &&
          h(
            "p",
            { class: "note small" },
            badge("medium", "No readings"),
            " What follows is from the last one that came: what the pump does now is not known.",
          ),
        told.diagnosis_lag_s >= 60 &&
          h(
            "p",
            { class: "note small" },
            `Readings that span ${lasting(told.diagnosis_lag_s)} wait to be judged.`,
          ),
        told.gauge_fault &&
          h(
            "p",
            { class: "note small" },
            badge("medium", "The gauge is at fault: what it measures is not used."),
          ),
        told.anomaly?.learning &&
          h(
            "p",
            { class: "note small" },
            "The anomaly detector is still learning what is normal for this pump.",
          ),
        likely.length
          ? likely.map(each => hypothesis(each, opened))
          : note(
              told.silent
                ? "The last readings showed nothing wrong."
                : "Nothing is wrong that the readings show.",
            ),
        unlikely.length > 0 &&
          fold(
            opened,
            "unlikely",
            `${unlikely.length} less likely`,
            unlikely.map(each => hypothesis(each, opened)),
          ),
        told.path?.length > 0 &&
          h(
            "div",
            { class: "inside" },
            h("h3", {}, "How the tree got there"),
            h(
              "ol",
              { class: "path" },
              told.path.map(step => h("li", {}, words(step))),
            ),
          ),
      ];
    });
    return told && { state: told.state, since: told.since, time: told.time, field_id: told.field_id };
  }

  const marks = () =>
    (told?.findings ?? [])
      .filter(finding => !finding.cleared_at)
      .map(finding => ({
        time: Date.parse(finding.onset),
        severity: finding.severity,
        label: words(finding.condition),
      }));
  return { element, load, marks };
}

function hypothesis(each, opened) {
  const proofs = (label, items) => evidence(label, items, opened, `${each.condition} ${label}`);
  return h(
    "article",
    { class: "diagnosis" },
    h(
      "header",
      {},
      badge(each.severity, ""),
      h("h3", {}, words(each.condition)),
      each.since && h("small", {}, `since ${when(each.since)}`),
      h(
        "span",
        {},
        bar(each.confidence, `Confidence ${percent(each.confidence)}`, "accent"),
        ` ${percent(each.confidence)}`,
      ),
    ),
    each.action && h("p", { class: "action" }, each.action),
    h(
      "dl",
      { class: "evidence" },
      proofs("For", each.for),
      proofs("Against", each.against),
      proofs("Missing", each.missing),
    ),
  );
}

function evidence(label, items, opened, key) {
  if (!items?.length) return null;
  const [first, rest] = [items.slice(0, SHOWN_EVIDENCE), items.slice(SHOWN_EVIDENCE)];
  return [
    h("dt", {}, label),
    h(
      "dd",
      {},
      h("ul", {}, first.map(proof)),
      rest.length > 0 && fold(opened, key, `${rest.length} more`, h("ul", {}, rest.map(proof))),
    ),
  ];
}

function proof({ what, signal, value, unit, threshold }) {
  const known = value !== null && value !== undefined;
  const limit = known && threshold !== null && threshold !== undefined;
  return h(
    "li",
    {},
    words(what || signal),
    known && [" ", h("b", {}, measure(value, unit))],
    limit && [" ", h("small", {}, `(full weight at ${measure(threshold, unit)})`)],
  );
}

const measure = (value, unit) => `${num(value)}\u00a0${unitOf(unit)}`.trim().replace(/^-/, "−");

// --- operating point -----------------------------------------------------------------------------------

function pointPanel(path) {
  const body = h("div");
  const tried = h("div");
  const hertz = h("input", { type: "number", name: "frequency_hz", min: 1, max: 400, step: "0.1" });
  const choke = h("input", { type: "number", name: "choke_pct", min: 1, max: 100, step: "1" });
  const form = h(
    "form",
    { class: "row end", onsubmit: tryIt },
    field("Frequency, Hz", hertz),
    field("Choke, %", choke),
    h("button", { type: "submit" }, "Try"),
  );
  const whatIf = h(
    "details",
    {},
    h("summary", {}, "What if frequency or choke were others?"),
    h("div", { class: "inside" }, form, tried),
  );
  const load = async () => {
    await fillWith(body, async () => {
      const told = await get(`${path}/operating-point`);
      if (!hertz.value) hertz.placeholder = num(told.inputs.frequency_hz?.value);
      if (!choke.value) choke.placeholder = num(told.inputs.choke_pct?.value);
      return [drawPoint(told), whatIf];
    });
  };

  async function tryIt(event) {
    event.preventDefault();
    const wanted = {};
    for (const input of [hertz, choke]) if (input.value) wanted[input.name] = Number(input.value);
    try {
      put(tried, compared(await api("POST", `${path}/what-if`, wanted)));
    } catch (error) {
      put(tried, note([error.message, error.fix].filter(Boolean).join(": "), "bad"));
    }
  }

  return { element: panel("Operating point", {}, body), load };
}

const THRUST = { down: "downthrust", up: "upthrust", balanced: "balanced", unknown: "unknown" };
const thrustOf = name => THRUST[name] ?? words(name).toLowerCase();

function drawPoint({ present, curves, fluid, assumptions, model, stages, running }) {
  const shown = curves.map(curve => ({
    ...curve,
    present: present.frequency_hz !== null && Math.abs(curve.frequency_hz - present.frequency_hz) < 0.01,
  }));
  const sigma = present.source === "virtual" ? present.virtual_sigma_bpd : null;
  const point = {
    rate_bpd: present.rate_bpd,
    head_ft: present.head_ft,
    rate_low_bpd: sigma && present.rate_bpd - 2 * sigma,
    rate_high_bpd: sigma && present.rate_bpd + 2 * sigma,
  };
  const fact = (label, value, unit, more) =>
    h("div", {}, h("dt", {}, label), h("dd", {}, value, " ", h("small", {}, unit, more)));
  return h(
    "div",
    { class: "inside" },
    curveChart(shown, point),
    running === false && note("The pump does not run."),
    h(
      "dl",
      { class: "facts" },
      fact(
        "Rate through the pump",
        num(present.rate_bpd, 0),
        "bpd",
        sigma ? ` ± ${num(2 * sigma, 0)}, virtual` : present.rate_bpd === null ? "" : `, ${present.source}`,
      ),
      fact("Head", num(present.head_ft, 0), "ft"),
      fact("Of best efficiency", percent(present.fraction_of_best), ""),
      fact("Thrust", thrustOf(present.thrust), ""),
      fact("Motor load", percent(present.motor_load), ""),
      fact("Gas at the intake", percent(fluid.gas_void_fraction), "of the volume"),
      fact("Pump", model ?? "unknown", stages ? `${stages} stages` : ""),
    ),
    present.reason && present.rate_bpd === null && h("small", {}, words(present.reason)),
    assumptions.map(text => h("small", {}, `Assumed: ${text}.`)),
  );
}

function compared({ now, then, assumptions, warnings }) {
  const rows = [
    ["Frequency", "frequency_hz", "Hz"],
    ["Choke", "choke_pct", "%"],
    ["Liquid rate", "rate_bpd", "bpd"],
    ["Intake pressure", "intake_pressure_psi", "psi"],
    ["Wellhead pressure", "wellhead_pressure_psi", "psi"],
    ["Power", "active_power_kw", "kW"],
  ];
  return [
    warnings.map(text => h("p", {}, badge("medium", text))),
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, h("th"), h("th", { class: "n" }, "Now"), h("th", { class: "n" }, "Then"))),
      h(
        "tbody",
        {},
        rows.map(([label, name, unit]) =>
          h(
            "tr",
            {},
            h("td", {}, label),
            h("td", { class: "n" }, num(now[name])),
            h("td", { class: "n" }, h("b", {}, `${num(then[name])} ${unit}`)),
          ),
        ),
        h(
          "tr",
          {},
          h("td", {}, "Of best efficiency"),
          h("td", { class: "n" }, percent(now.fraction_of_best)),
          h("td", { class: "n" }, h("b", {}, percent(then.fraction_of_best))),
        ),
        h(
          "tr",
          {},
          h("td", {}, "Thrust"),
          h("td", { class: "n" }, thrustOf(now.thrust)),
          h("td", { class: "n" }, h("b", {}, thrustOf(then.thrust))),
        ),
      ),
    ),
    assumptions.map(text => h("small", {}, `Assumed: ${text}.`)),
  ];
}

// --- alerts --------------------------------------------------------------------------------------------

function alertsPanel(context, pumpId) {
  const body = h("ul");
  const load = async () => {
    if (!context.may("alerts:read")) return put(body, note("Your role does not see alerts."));
    await fillWith(body, async () => {
      const { items } = await get("/alerts", { pump_id: pumpId, limit: 20 });
      items.sort((a, b) => rank(b.priority) - rank(a.priority));
      return items.length ? items.map(alert => alertBlock(alert, context, load)) : note("No alerts.");
    });
  };
  return { element: panel("Alerts", {}, body), load };
}

// --- figures -------------------------------------------------------------------------------------------

function kpisPanel(path) {
  const body = h("div");
  const load = () => fillWith(body, async () => drawKpis(await get(`${path}/kpis`)));
  return { element: panel("Key figures of 30 days", {}, body), load };
}

function drawKpis(told) {
  const fact = (label, value, unit, more) =>
    h(
      "div",
      {},
      h("dt", {}, label),
      h("dd", {}, value, " ", h("small", {}, unit)),
      more && h("small", {}, more),
    );
  const { run_life: life } = told;
  return h(
    "div",
    { class: "inside" },
    h(
      "dl",
      { class: "facts" },
      fact(
        "Uptime",
        told.uptime === null ? "–" : `${num(100 * told.uptime, 1)} %`,
        "",
        told.uptime_known < 0.995 ? `${percent(told.uptime_known)} of the time is known` : "",
      ),
      fact("Starts", num(told.starts, 0), ""),
      fact(
        "Trips",
        num(told.trips, 0),
        "",
        told.mean_time_between_trips_days === null
          ? ""
          : `one in ${num(told.mean_time_between_trips_days)} days`,
      ),
      fact(
        "Run life",
        num(life.days, 0),
        "days",
        life.up_days === null ? "" : `${num(life.up_days)} without a stop`,
      ),
      fact("Produced", num(told.produced_bbl, 0), "bbl"),
      fact(
        "Deferred",
        num(told.deferred_bbl, 0),
        "bbl",
        told.usual_rate_bpd === null ? "" : `at ${num(told.usual_rate_bpd, 0)} bpd`,
      ),
      fact("Energy", num(told.energy_kwh, 0), "kWh"),
      fact("Energy for oil", num(told.kwh_per_bbl), "kWh/bbl"),
      fact("CO₂e", num(told.co2e_kg / 1000), "t"),
    ),
  );
}

function healthPanel(path) {
  const body = h("div");
  const load = () => fillWith(body, async () => drawHealth(await get(`${path}/health`)));
  return { element: panel("Health", {}, body), load };
}

function drawHealth({ score, terms }) {
  if (score === null) return note("Too little is known to judge.");
  const costly = terms.filter(term => term.points >= 0.05);
  return h(
    "div",
    { class: "inside" },
    healthBar(score),
    costly.length > 0 &&
      h(
        "div",
        { class: "terms" },
        costly.map(term => [
          h("span", {}, words(term.term), h("small", {}, ` ${term.why}`)),
          bar(term.points / 50, `${num(term.points)} points`),
          h("b", { class: "n" }, `−${num(term.points, 1)}`),
        ]),
      ),
    !costly.length && h("small", {}, "Nothing takes from it."),
  );
}
