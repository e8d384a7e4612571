/** The matrix of a new batch as fields: base prompt, axes, values. The JSON below says the same; either may be edited. */
const area = document.getElementById("matrix");
const builder = document.getElementById("matrix-builder");
const count = document.getElementById("matrix-count");
const FIELDS = ["seed", "steps", "guidance_scale", "sampler", "model", "width", "height", "prompt", "negative_prompt", "count", "priority", "frames", "fps", "guidance_scale_2", "true_cfg_scale", "hr_scale", "hr_steps", "hr_strength"];
const EMPTY = { base: { prompt: "" }, axes: {} };
const axes = builder.querySelector("[data-axes]");
const prompt = builder.querySelector("[data-prompt]");
const hint = count.innerHTML;

const read = () => (area.value.trim() ? JSON.parse(area.value) : structuredClone(EMPTY));

/** `0.2, 0.5` as numbers, `euler, ddim` as words. Prompts are divided by `|`, as they contain commas. */
const split = (text, name) => text.split(name.endsWith("prompt") ? "|" : ",").map((part) => part.trim()).filter(Boolean).map((part) => (Number.isFinite(Number(part)) ? Number(part) : part));
const join = (values, name) => values.join(name.endsWith("prompt") ? " | " : ", ");

/** Axes side by side in one line each, as people write them. */
function write(matrix) {
  const lines = Object.entries(matrix.axes).map(([name, values]) => `    ${JSON.stringify(name)}: ${JSON.stringify(values)}`);
  area.value = `{\n  "base": ${JSON.stringify(matrix.base)},\n  "axes": {\n${lines.join(",\n")}\n  }\n}`;
  tell();
}

function fromFields() {
  const base = { ...(safely()?.base ?? {}), prompt: prompt.value };
  const found = {};
  for (const row of axes.children) {
    const name = row.querySelector("[data-name]").value.trim();
    if (name) found[name] = split(row.querySelector("[data-values]").value, name);
  }
  write({ base, axes: found });
}

function safely() {
  try {
    return read();
  } catch {
    return null;
  }
}

function addRow(name = "", values = []) {
  const row = document.getElementById("axis-row").content.firstElementChild.cloneNode(true);
  row.querySelector("[data-name]").value = name;
  row.querySelector("[data-values]").value = join(values, name);
  row.addEventListener("input", fromFields);
  row.querySelector("button").addEventListener("click", () => {
    row.remove();
    fromFields();
  });
  axes.append(row);
  return row;
}

function toFields() {
  const matrix = safely();
  if (!matrix) return;
  prompt.value = matrix.base?.prompt ?? "";
  axes.replaceChildren();
  for (const [name, values] of Object.entries(matrix.axes ?? {})) if (Array.isArray(values)) addRow(name, values);
  if (!axes.childElementCount) addRow();
}

function tell() {
  area.removeAttribute("aria-invalid");
  if (!area.value.trim()) {
    count.innerHTML = hint;
    return;
  }
  try {
    const sizes = Object.entries(read().axes ?? {}).map(([name, values]) => [name, values.length]);
    const jobs = sizes.reduce((product, [, size]) => product * size, 1);
    count.textContent = `${sizes.map(([name, size]) => `${size} × ${name}`).join(", ")}${sizes.length ? ": " : ""}${jobs} ${jobs === 1 ? "job" : "jobs"}`;
  } catch (error) {
    area.setAttribute("aria-invalid", "true");
    count.textContent = `This is no JSON yet: ${error.message}`;
  }
}

export function start() {
  document.getElementById("axis-names").append(...FIELDS.map((name) => new Option(name, name)));
  builder.hidden = false;
  prompt.addEventListener("input", fromFields);
  builder.querySelector("[data-add]").addEventListener("click", () => addRow().querySelector("input").focus());
  area.addEventListener("input", () => {
    tell();
    toFields();
  });
  tell();
  toFields();
}
