// Trends: one lane for each unit, drawn on a canvas; all lanes share the time axis.

import { channelName, h, num, put, unitOf, when } from "./dom.js";

const LEFT = 62,
  RIGHT = 12,
  TOP = 8,
  AXIS = 22,
  GAP = 10,
  LANE = 118;
const MINUTE = 60e3,
  HOUR = 3600e3,
  DAY = 86400e3;
const STEPS = [
  1e3,
  5e3,
  15e3,
  30e3,
  MINUTE,
  5 * MINUTE,
  15 * MINUTE,
  30 * MINUTE,
  HOUR,
  3 * HOUR,
  6 * HOUR,
  12 * HOUR,
  DAY,
  2 * DAY,
  7 * DAY,
  14 * DAY,
  30 * DAY,
  90 * DAY,
];
const LEAST_SHARE = 0.03;
const SHORTEST = 30e3,
  LONGEST = 3 * 366 * DAY;

/**
 * A chart of channels over time. `onview(from, to)` is called, times in ms, when the user has moved to a span
 * that may need other data. Wheel and +/- zoom, dragging and arrows pan, double click and Home go back.
 */
export class Trends {
  constructor(channels, onview) {
    this.units = new Map(channels.map(channel => [channel.name, channel.unit]));
    this.onview = onview;
    this.series = [];
    this.marks = [];
    this.from = this.to = 0;
    this.cursor = null;
    this.hidden = new Set();
    this.canvas = h("canvas", { tabindex: "0", role: "img" });
    this.legend = h("div", { class: "legend" });
    this.element = h("div", { class: "trends" }, this.canvas, this.legend);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.element);
    this.#listen();
  }

  /** Shows `from` to `to` (ms), without asking for data. */
  span(from, to) {
    this.from = from;
    this.to = to;
    this.draw();
  }

  /** Shows `series`: [{name, times (ms), value | avg, min, max}], in the order of the lanes. */
  show(series) {
    this.series = series;
    this.draw();
  }

  /** Marks instants: [{time (ms), severity, label}]. */
  mark(marks) {
    this.marks = marks;
    this.draw();
  }

  close() {
    this.observer.disconnect();
  }

  // --- drawing ---

  get lanes() {
    const lanes = new Map();
    for (const series of this.series) {
      const unit = this.units.get(series.name);
      if (!lanes.has(unit)) lanes.set(unit, []);
      lanes.get(unit).push(series);
    }
    return [...lanes];
  }

  draw() {
    const width = this.element.clientWidth;
    if (!width) return;
    const lanes = this.lanes;
    const height = TOP + Math.max(1, lanes.length) * (LANE + GAP) + AXIS;
    const scale = window.devicePixelRatio || 1;
    if (
      this.canvas.width !== Math.round(width * scale) ||
      this.canvas.height !== Math.round(height * scale)
    ) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
      this.canvas.style.height = `${height}px`;
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(this.element);
    const ink = name => style.getPropertyValue(`--${name}`).trim();
    pen.font = "11px system-ui, sans-serif";
    this.width = width;
    this.#drawTimes(pen, ink, height, lanes.length);
    let n = 0;
    lanes.forEach(([unit, series], index) => {
      const top = TOP + index * (LANE + GAP);
      this.#drawLane(pen, ink, unit, series, top, n);
      n += series.length;
    });
    this.#drawMarks(pen, ink, height);
    this.#drawCursor(pen, ink, height);
    this.#drawLegend(ink);
    const shown = this.series.map(series => channelName(series.name)).join(", ") || "nothing";
    this.canvas.setAttribute("aria-label", `Trends of ${shown}, ${when(this.from)} to ${when(this.to)} UTC`);
  }

  x(time) {
    return LEFT + ((time - this.from) / (this.to - this.from)) * (this.width - LEFT - RIGHT);
  }

  time(x) {
    return this.from + ((x - LEFT) / (this.width - LEFT - RIGHT)) * (this.to - this.from);
  }

  #drawTimes(pen, ink, height, lanes) {
    const span = this.to - this.from;
    const most = Math.max(2, Math.floor((this.width - LEFT) / 110));
    const step = STEPS.find(each => span / each <= most) ?? STEPS.at(-1);
    pen.fillStyle = ink("muted");
    pen.strokeStyle = ink("line");
    pen.lineWidth = 1;
    pen.textAlign = "center";
    pen.textBaseline = "top";
    for (let time = Math.ceil(this.from / step) * step; time <= this.to; time += step) {
      const x = Math.round(this.x(time)) + 0.5;
      pen.beginPath();
      pen.moveTo(x, TOP);
      pen.lineTo(x, height - AXIS);
      pen.stroke();
      const text = when(time, step < MINUTE);
      const label = step >= DAY ? text.slice(5, 10) : time % DAY === 0 ? text.slice(5, 10) : text.slice(11);
      if (lanes) pen.fillText(label, x, height - AXIS + 5);
    }
  }

  #drawLane(pen, ink, unit, series, top, first) {
    const [low, high] = this.#range(series);
    const y = value => top + LANE - 6 - ((value - low) / (high - low)) * (LANE - 12);
    pen.fillStyle = ink("muted");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    const ticks = niceTicks(low, high, 4);
    for (const tick of ticks) {
      pen.fillText(num(tick, ticks.places), LEFT - 6, y(tick));
      pen.strokeStyle = ink("line");
      pen.beginPath();
      pen.moveTo(LEFT, Math.round(y(tick)) + 0.5);
      pen.lineTo(this.width - RIGHT, Math.round(y(tick)) + 0.5);
      pen.stroke();
    }
    pen.save();
    pen.translate(10, top + LANE / 2);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "center";
    pen.fillText(unitOf(unit) || "ratio", 0, 0);
    pen.restore();
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, top, this.width - LEFT - RIGHT, LANE);
    pen.clip();
    series.forEach((each, index) => {
      if (!this.hidden.has(each.name)) this.#drawLine(pen, each, y, ink(`series-${(first + index) % 8}`));
    });
    pen.restore();
    pen.strokeStyle = ink("line-strong");
    pen.strokeRect(LEFT + 0.5, top + 0.5, this.width - LEFT - RIGHT, LANE);
  }

  #drawLine(pen, series, y, colour) {
    const { times, min, max } = series;
    const values = series.value ?? series.avg;
    if (min && max) {
      pen.fillStyle = colour;
      pen.globalAlpha = 0.2;
      for (const [begin, end] of runs(times, min)) {
        pen.beginPath();
        for (let i = begin; i < end; i++) pen.lineTo(this.x(times[i]), y(max[i]));
        for (let i = end - 1; i >= begin; i--) pen.lineTo(this.x(times[i]), y(min[i]));
        pen.fill();
      }
      pen.globalAlpha = 1;
    }
    pen.strokeStyle = colour;
    pen.fillStyle = colour;
    pen.lineWidth = 1.4;
    pen.lineJoin = "round";
    for (const [begin, end] of runs(times, values)) {
      pen.beginPath();
      for (let i = begin; i < end; i++) pen.lineTo(this.x(times[i]), y(values[i]));
      if (end - begin === 1) pen.arc(this.x(times[begin]), y(values[begin]), 1.2, 0, 7);
      pen.stroke();
    }
  }

  #range(series) {
    let low = Infinity,
      high = -Infinity;
    for (const each of series) {
      if (this.hidden.has(each.name)) continue;
      const values = each.value ?? each.avg;
      for (let i = 0; i < each.times.length; i++) {
        if (each.times[i] < this.from || each.times[i] > this.to) continue;
        const bottom = each.min?.[i] ?? values[i],
          top = each.max?.[i] ?? values[i];
        if (bottom !== null && bottom < low) low = bottom;
        if (top !== null && top > high) high = top;
      }
    }
    if (low > high) return [0, 1];
    // A line that hardly moves is shown as one: filling the lane it would look like trouble.
    const least = Math.max(Math.abs(low), Math.abs(high)) * LEAST_SHARE || 1;
    const pad = Math.max((high - low) * 0.08, (least - (high - low)) / 2);
    return [low - pad, high + pad];
  }

  #drawMarks(pen, ink, height) {
    for (const { time, severity } of this.marks) {
      if (time < this.from || time > this.to) continue;
      const x = Math.round(this.x(time)) + 0.5;
      pen.strokeStyle = ink(severity);
      pen.fillStyle = ink(severity);
      pen.setLineDash([4, 3]);
      pen.beginPath();
      pen.moveTo(x, TOP);
      pen.lineTo(x, height - AXIS);
      pen.stroke();
      pen.setLineDash([]);
      pen.beginPath();
      pen.moveTo(x - 5, TOP - 8);
      pen.lineTo(x + 5, TOP - 8);
      pen.lineTo(x, TOP + 1);
      pen.fill();
    }
  }

  #drawCursor(pen, ink, height) {
    if (this.cursor === null) return;
    const x = Math.round(this.x(this.cursor)) + 0.5;
    pen.strokeStyle = ink("text");
    pen.globalAlpha = 0.6;
    pen.beginPath();
    pen.moveTo(x, TOP);
    pen.lineTo(x, height - AXIS);
    pen.stroke();
    pen.globalAlpha = 1;
  }

  #drawLegend(ink) {
    const entries = this.lanes
      .flatMap(([, series]) => series)
      .map((series, index) => {
        const i = this.cursor === null ? lastWith(series) : nearest(series.times, this.cursor);
        const value = (series.value ?? series.avg)[i];
        const unit = unitOf(this.units.get(series.name));
        return h(
          "button",
          {
            type: "button",
            "aria-pressed": String(!this.hidden.has(series.name)),
            title: `Show or hide ${channelName(series.name)}`,
            onclick: () => this.#toggle(series.name),
          },
          h("i", { style: { background: ink(`series-${index % 8}`) } }),
          channelName(series.name),
          h("b", {}, `${num(value)} ${unit}`),
        );
      });
    const at = this.cursor === null ? null : h("span", { class: "at" }, `${when(this.cursor, true)} UTC`);
    put(this.legend, entries, at);
  }

  #toggle(name) {
    if (!this.hidden.delete(name)) this.hidden.add(name);
    this.draw();
  }

  // --- the user's hands ---

  #listen() {
    const { canvas } = this;
    let held = null;
    canvas.addEventListener("pointerdown", event => {
      held = { x: event.offsetX, from: this.from, to: this.to };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", event => {
      if (held) {
        const shift = ((held.x - event.offsetX) / (this.width - LEFT - RIGHT)) * (held.to - held.from);
        this.span(held.from + shift, held.to + shift);
      }
      this.#point(event.offsetX);
    });
    canvas.addEventListener("pointerup", () => {
      const moved = held && held.from !== this.from;
      held = null;
      if (moved) this.#moved();
    });
    canvas.addEventListener("pointerleave", () => {
      this.cursor = null;
      this.draw();
    });
    canvas.addEventListener(
      "wheel",
      event => {
        event.preventDefault();
        this.#zoom(event.deltaY > 0 ? 1.25 : 0.8, this.time(event.offsetX));
      },
      { passive: false },
    );
    canvas.addEventListener("dblclick", () => this.onview(null, null));
    canvas.addEventListener("keydown", event => this.#key(event));
  }

  #key(event) {
    const span = this.to - this.from;
    const pan = share => {
      this.span(this.from + share * span, this.to + share * span);
      this.#moved();
    };
    const acts = {
      ArrowLeft: () => pan(-0.2),
      ArrowRight: () => pan(0.2),
      Home: () => this.onview(null, null),
      "+": () => this.#zoom(0.7),
      "=": () => this.#zoom(0.7),
      "-": () => this.#zoom(1.4),
    };
    if (acts[event.key]) {
      event.preventDefault();
      acts[event.key]();
    }
  }

  #zoom(factor, around = (this.from + this.to) / 2) {
    const span = this.to - this.from;
    const next = Math.min(LONGEST, Math.max(SHORTEST, span * factor));
    const share = (around - this.from) / span;
    this.span(around - share * next, around + (1 - share) * next);
    this.#moved();
  }

  #moved() {
    clearTimeout(this.moving);
    this.moving = setTimeout(() => this.onview(this.from, this.to), 250);
  }

  #point(x) {
    this.cursor = x < LEFT || x > this.width - RIGHT ? null : this.time(x);
    this.draw();
  }
}

