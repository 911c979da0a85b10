// One alert: what it says, its log, and what an operator does with it.

import { age, ask, badge, button, field, h, note, put, say, show, when, whoIs, words } from "../dom.js";
import { api, get } from "../session.js";

const SHELVE_MINUTES = [
  [30, "30 minutes"],
  [60, "1 hour"],
  [240, "4 hours"],
  [480, "8 hours (a shift)"],
  [1440, "1 day"],
];

/** Returns what an alert's state means in words. */
export function stateOf(alert) {
  const said = {
    active_unacknowledged: "active, not acknowledged",
    active_acknowledged: "active, acknowledged",
    cleared_unacknowledged: "cleared, not acknowledged",
    normal: "cleared",
    out_of_service: "out of service",
    shelved: `shelved until ${when(alert.shelved_until)}`,
    suppressed: `suppressed: ${alert.suppressed_by}`,
  }[alert.state];
  return said ?? alert.state;
}

/** Returns the buttons for what may be done with `alert`; `changed(alert)` is called with what it is then. */
export function alertButtons(alert, context, changed) {
  const act = actOn(alert, changed);
  const small = { class: "small" };
  const details = button("Details", () => showDetails(alert, context, changed), small);
  if (!context.may("alerts:write") || alert.state === "closed") return [details];
  return [seen(alert, act), hide(alert, act), details];
}

const seen = (alert, act) =>
  alert.acknowledged
    ? !alert.active && button("Close", () => act("close", {}, "Closed"), { class: "small" })
    : button("Acknowledge", () => act("acknowledge", {}, "Acknowledged"), { class: "small primary" });

function hide(alert, act) {
  if (alert.state === "shelved")
    return button("Unshelve", () => act("unshelve", {}, "It is annunciated again"), { class: "small" });
  if (alert.state === "out_of_service")
    return button("Return to service", () => act("return-to-service", {}, "In service again"), {
      class: "small",
    });
  return button("Shelve", () => shelve(act), { class: "small" });
}

/** Returns what does something to an alert and tells of it. */
const actOn = (alert, changed) => async (path, body, done) => {
  try {
    const now = await api("POST", `/alerts/${alert.alert_id}/${path}`, body ?? {});
    say(done);
    changed(now);
  } catch (error) {
    if (error.status !== 401) say([error.message, error.fix].filter(Boolean).join(": "), "bad");
  }
};

async function shelve(act) {
  const minutes = h(
    "select",
    { name: "minutes" },
    SHELVE_MINUTES.map(([value, label]) => h("option", { value }, label)),
  );
  const reason = h("input", { name: "reason", required: true, maxlength: 500, autofocus: true });
  const answer = await ask(
    "Shelve the alert",
    "Shelve",
    h("p", { class: "over" }, "It is hidden until then, and comes back by itself."),
    field("For", minutes),
    field("Why", reason),
  );
  if (answer) await act("shelve", { minutes: Number(answer.minutes), reason: answer.reason }, "Shelved");
}

async function comment(act) {
  const text = h("textarea", { name: "text", rows: 4, required: true, maxlength: 2000, autofocus: true });
  const answer = await ask("Comment", "Add", field("Comment", text));
  if (answer) await act("comments", { text: answer.text }, "Comment added");
}

async function assign(alert, act) {
  const who = h("input", { name: "assignee", maxlength: 200, value: alert.assignee ?? "", autofocus: true });
  const answer = await ask("Assign the alert", "Assign", field("To whom", who, "Empty: to nobody."));
  if (answer)
    await act(
      "assign",
      { assignee: answer.assignee.trim() || null },
      answer.assignee ? `Assigned to ${answer.assignee}` : "Assigned to nobody",
    );
}

async function outOfService(act) {
  const reason = h("input", { name: "reason", required: true, maxlength: 500, autofocus: true });
  const answer = await ask(
    "Take the alert out of service",
    "Take out of service",
    h("p", { class: "over" }, "It is hidden until somebody returns it to service."),
    field("Why", reason),
  );
  if (answer) await act("out-of-service", { reason: answer.reason }, "Out of service");
}

/** Shows an alert with what happened to it, and what else may be done. */
async function showDetails(alert, { may, me }, changed) {
  const list = h("ol", { class: "log" }, note("Loading…"));
  const fill = async () => {
    try {
      const { log } = await get(`/alerts/${alert.alert_id}`);
      put(
        list,
        log.map(entry =>
          h(
            "li",
            {},
            h("time", { datetime: entry.time, title: "UTC" }, when(entry.time, true)),
            h(
              "span",
              {},
              h("b", {}, words(entry.what)),
              entry.actor ? ` by ${whoIs(entry.actor, me)}` : "",
              said(entry.detail),
            ),
          ),
        ),
      );
    } catch (error) {
      put(list, note(error.message, "bad"));
    }
  };
  const act = actOn(alert, now => {
    alert = now;
    changed(now);
    fill();
  });
  const living = may("alerts:write") && alert.state !== "closed";
  const closing = show(
    alert.title,
    h(
      "p",
      { class: "over" },
      [
        alert.pump_id ?? "Platform",
        stateOf(alert),
        `${alert.occurrences} ${alert.occurrences === 1 ? "occurrence" : "occurrences"}`,
        alert.assignee && `assigned to ${alert.assignee}`,
      ]
        .filter(Boolean)
        .join(" · "),
    ),
    alert.action && h("p", {}, alert.action),
    living &&
      h(
        "div",
        { class: "row" },
        button("Comment", () => comment(act), { class: "small" }),
        button("Assign", () => assign(alert, act), { class: "small" }),
        alert.state !== "out_of_service" &&
          button("Take out of service", () => outOfService(act), { class: "small" }),
      ),
    h("h3", {}, "What happened"),
    list,
  );
  fill();
  await closing;
}

function said(detail) {
  const text = detail.comment ?? detail.text ?? detail.reason ?? detail.assignee;
  return text ? `: ${text}` : "";
}

/** Returns an alert as a block, for the page of its pump. */
export function alertBlock(alert, context, changed) {
  const over = ["normal", "closed"].includes(alert.state);
  return h(
    "li",
    { class: over ? "alert over" : "alert" },
    h(
      "div",
      { class: "row" },
      badge(over ? "none" : alert.priority, alert.title),
      h("span", { class: "grow" }),
      h("small", {}, age(alert.last_raised_at)),
    ),
    h(
      "div",
      { class: "row" },
      h(
        "small",
        {},
        stateOf(alert),
        alert.assignee ? ` · ${alert.assignee}` : "",
        alert.occurrences > 1 ? ` · ${alert.occurrences} times` : "",
      ),
      alertButtons(alert, context, changed),
    ),
  );
}
