/** The settings column: shapes, sliders beside numbers, the seed, and the sheet that it becomes on a phone. */
import { changed, data, form, makesVideos, modelOf, onChange, secondPass, steps } from "./state.js";

const RATIOS = [["1:1", 1, 1], ["3:2", 3, 2], ["2:3", 2, 3], ["16:9", 16, 9], ["9:16", 9, 16]];
const MAX_SEED = 2 ** 32;
const { width, height, seed } = form.elements;
const lock = document.getElementById("seed-lock");
const seedWord = document.getElementById("seed-word");
const ratios = document.getElementById("ratios");
const sheet = document.getElementById("settings");
const video = document.getElementById("video-fields");
const hires = document.getElementById("hires");
const hiresWord = document.getElementById("hires-word");
const whereWord = document.getElementById("where-word");
const opener = document.getElementById("open-settings");

/** Sides of a shape with about as many pixels as the model's own size, in steps that the model can do. */
function sides(across, down) {
  const { defaults, limits } = modelOf();
  const multiple = limits.multiple_of ?? 8;
  const pixels = defaults.width * defaults.height;
  const round = (value) => Math.max(multiple, Math.round(value / multiple) * multiple);
  return [round(Math.sqrt((pixels * across) / down)), round(Math.sqrt((pixels * down) / across))];
}

/** A side in the second pass, cut to a multiple as the farm cuts it. */
function grown(side, scale) {
  const multiple = modelOf()?.limits.multiple_of ?? 8;
  return Math.floor((side * scale + 1e-6) / multiple) * multiple;
}

function shapes() {
  if (!modelOf()) return;
  ratios.replaceChildren(...RATIOS.map(([label, across, down]) => {
    const made = Object.assign(document.createElement("button"), { type: "button", textContent: label });
    made.addEventListener("click", () => {
      [width.value, height.value] = sides(across, down);
      changed("settings");
    });
    return made;
  }));
}

function show() {
  const model = modelOf();
  const { defaults = {} } = model ?? {};
  for (const name of ["width", "height", "steps", "guidance_scale", "frames", "fps"]) if (form.elements[name]) form.elements[name].placeholder = defaults[name] ?? "";
  form.elements.hr_steps.placeholder = steps();
  const standing = { ...defaults, hr_scale: 1, hr_steps: steps(), hr_strength: 0.5 };
  const now = [Number(width.value) || defaults.width, Number(height.value) || defaults.height];
  RATIOS.forEach(([, across, down], index) => ratios.children[index]?.setAttribute("aria-pressed", String(model && sides(across, down).join() === now.join())));
  for (const slider of document.querySelectorAll("[data-for]")) {
    const value = Number(form.elements[slider.dataset.for].value || standing[slider.dataset.for] || 0);
    if (document.activeElement !== slider) slider.value = value;
    slider.style.setProperty("--v", `${(100 * (Math.min(slider.max, value) - slider.min)) / (slider.max - slider.min)}%`);
  }
  if (video) video.hidden = !makesVideos();
  hires.hidden = model ? !model.second_pass : false;
  const scale = Number(form.elements.hr_scale.value);
  hiresWord.textContent = secondPass() && scale > 1 ? `${grown(now[0], scale)} × ${grown(now[1], scale)}` : "off";
  const { min_memory: memory, worker_tags: tags } = form.elements;
  whereWord.textContent = [memory.value.trim(), tags.value.trim()].filter(Boolean).join(" · ") || "any worker";
  const kept = seed.value.trim() !== "";
  lock.setAttribute("aria-pressed", String(kept));
  seedWord.textContent = kept ? "kept" : "new each time";
}

const draw = () => (seed.value = Math.floor(Math.random() * MAX_SEED));

function turn(open) {
  sheet.classList.toggle("open", open);
  opener.setAttribute("aria-expanded", String(open));
  if (open) sheet.querySelector("select, input")?.focus();
  else opener.focus();
}

export function start() {
  shapes();
  for (const slider of document.querySelectorAll("[data-for]")) {
    const name = slider.dataset.for;
    if (name === "steps" || name === "hr_steps") slider.max = Math.min(data.max_steps, 60);
    slider.addEventListener("input", () => {
      // enlarged by 1 is no second pass, and one that changes nothing is none either
      const none = (name === "hr_scale" && Number(slider.value) === 1) || (name === "hr_strength" && Number(slider.value) === 0);
      form.elements[name].value = none ? "" : slider.value;
      changed("settings");
    });
  }
  document.getElementById("seed-draw").addEventListener("click", () => {
    draw();
    changed("settings");
  });
  lock.addEventListener("click", () => {
    if (seed.value.trim()) seed.value = "";
    else draw();
    changed("settings");
  });
  form.elements.model?.addEventListener("change", shapes);
  form.addEventListener("input", (event) => event.target.name && event.target.name !== "prompt" && changed("settings"));
  opener.addEventListener("click", () => turn(true));
  document.getElementById("close-settings").addEventListener("click", () => turn(false));
  sheet.addEventListener("keydown", (event) => event.key === "Escape" && sheet.classList.contains("open") && turn(false));
  onChange(show);
}
