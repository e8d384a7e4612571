/** "What each step gets": the server's answer to a check, drawn as the server's own strips are. */
import { paint } from "../colour.js";

const card = document.getElementById("strip-card");
const holder = document.getElementById("strip");
const DENSE = 64;

const element = (name, className, text) => Object.assign(document.createElement(name), { className, textContent: text ?? "" });
const tidy = (value) => String(Number(value.toFixed(3))).replace("-", "−");

function region(component, block, alone) {
  if (component.startsWith("text_encoder")) return component.replace("text_encoder_", "te").replace("text_encoder", "te");
  if (component === "unet" || component === "transformer") return block === "all" && alone ? component : block;
  return block === "all" ? component : `${component} ${block}`;
}

/** Rows of one adapter: one when all its regions agree, else one for each behaviour. */
function rowsOf(adapter) {
  const found = new Map();
  const components = Object.entries(adapter.strengths);
  for (const [component, blocks] of components) {
    for (const [block, curve] of Object.entries(blocks)) {
      const key = curve.join();
      if (!found.has(key)) found.set(key, { curve, parts: [] });
      found.get(key).parts.push(region(component, block, components.length === 1));
    }
  }
  return [...found.values()].map(({ curve, parts }) => ({ name: adapter.name, curve, part: found.size === 1 ? "" : short([...new Set(parts)]) }));
}

const short = (parts) => (parts.length <= 3 ? parts.join(", ") : `${parts[0]} … ${parts[parts.length - 1]}`);

function marks(steps) {
  const made = element("span", "marks");
  made.ariaHidden = "true";
  made.style.setProperty("--steps", steps);
  const gap = [5, 10, 20, 50, 100].find((size) => steps / size <= 10) ?? 100;
  const inner = [];
  for (let step = gap; step <= steps; step += gap) if (steps - step >= gap * 0.6) inner.push(step);
  for (const step of new Set([1, ...inner, steps])) {
    const mark = element("span", "", step);
    mark.style.setProperty("--step", step);
    made.append(mark);
  }
  return made;
}

function cells(row) {
  const made = element("span", "cells");
  made.setAttribute("role", "listitem");
  paint(made, row.name);
  made.append(element("span", "hide-visually", `${row.name} ${row.part}: from ${tidy(row.curve[0])} to ${tidy(row.curve[row.curve.length - 1])}`));
  row.curve.forEach((value, index) => {
    const cell = element("i", value > 1.0001 ? "over" : value < 0 ? "minus" : "");
    cell.style.setProperty("--p", Math.min(1, Math.abs(value)));
    cell.title = `step ${index + 1}: ${tidy(value)}`;
    made.append(cell);
  });
  return made;
}

function nameOf(row) {
  const made = element("span", "name");
  paint(made, row.name);
  const text = element("span", "cut");
  text.title = `${row.name} ${row.part}`;
  text.append(element("b", "", row.name), row.part ? ` ${row.part}` : "");
  made.append(element("span", "swatch"), text);
  return made;
}

/** Grey rows until the first answer is there. */
export function awaitStrip(rows) {
  if (!rows || !card.hidden) return;
  card.hidden = false;
  holder.replaceChildren(...Array.from({ length: rows }, () => element("span", "skeleton line")));
}

/** The strip of the last right prompt stays while a wrong one is mended; mere waiting does not. */
export function stopAwaiting() {
  if (holder.querySelector(".skeleton")) card.hidden = true;
}

/** One pass; null when no adapter has a say in it. */
function drawn(explain, label) {
  const rows = (explain?.adapters ?? []).flatMap(rowsOf);
  if (!rows.length) return null;
  const strip = element("div", `strip${explain.steps > DENSE ? " dense" : ""}`);
  strip.setAttribute("role", "list");
  strip.setAttribute("aria-label", label);
  strip.append(element("span"), marks(explain.steps), ...rows.flatMap((row) => [nameOf(row), cells(row)]));
  return strip;
}

export function showStrip(explain) {
  const first = drawn(explain, "Strength of each adapter at every step");
  const second = drawn(explain?.second_pass, "Strength of each adapter at every step of the second pass");
  card.hidden = !first;
  if (first) holder.replaceChildren(first, ...(second ? [element("h3", "small muted after", "Second pass"), second] : []));
}
