/** Asks the farm, a moment after the last change, what the form means: mistakes at their place, strengths, time and worker. */
import { ask } from "../http.js";
import { choosing, showMistakes } from "./editor.js";
import { area, form, onChange, spec, tags } from "./state.js";
import { awaitStrip, showStrip, stopAwaiting } from "./strip.js";

const PAUSE_MS = 280;
const head = document.getElementById("estimate-head");
const words = document.getElementById("estimate");
const warnings = document.getElementById("warnings");
const beside = document.getElementById("prompt-problems");
const FIELDS = ["negative_prompt", "model", "width", "height", "steps", "guidance_scale", "sampler", "seed", "count", "frames", "fps", "hr_scale", "hr_steps", "hr_strength", "worker_tags", "min_memory"];

let timer = 0;
let running = null;

const line = (className, ...children) => {
  const made = document.createElement("p");
  made.className = className;
  made.append(...children);
  return made;
};

function sentence(problem) {
  const text = document.createElement("span");
  text.append(`${problem.message}${problem.column ? ` (column ${problem.column})` : ""}. `);
  if (problem.hint) text.append(Object.assign(document.createElement("span"), { className: "hint", textContent: problem.hint }));
  return text;
}

const fieldOf = (problem) => problem.pointer.split("/")[1] ?? "";

/** The stretch of the prompt that a mistake is about. Columns count characters from 1; a script counts UTF-16 units. */
function place(problem) {
  const characters = [...area.value];
  const from = characters.slice(0, Math.max(0, problem.column - 1)).join("").length;
  const length = problem.item && area.value.startsWith(problem.item, from) ? problem.item.length : (problem.tag || problem.item || " ").length;
  return { from, to: Math.min(area.value.length, from + Math.max(1, length)) };
}

function atPrompt(problem) {
  const made = line("problem", sentence(problem));
  if (problem.column) {
    const { from, to } = place(problem);
    const show = Object.assign(document.createElement("button"), { type: "button", className: "btn quiet small", textContent: "show" });
    show.addEventListener("click", () => {
      area.focus();
      area.setSelectionRange(from, to);
    });
    made.append(show);
  }
  return made;
}

export function showProblems(problems) {
  for (const name of FIELDS) {
    const field = form.elements[name];
    if (!(field instanceof Element)) continue;
    field.removeAttribute("aria-invalid");
    field.closest("div:not(.row), fieldset")?.querySelectorAll(".problem").forEach((old) => old.remove());
  }
  const elsewhere = problems.filter((problem) => FIELDS.includes(fieldOf(problem)) && form.elements[fieldOf(problem)] instanceof Element);
  for (const problem of elsewhere) {
    const field = form.elements[fieldOf(problem)];
    field.setAttribute("aria-invalid", "true");
    field.closest("div:not(.row), fieldset")?.append(line("problem", sentence(problem)));
  }
  const here = problems.filter((problem) => !elsewhere.includes(problem));
  beside.replaceChildren(...here.map(atPrompt));
  showMistakes(here.filter((problem) => problem.column).map(place).sort((a, b) => a.from - b.from));
}

function say(first, second) {
  head.textContent = first;
  words.textContent = second;
  document.querySelector(".foot").dataset.state = "";
}

function show(answer) {
  showProblems(answer.errors);
  form.dataset.valid = String(answer.valid);
  if (!answer.valid) {
    stopAwaiting();
    const count = answer.errors.length;
    say(count === 1 ? "One thing to mend" : `${count} things to mend`, answer.errors[0].message);
    return;
  }
  showStrip(answer.explain);
  warnings.replaceChildren(...answer.warnings.map((text) => line("note", Object.assign(document.createElement("span"), { textContent: text }))));
  const [first, ...rest] = (answer.estimate?.sentence ?? "").split(" · ");
  const count = answer.spec?.count ?? 1;
  say(`${first} for ${count === 1 ? "one picture" : `${count} pictures`}`, rest.join(" · "));
}

/** Checks now; resolves to the answer, or to null when a later check overtook this one. */
export async function check() {
  clearTimeout(timer);
  running?.abort();
  running = new AbortController();
  if (!area.value.trim()) {
    showProblems([]);
    showStrip(null);
    say("", "Say what to draw; the time it takes stands here.");
    return null;
  }
  document.querySelector(".foot").dataset.state = "asking";
  awaitStrip(tags().length);
  try {
    const answer = await ask("POST", "/api/v1/jobs:validate", { json: spec(), signal: running.signal });
    show(answer);
    return answer;
  } catch (error) {
    if (error.name === "AbortError") return null;
    stopAwaiting();
    say("", "The farm does not answer at the moment; what you type is kept.");
    return null;
  }
}

/** A name that is being chosen from the list is not a mistake yet. */
function soon() {
  clearTimeout(timer);
  timer = setTimeout(() => (choosing() ? soon() : check()), PAUSE_MS);
}

export function start() {
  onChange(soon);
}
