/** The prompt's text is the only truth of the Create page; whoever changes it tells all others. */
import { parseTags } from "../tags.js";

export const data = JSON.parse(document.getElementById("create-data").textContent);
export const form = document.getElementById("create");
export const area = document.getElementById("prompt");

const known = new Map(data.adapters.map((adapter) => [adapter.name.toLowerCase(), adapter]));
const listeners = [];

export const adapterOf = (name) => known.get(name.toLowerCase());
export const fallbackOf = (name) => String(adapterOf(name)?.default_strength ?? 1);
export const modelOf = () => data.models.find((model) => model.name === form.elements.model?.value);
export const steps = () => Math.max(1, Math.round(Number(form.elements.steps.value)) || modelOf()?.defaults.steps || 20);
export const tags = () => parseTags(area.value);

/** Calls `listener(origin)` after every change of the text or of a setting. */
export function onChange(listener) {
  listeners.push(listener);
}

export function changed(origin = "") {
  for (const listener of listeners) listener(origin);
}

/** Puts `text` into the editor, keeping caret and scroll where they were. */
export function write(text, origin) {
  const { selectionStart, selectionEnd, scrollTop } = area;
  area.value = text;
  area.setSelectionRange(Math.min(selectionStart, text.length), Math.min(selectionEnd, text.length));
  area.scrollTop = scrollTop;
  changed(origin);
}

/** Writes a changed tag back to where it stands. */
export function writeTag(tag, origin) {
  const text = area.value;
  write(text.slice(0, tag.start) + tag + text.slice(tag.end), origin);
}

export const makesVideos = () => "frames" in (modelOf()?.defaults ?? {});

/** Whether the form asks for a second pass that the model can make. */
export const secondPass = () => Boolean(form.elements.hr_scale.value.trim() && modelOf()?.second_pass);

/** The job that the form asks for; what is empty is left out, and what the model cannot do. */
export function spec() {
  const asked = { prompt: area.value };
  for (const name of ["negative_prompt", "model", "sampler", "priority"]) {
    const value = form.elements[name]?.value ?? "";
    if (value.trim()) asked[name] = value;
  }
  const wanted = form.elements.worker_tags.value.trim().toLowerCase();
  if (wanted) asked.worker_tags = wanted.split(/[\s,]+/).filter(Boolean);
  if (form.elements.min_memory.value.trim()) asked.min_memory = form.elements.min_memory.value.trim();
  for (const name of ["width", "height", "steps", "guidance_scale", "seed", "count", "frames", "fps", "hr_scale", "hr_steps", "hr_strength"]) {
    const value = form.elements[name]?.value.trim();
    if (!value || (name.startsWith("hr_") && !secondPass()) || (["frames", "fps"].includes(name) && !makesVideos())) continue;
    asked[name] = Number.isFinite(Number(value)) ? Number(value) : value;
  }
  return asked;
}
