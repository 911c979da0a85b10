// The pump on its curve: head over rate at several frequencies, the envelope of good thrust, and the point.

import { num, svg } from "./dom.js";
import { niceTicks } from "./trends.js";

const WIDTH = 800,
  HEIGHT = 400,
  LEFT = 58,
  RIGHT = 16,
  TOP = 18,
  BOTTOM = 42;
const NEAR_HZ = 2.5;

/**
 * Returns the chart. `curves`: [{frequency_hz, rate_bpd: [], head_ft: [], min_bpd, max_bpd}], one of them
 * `present`; `point`: {rate_bpd, head_ft, rate_low_bpd, rate_high_bpd, head_low_ft, head_high_ft}, parts null where unknown.
 */
export function curveChart(curves, point) {
  const rates = curves.flatMap(curve => curve.rate_bpd);
  const heads = curves.flatMap(curve => curve.head_ft);
  const most = Math.max(...rates, point?.rate_bpd ?? 0) * 1.02;
  const highest = Math.max(...heads, point?.head_ft ?? 0) * 1.06;
  const x = rate => LEFT + (rate / most) * (WIDTH - LEFT - RIGHT);
  const y = head => HEIGHT - BOTTOM - (head / highest) * (HEIGHT - TOP - BOTTOM);
  const present = curves.find(curve => curve.present);
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "curve", role: "img", "aria-label": said(present, point) },
    axes(x, y, most, highest),
    envelope(curves, x, y),
    curves.map(curve => line(curve, x, y, isLabelled(curve, present))),
    mark(point, x, y),
  );
}

function axes(x, y, most, highest) {
  const across = niceTicks(0, most, 6),
    up = niceTicks(0, highest, 5);
  return svg(
    "g",
    { class: "axes" },
    up.map(head => [
      svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(head), y2: y(head) }),
      svg(
        "text",
        { x: LEFT - 6, y: y(head), "text-anchor": "end", "dominant-baseline": "middle" },
        num(head, 0),
      ),
    ]),
    across.map(rate =>
      svg("text", { x: x(rate), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, num(rate, 0)),
    ),
    svg(
      "text",
      { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" },
      "rate through the pump, bpd",
    ),
    svg(
      "text",
      { x: 12, y: HEIGHT / 2 - 10, "text-anchor": "middle", transform: `rotate(-90 12 ${HEIGHT / 2 - 10})` },
      "head, ft",
    ),
  );
}

function envelope(curves, x, y) {
  const bounded = curves.filter(curve => curve.min_bpd !== null && curve.max_bpd !== null);
  if (bounded.length < 2) return null;
  const edge = name =>
    bounded.map(curve => `${x(curve[name]).toFixed(1)},${y(at(curve, curve[name])).toFixed(1)}`);
  const low = edge("min_bpd"),
    high = edge("max_bpd");
  return svg(
    "g",
    { class: "envelope" },
    svg("polygon", { points: [...low, ...high.reverse()].join(" ") }),
    svg("polyline", { points: low.join(" ") }),
    svg("polyline", { points: high.join(" ") }),
    svg(
      "text",
      { x: x(bounded.at(-1).min_bpd) - 6, y: TOP + 2, "text-anchor": "end", "dominant-baseline": "hanging" },
      "downthrust",
    ),
    svg("text", { x: x(bounded.at(-1).max_bpd) + 6, y: TOP + 2, "dominant-baseline": "hanging" }, "upthrust"),
  );
}

/** Whether there is room for a curve's label beside that of the present one. */
const isLabelled = (curve, present) =>
  curve === present || !present || Math.abs(curve.frequency_hz - present.frequency_hz) > NEAR_HZ;

function line(curve, x, y, labelled) {
  const points = curve.rate_bpd.map((rate, i) => `${x(rate).toFixed(1)},${y(curve.head_ft[i]).toFixed(1)}`);
  return svg(
    "g",
    { class: curve.present ? "line present" : "line" },
    svg("polyline", { points: points.join(" ") }),
    labelled && svg("text", { x: LEFT + 6, y: y(curve.head_ft[0]) - 5 }, `${num(curve.frequency_hz, 1)} Hz`),
  );
}

function mark(point, x, y) {
  if (!point || point.rate_bpd === null || point.head_ft === null) return null;
  const { rate_bpd: rate, head_ft: head } = point;
  const wide = point.rate_low_bpd !== null && point.rate_low_bpd !== undefined;
  const tall = point.head_low_ft !== null && point.head_low_ft !== undefined;
  return svg(
    "g",
    { class: "point" },
    wide && svg("line", { x1: x(point.rate_low_bpd), x2: x(point.rate_high_bpd), y1: y(head), y2: y(head) }),
    tall && svg("line", { x1: x(rate), x2: x(rate), y1: y(point.head_low_ft), y2: y(point.head_high_ft) }),
    svg("circle", { cx: x(rate), cy: y(head), r: 6 }),
  );
}

/** Returns the head of a curve at a rate, between its points. */
function at(curve, rate) {
  const { rate_bpd: rates, head_ft: heads } = curve;
  const i = Math.max(
    1,
    rates.findIndex(each => each >= rate),
  );
  const share = (rate - rates[i - 1]) / (rates[i] - rates[i - 1] || 1);
  return heads[i - 1] + share * (heads[i] - heads[i - 1]);
}

function said(present, point) {
  const runs = present ? `Curve at ${num(present.frequency_hz, 1)} Hz. ` : "";
  if (!point || point.rate_bpd === null) return `${runs}The operating point is unknown.`;
  return `${runs}Operating point ${num(point.rate_bpd, 0)} bpd at ${num(point.head_ft, 0)} ft.`;
}
