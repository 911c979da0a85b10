// Logging in, and what a user has to do first: another password, a second factor.

import { button, field, h, put } from "../dom.js";
import { api, duties, logIn, logOut, refresh } from "../session.js";

/** Shows what stands between the user and the console; calls `done` when nothing does any longer. */
export function showLogin(root, done, reason = "") {
  const next = () => {
    if (duties().includes("password")) return changePassword(root, next);
    if (duties().includes("totp")) return enrol(root, next);
    return done();
  };
  const username = h("input", {
    name: "username",
    autocomplete: "username",
    required: true,
    autofocus: true,
  });
  const password = h("input", {
    name: "password",
    type: "password",
    autocomplete: "current-password",
    required: true,
  });
  const code = codeInput();
  const second = field("Code of your authenticator", code);
  second.hidden = true;
  form(
    root,
    "ESP console",
    "Log in",
    reason,
    async () => {
      try {
        await logIn(username.value.trim(), password.value, code.value.trim());
      } catch (error) {
        if (error.code !== "totp-required") throw error;
        second.hidden = false;
        code.required = true;
        code.focus();
        return;
      }
      next();
    },
    field("User name", username),
    field("Password", password),
    second,
  );
  showNotice(root);
  username.focus();
}

/** Shows what the operator of the platform wants everybody to have read before logging in. */
async function showNotice(root) {
  const shown = root.querySelector("form");
  const answer = await fetch("/console/notice.json").catch(() => null);
  const { text } = answer?.ok ? await answer.json() : { text: "" };
  if (text) shown.append(h("p", { class: "notice" }, text));
}

function changePassword(root, next) {
  const current = h("input", { type: "password", autocomplete: "current-password", required: true });
  const fresh = h("input", { type: "password", autocomplete: "new-password", required: true, minlength: 12 });
  const again = h("input", { type: "password", autocomplete: "new-password", required: true });
  form(
    root,
    "Choose a password",
    "Change password",
    "This is your first login: the password you were given has to be changed.",
    async () => {
      if (fresh.value !== again.value) throw new Error("The two new passwords differ.");
      await api("POST", "/auth/password", { current: current.value, new: fresh.value });
      await refresh();
      next();
    },
    field("Password now", current),
    field("New password", fresh, "At least 12 characters; a few random words do well."),
    field("New password again", again),
  );
  current.focus();
}

function enrol(root, next) {
  const password = h("input", { type: "password", autocomplete: "current-password", required: true });
  form(
    root,
    "Second factor",
    "Continue",
    "Your role needs a second factor: an authenticator app that shows codes.",
    async () => {
      const secret = await api("POST", "/auth/totp", { password: password.value });
      confirmCode(root, secret, next);
    },
    field("Password", password),
  );
  password.focus();
}

function confirmCode(root, { secret, otpauth_uri: uri }, next) {
  const code = codeInput();
  code.required = true;
  form(
    root,
    "Second factor",
    "Confirm",
    "Add this key to your authenticator app, then type the code it shows. The key is shown this once.",
    async () => {
      await api("POST", "/auth/totp/confirm", { code: code.value.trim() });
      await refresh();
      next();
    },
    h("code", {}, secret.match(/.{1,4}/g).join(" ")),
    h("a", { href: uri }, "Open it in the authenticator on this device"),
    field("Code", code),
  );
  code.focus();
}

const codeInput = () =>
  h("input", { inputmode: "numeric", autocomplete: "one-time-code", pattern: "[0-9 ]*", maxlength: 10 });

function form(root, title, confirm, text, act, ...parts) {
  const wrong = h("p", { class: "wrong", role: "alert" });
  const submit = h("button", { type: "submit", class: "primary" }, confirm);
  const leave = title === "ESP console" ? null : button("Log out", () => logOut(), { class: "plain" });
  const shown = h(
    "form",
    {
      async onsubmit(event) {
        event.preventDefault();
        submit.disabled = true;
        put(wrong);
        try {
          await act();
        } catch (error) {
          put(wrong, [error.message, error.fix].filter(Boolean).join(": "));
        } finally {
          submit.disabled = false;
        }
      },
    },
    h("img", { src: "/console/icon.svg", alt: "" }),
    h("h1", {}, title),
    text && h("p", {}, text),
    ...parts,
    wrong,
    submit,
    leave,
  );
  put(root, h("div", { class: "login" }, shown));
}
