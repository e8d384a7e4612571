/**
 * One event stream for this tab. Progress goes straight into the elements of a job; everything else becomes the events
 * `farm:change`, `farm:worker` and `farm:tick` on the body, on which parts of the page fetch themselves anew.
 */
const STAGES = { fetching: "fetching files", loading: "loading the model", patching: "patching weights", uploading: "saving the result" };
/* stages that go on step by step, and what a step is */
const COUNTED = { sampling: "step", extracting: "layer" };
const TICK_SECONDS = 30;
const RETRY_SECONDS = 2;
const LOST_AFTER_SECONDS = 4;

const states = new Map();
const paces = new Map();
let source = null;
let doubt = 0;

export const tell = (name, detail = {}) => document.body.dispatchEvent(new CustomEvent(name, { detail, bubbles: true }));

/** A stream that breaks off and comes back at once, as on a restart of the farm, is not worth a word. */
function link(state) {
  if (state === "lost") {
    doubt ||= setTimeout(() => show("lost"), LOST_AFTER_SECONDS * 1000);
    return;
  }
  clearTimeout(doubt);
  doubt = 0;
  const wasLost = document.documentElement.dataset.link === "lost";
  show(state);
  if (wasLost) tell("farm:change");
}

function show(state) {
  document.documentElement.dataset.link = state;
  for (const word of document.querySelectorAll("[data-link-word]")) word.textContent = state === "live" ? "live · " : "not connected · ";
}

function connect() {
  source = new EventSource("/api/v1/events");
  source.addEventListener("open", () => link("live"));
  source.addEventListener("online", () => link("live"));
  source.addEventListener("offline", () => link("lost"));
  source.addEventListener("error", () => {
    link("lost");
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_SECONDS * 1000);
  });
  source.addEventListener("job", (event) => job(JSON.parse(event.data)));
  for (const name of ["batch", "queue"]) source.addEventListener(name, () => tell("farm:change"));
  source.addEventListener("worker", () => tell("farm:worker"));
}

function job(data) {
  const before = states.get(data.id);
  states.set(data.id, data.state);
  if (before !== data.state) tell("farm:change", data);
  if (data.state === "running") progress(data);
}

function words(data) {
  const where = data.worker_name || data.worker ? ` on ${data.worker_name || data.worker}` : "";
  if (data.stage in COUNTED) return `${COUNTED[data.stage]} ${data.step} of ${data.steps}${where}`;
  return `${STAGES[data.stage] || "starting"}${where}`;
}

function left(data) {
  const pace = data.seconds_per_step || paces.get(data.id);
  if (!pace || !(data.stage in COUNTED)) return "";
  paces.set(data.id, pace);
  const seconds = pace * (data.steps - data.step);
  return seconds < 90 ? `${Math.max(1, Math.round(seconds))} s left` : `${Math.round(seconds / 60)} min left`;
}

function progress(data) {
  for (const part of document.querySelectorAll(`[data-job="${CSS.escape(data.id)}"]`)) {
    const steps = data.steps || Number(part.dataset.steps) || 1;
    for (const bar of part.querySelectorAll("[data-bar]")) {
      bar.style.width = `${(100 * (data.step || 0)) / steps}%`;
      bar.parentElement.setAttribute("aria-valuenow", data.step || 0);
    }
    for (const text of part.querySelectorAll("[data-words]")) text.textContent = words({ ...data, steps });
    for (const text of part.querySelectorAll("[data-left]")) text.textContent = left({ ...data, steps });
    if (data.preview) for (const holder of part.querySelectorAll("[data-preview]")) preview(holder, data);
    for (const strip of part.querySelectorAll(".strip[data-reached]")) reach(strip, Math.max(0, (data.step || 0) - Number(strip.dataset.before || 0)));
  }
}

/** The new picture takes the old one's place only when it is there: no flicker. */
function preview(holder, data) {
  const next = new Image();
  next.alt = "";
  next.addEventListener("load", () => holder.replaceChildren(next));
  next.src = `/api/v1/jobs/${data.id}/preview?n=${data.preview}`;
}

function reach(strip, step) {
  strip.dataset.reached = step;
  for (const cells of strip.querySelectorAll(".cells")) {
    cells.querySelectorAll("i").forEach((cell, index) => {
      cell.classList.toggle("ahead", index + 1 > step);
      cell.classList.toggle("now", index + 1 === step);
    });
  }
}

export function start() {
  connect();
  setInterval(() => document.visibilityState === "visible" && tell("farm:tick"), TICK_SECONDS * 1000);
  addEventListener("offline", () => link("lost"));
  addEventListener("online", () => {
    source.close();
    connect();
  });
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => event.persisted && connect());
}
