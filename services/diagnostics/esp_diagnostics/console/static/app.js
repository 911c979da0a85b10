// The shell: who is logged in, where one is (the address after #), and the bar on top.

import { button, h, put, say } from "./dom.js";
import * as live from "./live.js";
import { api, changes, get, logOut } from "./session.js";
import { showAlerts } from "./views/alerts.js";
import { showFleet } from "./views/fleet.js";
import { showLogin } from "./views/login.js";
import { showPump } from "./views/pump.js";

const COUNT_MS = 30000;
const root = h("div", { id: "root" });
let leave = null;
let context = null;

document.body.append(root);
setTheme(stored("theme") ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));
addEventListener("hashchange", () => context && route());
changes.addEventListener("out", () => {
  leaveView();
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  const reason = context && !context.leaving ? "Your session has ended: log in again." : "";
  context = null;
  showLogin(root, start, reason);
});
showLogin(root, start);

async function start() {
  const [me, channels] = await Promise.all([
    api("GET", "/auth/me"),
    fetch("/console/channels.json").then(answer => answer.json()),
  ]);
  context = { me, channels, may: permission => me.scopes.includes(permission), leaving: false };
  const main = h("main", { id: "main", tabindex: "-1" });
  context.main = main;
  put(
    root,
    h(
      "a",
      {
        class: "skip",
        href: "#main",
        onclick: event => {
          event.preventDefault();
          main.focus();
        },
      },
      "Skip to the content",
    ),
    bar(),
    main,
  );
  live.open();
  route();
}

function route() {
  leaveView();
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...rest] = path.split("/").map(decodeURIComponent);
  const parameters = Object.fromEntries(new URLSearchParams(query ?? ""));
  for (const link of document.querySelectorAll(".top nav a")) {
    const here = link.dataset.page === (page === "alerts" ? "alerts" : "fleet");
    here ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
  document.title = `${page === "pumps" && rest[0] ? rest[0] : page === "alerts" ? "Alerts" : "Fleet"} · ESP console`;
  if (page === "pumps" && rest[0]) leave = showPump(context, rest[0]);
  else if (page === "alerts") leave = showAlerts(context, parameters);
  else leave = showFleet(context, parameters);
}

function leaveView() {
  leave?.();
  leave = null;
}

// --- the bar on top ------------------------------------------------------------------------------------

function bar() {
  const count = h("span", { class: "count", title: "alerts nobody has acknowledged" }, "–");
  const pulse = h("span", { class: "pulse", role: "status" });
  const tell = () => {
    pulse.className = `pulse ${live.state}`;
    const said = { live: "Live", waiting: "Live data pauses", connecting: "Connecting", off: "Offline" }[
      live.state
    ];
    put(pulse, h("i", { "aria-hidden": "true" }), h("span", {}, said));
  };
  const clock = h("time", { class: "who" });
  const tick = () => put(clock, `${new Date().toISOString().slice(11, 19)} UTC`);
  const recount = () => countAlerts(count);
  const soon = () => {
    clearTimeout(context?.recounting);
    if (context) context.recounting = setTimeout(recount, 1000);
  };
  const timers = [setInterval(tick, 1000), setInterval(recount, COUNT_MS)];
  const onMessage = ({ detail }) => detail.kind === "alert" && soon();
  live.stream.addEventListener("state", tell);
  live.stream.addEventListener("message", onMessage);
  changes.addEventListener(
    "out",
    () => {
      timers.forEach(clearInterval);
      live.stream.removeEventListener("state", tell);
      live.stream.removeEventListener("message", onMessage);
    },
    { once: true },
  );
  tell();
  tick();
  recount();
  return h(
    "header",
    { class: "top" },
    h(
      "a",
      { class: "brand", href: "#/fleet" },
      h("img", { src: "/console/icon.svg", alt: "" }),
      "ESP console",
    ),
    h(
      "nav",
      { "aria-label": "Pages" },
      h("a", { href: "#/fleet", dataset: { page: "fleet" } }, "Fleet"),
      h("a", { href: "#/alerts", dataset: { page: "alerts" } }, "Alerts", count),
    ),
    h("span", { class: "grow" }),
    pulse,
    clock,
    button("Theme", () => setTheme(document.documentElement.classList.contains("light") ? "dark" : "light"), {
      class: "plain",
      title: "Dark or light",
    }),
    h("span", { class: "who" }, context.me.name ?? context.me.id),
    button(
      "Log out",
      () => {
        context.leaving = true;
        logOut();
      },
      { class: "plain" },
    ),
  );
}

async function countAlerts(element) {
  if (!context?.may("alerts:read")) return;
  try {
    const page = await get("/alerts", { active: true, acknowledged: false, limit: 100 });
    put(element, page.next_cursor ? "99+" : String(page.items.length));
    element.classList.toggle("some", page.items.length > 0);
  } catch (error) {
    if (error.status !== 401) put(element, "?");
  }
}

// --- theme ---------------------------------------------------------------------------------------------

function setTheme(theme) {
  document.documentElement.classList.toggle("light", theme === "light");
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // A browser that keeps nothing shows the theme of the system each time.
  }
  dispatchEvent(new Event("resize"));
}

function stored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

addEventListener("unhandledrejection", event => {
  if (event.reason?.name !== "AbortError" && event.reason?.status !== 401)
    say(event.reason?.message ?? "Something went wrong", "bad");
});
