/** One card for each tag of the prompt: strength, switch, trigger words, curve and blocks. Text and card are one value. */
import { paint } from "../colour.js";
import { peak, readCurve, shortCurve, tidy, writeCurve } from "../curve.js";
import { append, cut, findWord } from "../tags.js";
import { Blocks } from "./blocks.js";
import { CurveEditor } from "./curve-editor.js";
import { adapterOf, area, fallbackOf, modelOf, onChange, steps, tags, write, writeTag } from "./state.js";

const card = document.getElementById("adapters-card");
const holder = document.getElementById("adapters");
const fit = document.getElementById("adapters-fit");
const LABELS = { lora: "LoRA", dora: "DoRA", locon: "LoCon", loha: "LoHa", lokr: "LoKr", glora: "GLoRA", ia3: "IA³", oft: "OFT", boft: "BOFT", norm: "Norm", full: "Full", bias: "Bias" };

/** Cards by name and number of their tag; `off` holds tags that were switched off, with the card's key. */
const cards = new Map();
const off = new Map();

const badge = (text) => Object.assign(document.createElement("span"), { className: "badge", textContent: text });

class Card {
  constructor(key, name) {
    this.key = key;
    this.name = name;
    this.root = document.getElementById("adapter-card").content.firstElementChild.cloneNode(true);
    this.slider = this.root.querySelector(".strength .slider");
    this.number = this.root.querySelector(".strength .number");
    this.switch = this.root.querySelector(".switch");
    this.triggers = this.root.querySelector(".triggers");
    paint(this.root, name);
    this.#describe();
    this.curve = new CurveEditor(this.root.querySelector(".curve-editor"), name, (text) => this.#set((tag) => tag.setMain(text)));
    this.blocks = new Blocks(this.root.querySelector(".blocks-editor"), (act) => this.#set(act), name);
    this.slider.addEventListener("input", () => this.#set((tag) => tag.setMain(this.#scaled(tag, Number(this.slider.value)))));
    this.number.addEventListener("change", () => this.number.value.trim() && this.#set((tag) => tag.setMain(this.number.value.trim())));
    this.switch.addEventListener("change", () => (this.switch.checked ? this.#on() : this.#off()));
    this.root.querySelector("[data-remove]").addEventListener("click", () => this.#remove());
    for (const part of ["curve", "blocks"]) this.root.querySelector(`[data-part=${part}]`).addEventListener("click", (event) => this.#toggle(part, event.currentTarget));
  }

  #describe() {
    const adapter = adapterOf(this.name);
    const link = this.root.querySelector(".adapter-name");
    link.textContent = this.name;
    if (adapter) link.href = `/networks/${encodeURIComponent(adapter.name)}`;
    if (adapter?.preview) this.root.querySelector(".adapter-pic").append(Object.assign(new Image(), { src: adapter.preview, alt: "" }));
    if (adapter) this.root.querySelector(".badges").append(badge(LABELS[adapter.type] || adapter.type));
    if (adapter?.hot_on.length) this.root.querySelector(".badges").append(Object.assign(document.createElement("span"), { className: "small muted cut", textContent: `hot on ${adapter.hot_on.join(", ")}` }));
    this.switch.setAttribute("aria-label", `Use ${this.name}`);
    this.slider.setAttribute("aria-label", `Strength of ${this.name}`);
    this.number.setAttribute("aria-label", `Strength of ${this.name}, as a number or curve`);
    this.root.querySelector("[data-remove]").setAttribute("aria-label", `Remove ${this.name}`);
  }

  get tag() {
    return keyed(tags()).find(([key]) => key === this.key)?.[1];
  }

  /** A curve keeps its shape: all of it is scaled, so that its peak is `value`. */
  #scaled(tag, value) {
    const curve = this.#curveOf(tag);
    const most = curve ? peak(curve.points) : 0;
    if (!curve || curve.points.length === 1 || most === 0) return tidy(value);
    return writeCurve({ ...curve, points: curve.points.map((point) => ({ ...point, value: (point.value * value) / most })) }, steps());
  }

  #curveOf(tag) {
    return readCurve(tag.strengths(fallbackOf(this.name)).main, steps(), { linear: tag.kind === "loractl" });
  }

  #set(change) {
    const tag = this.tag;
    if (!tag) return;
    change(tag);
    if (tag.kind === "loractl") tag.kind = "lora";
    writeTag(tag, this.key);
  }

  #off() {
    const tag = this.tag;
    if (!tag) return;
    off.set(this.key, tag.source);
    write(cut(area.value, tag.start, tag.end), this.key);
  }

  #on() {
    const source = off.get(this.key);
    off.delete(this.key);
    write(append(area.value, source), this.key);
  }

  #remove() {
    off.delete(this.key);
    const tag = this.tag;
    let text = tag ? cut(area.value, tag.start, tag.end) : area.value;
    for (const word of adapterOf(this.name)?.trigger_words ?? []) {
      const place = findWord(text, word);
      if (place) text = cut(text, ...place);
    }
    write(text, this.key);
  }

  #toggle(part, button) {
    const shown = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(shown));
    this.root.querySelector(`.${part}-editor`).hidden = !shown;
    this.root.querySelector(".editors").hidden = !this.root.querySelector(".editors > :not([hidden])");
    this.update(this.tag);
  }

  update(tag) {
    this.root.classList.toggle("off", !tag);
    this.switch.checked = Boolean(tag);
    for (const control of this.root.querySelectorAll(".strength input, .pill")) control.disabled = !tag;
    this.#words();
    if (!tag) return;
    const written = tag.strengths(fallbackOf(this.name));
    const curve = this.#curveOf(tag);
    const value = curve ? peak(curve.points) : 0;
    if (document.activeElement !== this.slider) {
      this.slider.min = String(Math.min(-1, Math.floor(value)));
      this.slider.max = String(Math.max(2, Math.ceil(value)));
      this.slider.value = String(value);
    }
    const share = (value - Number(this.slider.min)) / (Number(this.slider.max) - Number(this.slider.min));
    this.slider.style.setProperty("--v", `${100 * share}%`);
    this.slider.disabled = !curve;
    if (document.activeElement !== this.number) this.number.value = curve ? shortCurve(curve) : written.main;
    this.number.title = written.main;
    this.curve.update(curve, written.main);
    this.blocks.update(tag, written);
  }

  #words() {
    const words = adapterOf(this.name)?.trigger_words.slice(0, 12) ?? [];
    this.triggers.hidden = words.length === 0;
    if (this.triggers.childElementCount !== words.length) {
      this.triggers.replaceChildren(...words.map((word) => {
        const made = Object.assign(document.createElement("button"), { type: "button", className: "pill", textContent: word });
        made.addEventListener("click", () => {
          const place = findWord(area.value, word);
          write(place ? cut(area.value, ...place) : append(area.value, word), "words");
        });
        return made;
      }));
    }
    [...this.triggers.children].forEach((button, index) => button.setAttribute("aria-pressed", String(Boolean(findWord(area.value, words[index])))));
  }
}

