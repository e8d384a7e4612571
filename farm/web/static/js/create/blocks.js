/** Sliders for the text encoders and the three parts of the denoiser. What is not set follows the strength above. */
import { peak, readCurve, shortCurve, tidy } from "../curve.js";
import { BLOCKS } from "../tags.js";
import { fallbackOf, steps } from "./state.js";

const NAMES = { te: "Text encoder", in: "First part of the denoiser", mid: "Middle of the denoiser", out: "Last part of the denoiser" };
const PRESETS = { "all alike": null, "style only": { in: "0", mid: "0.3", out: "1" }, "shape only": { in: "1", mid: "1", out: "0.2" }, "no text encoder": { te: "0" } };

export class Blocks {
  /** `change(act)` runs `act(tag)` on the tag and writes it back. */
  constructor(root, change, name) {
    this.rows = new Map();
    const head = document.createElement("div");
    head.className = "label";
    head.append("Parts of the model", this.#presets(change, name));
    root.append(head);
    for (const part of ["te", ...BLOCKS]) root.append(this.#row(part, change, name));
  }

  #presets(change, name) {
    const select = document.createElement("select");
    select.className = "bare";
    select.setAttribute("aria-label", `Preset of parts for ${name}`);
    select.append(new Option("preset", ""), ...Object.keys(PRESETS).map((label) => new Option(label, label)));
    select.addEventListener("change", () => {
      const preset = PRESETS[select.value];
      change((tag) => {
        for (const block of BLOCKS) tag.set(block, preset?.[block] ?? null);
        const { te, main } = tag.strengths(fallbackOf(name));
        if (preset?.te !== undefined) tag.setTe(preset.te, fallbackOf(name));
        else if (!preset && te !== main) tag.setTe(main, fallbackOf(name));
      });
      select.value = "";
    });
    return select;
  }

  #row(part, change, name) {
    const row = document.createElement("div");
    row.className = "row block";
    const label = Object.assign(document.createElement("button"), { type: "button", className: "bare small", textContent: part });
    const slider = Object.assign(document.createElement("input"), { type: "range", className: "slider", min: -1, max: 2, step: 0.05 });
    slider.setAttribute("aria-label", `${NAMES[part]} of ${name}`);
    const number = Object.assign(document.createElement("span"), { className: "num" });
    const write = (value) => change((tag) => (part === "te" ? tag.setTe(value, fallbackOf(name)) : tag.set(part, value)));
    slider.addEventListener("input", () => write(tidy(Number(slider.value))));
    label.addEventListener("click", () => part !== "te" && change((tag) => tag.set(part, null)));
    label.title = part === "te" ? NAMES.te : `${NAMES[part]}; click to let it follow again`;
    row.append(label, slider, number);
    this.rows.set(part, { row, slider, number });
    return row;
  }

  update(tag, written) {
    for (const [part, { row, slider, number }] of this.rows) {
      const curve = readCurve(written[part], steps());
      const value = curve ? peak(curve.points) : 0;
      row.classList.toggle("follows", part === "te" ? written.te === written.main : tag.get(part) === undefined);
      if (document.activeElement !== slider) slider.value = String(value);
      slider.style.setProperty("--v", `${(100 * (value - Number(slider.min))) / (Number(slider.max) - Number(slider.min))}%`);
      number.textContent = curve ? shortCurve(curve) : written[part];
    }
  }
}