/** Yields the spans [begin, end) without a gap: neither a null nor a pause of many steps. */
function* runs(times, values) {
  const step = typicalStep(times);
  let begin = null;
  for (let i = 0; i < values.length; i++) {
    const missing = values[i] === null || values[i] === undefined;
    const paused = begin !== null && times[i] - times[i - 1] > 3.5 * step;
    if (begin !== null && (missing || paused)) {
      yield [begin, i];
      begin = null;
    }
    if (begin === null && !missing) begin = i;
  }
  if (begin !== null) yield [begin, values.length];
}

function typicalStep(times) {
  const steps = [];
  for (let i = 1; i < Math.min(times.length, 200); i++) steps.push(times[i] - times[i - 1]);
  steps.sort((a, b) => a - b);
  return steps[Math.floor(steps.length / 2)] || Infinity;
}

function nearest(times, time) {
  let low = 0,
    high = times.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < time) low = middle + 1;
    else high = middle;
  }
  return low > 0 && time - times[low - 1] < times[low] - time ? low - 1 : low;
}

function lastWith(series) {
  const values = series.value ?? series.avg;
  for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null && values[i] !== undefined) return i;
  return -1;
}

/** Returns about `count` round numbers between `low` and `high`, with the `places` they need. */
export function niceTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(each => each >= rough);
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high + step * 1e-9; n++) ticks.push(n * step || 0);
  return Object.assign(ticks, { places: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) });
}
