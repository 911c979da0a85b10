// The live stream: one WebSocket for the page, opened again whenever it is lost.

import { accessToken, changes } from "./session.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15000;
const NOT_PERMITTED = 4403,
  TOO_MANY = 4429;

let socket = null;
let wanted = { pumps: [], fields: [] };
let subscribed = { pumps: [], fields: [] };
let heartbeatS = 10;
let heardAt = 0;
let pauseMs = FIRST_PAUSE_MS;
let welcomed = false;

/** Says `message` (detail: the message) and `state` (detail: off, connecting, waiting or live). */
export const stream = new EventTarget();
/** What the stream is at the moment. */
export let state = "off";

/** Has the stream tell of these pumps and fields and of no others. */
export function follow({ pumps = [], fields = [] }) {
  wanted = { pumps, fields };
  if (welcomed) ask();
}

/** Opens the stream and keeps it open while somebody is logged in. */
export function open() {
  if (socket || !accessToken()) return;
  tell("connecting");
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const opened = new WebSocket(`${scheme}://${location.host}/api/v1/live`);
  socket = opened;
  opened.onopen = () => opened.send(JSON.stringify({ token: accessToken() }));
  opened.onmessage = event => hear(JSON.parse(event.data));
  opened.onclose = ({ code }) => {
    if (socket !== opened) return;
    socket = null;
    welcomed = false;
    subscribed = { pumps: [], fields: [] };
    if (!accessToken() || code === NOT_PERMITTED) return tell("off");
    if (code === TOO_MANY) pauseMs = LONGEST_PAUSE_MS;
    tell("connecting");
    setTimeout(open, pauseMs * (0.5 + Math.random()));
    pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
  };
}

/** Closes the stream. */
export function close() {
  const closing = socket;
  socket = null;
  welcomed = false;
  subscribed = { pumps: [], fields: [] };
  closing?.close();
  tell("off");
}

function hear(message) {
  heardAt = Date.now();
  if (message.kind === "welcome") {
    welcomed = true;
    pauseMs = FIRST_PAUSE_MS;
    heartbeatS = message.heartbeat_s;
    ask();
  } else if (message.kind === "stream") {
    tell(message.live ? "live" : "waiting");
  } else if (["reading", "status", "finding", "alert"].includes(message.kind)) {
    stream.dispatchEvent(new CustomEvent("message", { detail: message }));
  }
}

function ask() {
  const less = {
    pumps: without(subscribed.pumps, wanted.pumps),
    fields: without(subscribed.fields, wanted.fields),
  };
  const more = {
    pumps: without(wanted.pumps, subscribed.pumps),
    fields: without(wanted.fields, subscribed.fields),
  };
  subscribed = wanted;
  const some = wish => wish.pumps.length + wish.fields.length > 0;
  if (some(less) || some(more)) {
    socket.send(
      JSON.stringify({ ...(some(more) && { subscribe: more }), ...(some(less) && { unsubscribe: less }) }),
    );
  }
}

const without = (names, others) => names.filter(name => !others.includes(name));

function tell(now) {
  if (now === state) return;
  state = now;
  stream.dispatchEvent(new CustomEvent("state", { detail: now }));
}

// A connection that died without a word says nothing, not even that it is there.
setInterval(() => {
  if (socket && welcomed && Date.now() - heardAt > 3000 * heartbeatS) socket.close();
}, 1000);

changes.addEventListener("renewed", () => welcomed && socket.send(JSON.stringify({ token: accessToken() })));
changes.addEventListener("out", close);
