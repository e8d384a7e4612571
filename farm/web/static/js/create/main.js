/** The Create page. Every module draws itself when the text or a setting changes; none knows of the others' drawing. */
import { ask } from "../http.js";
import { tell } from "../live.js";
import { toast } from "../toasts.js";
import * as cards from "./cards.js";
import * as checking from "./check.js";
import * as editor from "./editor.js";
import * as networks from "./networks.js";
import * as recall from "./recall.js";
import * as settings from "./settings.js";
import { area, changed, form, spec } from "./state.js";

const button = document.getElementById("queue-button");

async function queue() {
  if (button.disabled) return;
  button.disabled = true;
  try {
    const job = await ask("POST", "/api/v1/jobs", { json: spec(), headers: { "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` } });
    toast(`Queued: ${job.count === 1 ? "one picture" : `${job.count} pictures`}.`, { href: `/jobs/${job.id}`, link: "See the job" });
    tell("farm:change");
  } catch (error) {
    if (error.problems?.length) checking.showProblems(error.problems);
    toast(error.message, { bad: true });
    area.focus();
  } finally {
    button.disabled = false;
  }
}

async function dryRun() {
  const answer = await checking.check();
  if (answer?.valid) toast(`It would be accepted: ${answer.estimate.sentence}`);
}

for (const part of [editor, cards, networks, settings, checking, recall]) part.start();

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.submitter?.value === "check") dryRun();
  else queue();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    queue();
  } else if (event.key === "Enter" && event.target.matches("input")) event.preventDefault();
});

changed("start");