/** Tags with a key each: the name, and a number when an adapter is named more than once. */
function keyed(all) {
  const counts = new Map();
  return all.map((tag) => {
    const name = tag.name.toLowerCase();
    counts.set(name, (counts.get(name) ?? 0) + 1);
    return [`${name}#${counts.get(name)}`, tag];
  });
}

function draw() {
  const present = keyed(tags());
  const wanted = new Map(present);
  for (const key of off.keys()) {
    if (wanted.has(key)) off.delete(key);
    else wanted.set(key, null);
  }
  for (const [key, made] of cards) {
    if (wanted.has(key)) continue;
    made.root.remove();
    cards.delete(key);
  }
  for (const [key, tag] of wanted) {
    if (!cards.has(key)) cards.set(key, new Card(key, tag?.name ?? key.slice(0, key.lastIndexOf("#"))));
    const made = cards.get(key);
    if (made.root.parentElement !== holder) holder.append(made.root);
    made.update(tag);
  }
  card.hidden = wanted.size === 0;
  const fitting = present.filter(([, tag]) => fits(tag.name)).length;
  fit.textContent = fitting === present.length ? (present.length > 1 ? `all ${present.length} fit the model` : "fits the model") : `${fitting} of ${present.length} fit the model`;
}

export function fits(name) {
  const base = adapterOf(name)?.base_model;
  return base !== undefined && (base === "unknown" || base === modelOf()?.family);
}

export const parked = () => [...off];
export function park(entries) {
  for (const [key, source] of entries) off.set(key, source);
}

export function start() {
  onChange(draw);
}
