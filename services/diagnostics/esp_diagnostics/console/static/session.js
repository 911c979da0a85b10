// Who is logged in. Tokens are in this module's memory and nowhere else: closing the page ends it here.

const API = "/api/v1";
const AHEAD_S = 60;

let tokens = null;
let expiresAt = 0;
let refreshing = null;
let timer = 0;

/** What changed of the session: `in`, `out`, `renewed`. */
export const changes = new EventTarget();

/** What the API refused, as its problem document says it. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `HTTP ${status}`);
    this.status = status;
    this.code = document.code;
    this.fix = document.fix;
    this.errorId = document.error_id;
  }
}

/** Returns the access token that is good now; null: nobody is logged in. */
export const accessToken = () => tokens?.access_token ?? null;

/** Returns what the user has to do first: `password`, `totp`. */
export const duties = () => tokens?.must ?? [];

async function send(method, path, body, token, signal) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    const text = body === undefined ? undefined : JSON.stringify(body);
    answer = await fetch(API + path, {
      method,
      headers,
      body: text,
      signal,
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: "The platform does not answer", code: "no-answer" });
  }
  if (answer.status === 204) return null;
  const document = await answer.json().catch(() => ({ title: answer.statusText }));
  if (!answer.ok) throw new Problem(answer.status, document);
  return document;
}

/** Asks the API as the user who is logged in. Raises Problem; logs out when the session is over. */
export async function api(method, path, body, { signal } = {}) {
  if (!tokens) throw new Problem(401, { title: "Logged out" });
  if (Date.now() > expiresAt - AHEAD_S * 1000) await refresh();
  try {
    return await send(method, path, body, accessToken(), signal);
  } catch (error) {
    if (error.status !== 401) throw error;
    await refresh();
    return send(method, path, body, accessToken(), signal);
  }
}

/** Returns `api` of a path with a query; parameters without a value are left out, lists are repeated. */
export function get(path, query = {}, options) {
  const parameters = new URLSearchParams();
  for (const [name, given] of Object.entries(query)) {
    for (const value of [given].flat()) {
      if (value !== undefined && value !== null && value !== "") parameters.append(name, value);
    }
  }
  const text = parameters.toString();
  return api("GET", text ? `${path}?${text}` : path, undefined, options);
}

/** Logs in. Raises Problem with code `totp-required` when a code is wanted as well. */
export async function logIn(username, password, totp) {
  keep(await send("POST", "/auth/login", { username, password, ...(totp ? { totp } : {}) }));
  changes.dispatchEvent(new Event("in"));
}

/** Gets new tokens, once however many ask for it at the same time: a refresh token is good once. */
export function refresh() {
  refreshing ??= renew().finally(() => (refreshing = null));
  return refreshing;
}

async function renew() {
  if (!tokens) throw new Problem(401, { title: "Logged out" });
  try {
    keep(await send("POST", "/auth/refresh", { refresh_token: tokens.refresh_token }));
    changes.dispatchEvent(new Event("renewed"));
  } catch (error) {
    if (error.status === 401 || error.status === 403) forget();
    throw error;
  }
}

/** Ends the session, here and in the platform. */
export async function logOut() {
  const token = accessToken();
  forget();
  if (token) await send("POST", "/auth/logout", {}, token).catch(() => null);
}

function keep(granted) {
  tokens = granted;
  expiresAt = Date.now() + granted.expires_in * 1000;
  clearTimeout(timer);
  // Also without a request: the live stream needs a token that is good.
  const inMs = Math.max(5, granted.expires_in - AHEAD_S) * 1000;
  timer = setTimeout(() => refresh().catch(() => null), Math.min(inMs, 2 ** 31 - 1));
}

function forget() {
  tokens = null;
  clearTimeout(timer);
  changes.dispatchEvent(new Event("out"));
}
