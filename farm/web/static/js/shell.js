/** What every page does: theme, shortcuts, live connection, messages, and small conveniences of forms. */
import * as films from "./films.js";
import { ask } from "./http.js";
import * as keys from "./keys.js";
import * as live from "./live.js";
import * as times from "./times.js";
import { toast } from "./toasts.js";

const shell = document.querySelector(".shell");

document.querySelector("[data-theme-toggle]")?.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("farm-theme", root.dataset.theme);
});

document.addEventListener("click", async (event) => {
  const opener = event.target.closest("[data-open]");
  if (opener) document.getElementById(opener.dataset.open).showModal();
  const copier = event.target.closest("[data-copy]");
  if (copier) {
    await navigator.clipboard.writeText(document.querySelector(copier.dataset.copy).textContent);
    toast("Copied.");
  }
});

/* A menu closes when something is chosen in it, or something else is clicked. */
for (const kind of ["click", "submit"]) {
  document.addEventListener(kind, (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (kind === "submit" || !menu.contains(event.target)) menu.open = false;
    }
  });
}

document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-filters], form[data-auto]");
  if (form) form.requestSubmit();
});

/* A star answers at once; the server hears of it meanwhile. */
document.addEventListener("submit", async (event) => {
  const form = event.target.closest("form[data-star]");
  if (!form) return;
  event.preventDefault();
  const button = form.querySelector("button");
  const starred = form.elements.starred.value === "true";
  const show = (on) => {
    button.setAttribute("aria-pressed", on);
    form.elements.starred.value = String(!on);
  };
  show(starred);
  try {
    await ask("PATCH", form.action.replace(/^.*\/images\/(.*)\/star$/, "/api/v1/images/$1"), { json: { starred }, keepalive: true });
  } catch (error) {
    show(!starred);
    toast(error.message, { bad: true });
  }
});

document.body.addEventListener("farm:toast", (event) => toast(event.detail.text));
document.body.addEventListener("htmx:response:error", (event) => {
  const { ctx } = event.detail;
  if (ctx.request.method === "GET") return;
  const said = new DOMParser().parseFromString(ctx.text || "", "text/html").querySelector("[data-problem]");
  toast(said ? said.textContent : "The farm refused that.", { bad: true });
});
document.body.addEventListener("htmx:error", (event) => {
  if (event.detail.ctx?.request.method !== "GET") toast("The farm does not answer. Nothing was changed.", { bad: true });
});
/* htmx answers are fragments; say so, also for errors. */
document.body.addEventListener("htmx:config:request", (event) => {
  event.detail.ctx.request.headers["X-CSRFToken"] = document.querySelector('meta[name="csrf-token"]').content;
});

if (shell) {
  live.start();
  films.start();
  times.start();
  keys.start();
}
