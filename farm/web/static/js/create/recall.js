/** Settings that come from elsewhere: the draft of last time, a preset, a dropped picture. */
import { ask } from "../http.js";
import { toast } from "../toasts.js";
import { park, parked } from "./cards.js";
import { changed, data, form, onChange, spec } from "./state.js";

const DRAFT = "farm-draft";
const FIELDS = ["prompt", "negative_prompt", "model", "width", "height", "steps", "guidance_scale", "sampler", "seed", "count", "priority", "frames", "fps", "hr_scale", "hr_steps", "hr_strength", "worker_tags", "min_memory"];
const veil = document.getElementById("drop-veil");

/** Fills the form from a job's spec; with `all`, fields that it lacks become empty. */
export function fill(found, { all = false } = {}) {
  const missing = [];
  for (const name of FIELDS) {
    const field = form.elements[name];
    if (!field || (found[name] === undefined && !all)) continue;
    const given = found[name] ?? { count: 1, priority: "normal", model: data.models[0]?.name }[name] ?? "";
    const value = Array.isArray(given) ? given.join(" ") : given;
    const before = field.value;
    field.value = value;
    if (field.value !== String(value)) {
      field.value = before;
      missing.push(`${name.replace("_", " ")} ${value}`);
    }
  }
  if (form.elements.negative_prompt.value) form.querySelector(".negative").open = true;
  if (form.elements.hr_scale.value) document.getElementById("hires").open = true;
  if (form.elements.worker_tags.value || form.elements.min_memory.value) document.getElementById("where").open = true;
  changed("recall");
  return missing;
}

function remember() {
  localStorage.setItem(DRAFT, JSON.stringify({ spec: spec(), off: parked() }));
}

function recallDraft() {
  const asked = new URLSearchParams(location.search);
  if (data.recalled || FIELDS.some((name) => asked.has(name)) || form.elements.prompt.value) return;
  try {
    const draft = JSON.parse(localStorage.getItem(DRAFT));
    if (!draft) return;
    park(draft.off ?? []);
    fill(draft.spec);
  } catch {
    localStorage.removeItem(DRAFT);
  }
}

async function take(file) {
  if (file.type !== "image/png") return toast(`${file.name} is no PNG; only those carry settings.`, { bad: true });
  const body = new FormData();
  body.append("file", file);
  try {
    const found = await ask("POST", "/api/v1/images:inspect", { body });
    const missing = fill(found.spec, { all: true });
    toast(missing.length ? `Settings taken over, but not ${missing.join(", ")}.` : `Settings of ${file.name} taken over.`);
  } catch (error) {
    toast(`${file.name}: ${error.message}`, { bad: true });
  }
}

function drops() {
  const files = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => files(event) && (veil.hidden = false));
  addEventListener("dragover", (event) => files(event) && event.preventDefault());
  veil.addEventListener("dragleave", () => (veil.hidden = true));
  addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    veil.hidden = true;
    take(event.dataTransfer.files[0]);
  });
}

const select = document.getElementById("preset");
const forget = document.getElementById("forget-preset");
const chosen = () => data.presets.find((preset) => preset.id === select.value);

function showPresets(id = "") {
  select.replaceChildren(new Option("none", ""), ...data.presets.map((preset) => new Option(preset.name, preset.id)));
  select.value = id;
  forget.disabled = !id;
  document.getElementById("presets").hidden = data.presets.length === 0;
}

async function savePreset(name) {
  const saved = await ask("POST", "/api/v1/presets", { json: { name, spec: spec() } });
  data.presets = [...data.presets.filter((preset) => preset.id !== saved.id), saved];
  showPresets(saved.id);
  toast(`Kept as “${name}”.`);
}

async function forgetPreset() {
  const preset = chosen();
  await ask("DELETE", `/api/v1/presets/${preset.id}`);
  data.presets = data.presets.filter((one) => one !== preset);
  showPresets();
  toast(`“${preset.name}” is forgotten.`);
}

const told = (promise) => promise.catch((error) => toast(error.message, { bad: true }));

function presets() {
  const dialog = document.getElementById("preset-dialog");
  const name = document.getElementById("preset-name");
  select.addEventListener("change", () => {
    forget.disabled = !chosen();
    if (chosen()) fill(chosen().spec);
  });
  forget.addEventListener("click", () => told(forgetPreset()));
  document.getElementById("save-preset").addEventListener("click", () => dialog.showModal());
  dialog.addEventListener("close", () => dialog.returnValue === "save" && name.value.trim() && told(savePreset(name.value.trim())));
}

export function start() {
  drops();
  presets();
  document.getElementById("clear-form").addEventListener("click", () => fill({ prompt: "" }, { all: true }));
  recallDraft();
  onChange(remember);
}
