/** The prompt editor: tags in their adapters' colours under the text, mistakes underlined, names completed. */
import { paint } from "../colour.js";
import { parseTags } from "../tags.js";
import { area, changed, data, onChange, write } from "./state.js";

const marks = document.getElementById("prompt-marks");
const list = document.getElementById("suggestions");
const OPEN = /<(?:(?:lora|lyco|loractl):([^:<>]*)|[a-z]{0,7})$/i;
const MOST = 8;

let mistakes = [];
let choices = [];
let chosen = 0;

export function showMistakes(found) {
  mistakes = found;
  draw();
}

/** Cuts the text at tags and mistakes, and lays the pieces under the textarea. */
function draw() {
  const text = area.value;
  const pieces = [];
  let at = 0;
  for (const tag of parseTags(text)) {
    pieces.push(...plain(text, at, tag.start), mark(text, tag));
    at = tag.end;
  }
  pieces.push(...plain(text, at, text.length), "\n");
  marks.replaceChildren(...pieces);
  area.style.height = "auto";
  area.style.height = `${Math.max(96, area.scrollHeight)}px`;
}

function plain(text, start, end) {
  return split(text, start, end).map(([from, to, wrong]) => (wrong ? underlined(text.slice(from, to)) : text.slice(from, to)));
}

function mark(text, tag) {
  const made = document.createElement("mark");
  paint(made, tag.name);
  made.append(...plain(text, tag.start, tag.end));
  return made;
}

function underlined(text) {
  const made = document.createElement("u");
  made.textContent = text;
  return made;
}

function split(text, start, end) {
  const cuts = [];
  let at = start;
  for (const { from, to } of mistakes.filter((one) => one.from < end && one.to > start)) {
    if (from < at) continue;
    cuts.push([at, from, false], [from, Math.min(to, end), true]);
    at = Math.min(to, end);
  }
  return [...cuts, [at, end, false]].filter(([from, to]) => to > from);
}

function suggest() {
  const before = area.value.slice(0, area.selectionStart);
  const match = area.selectionStart === area.selectionEnd ? OPEN.exec(before) : null;
  const typed = (match?.[1] ?? "").trim().toLowerCase();
  choices = match
    ? data.adapters.filter((one) => one.name.toLowerCase().includes(typed)).sort((a, b) => b.name.toLowerCase().startsWith(typed) - a.name.toLowerCase().startsWith(typed)).slice(0, MOST)
    : [];
  chosen = 0;
  list.hidden = choices.length === 0;
  list.replaceChildren(...choices.map(option));
  if (!list.hidden) place(match.index);
  pick(0);
}

function option(adapter, index) {
  const made = document.createElement("li");
  made.role = "option";
  made.id = `suggestion-${index}`;
  paint(made, adapter.name);
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  const name = document.createElement("b");
  name.textContent = adapter.name;
  const words = document.createElement("span");
  words.className = "muted small cut";
  words.textContent = adapter.trigger_words.slice(0, 2).join(", ");
  made.append(swatch, name, words);
  made.addEventListener("mousedown", (event) => {
    event.preventDefault();
    complete(adapter);
  });
  return made;
}

/** Puts the list below the place where the tag begins. */
function place(index) {
  const range = document.createRange();
  let rest = index;
  const walker = document.createTreeWalker(marks, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (rest <= node.length) {
      range.setStart(node, rest);
      range.setEnd(node, Math.min(node.length, rest + 1));
      break;
    }
    rest -= node.length;
  }
  const spot = range.getBoundingClientRect();
  const frame = marks.getBoundingClientRect();
  list.style.left = `${Math.max(0, Math.min(spot.left - frame.left, frame.width - 280))}px`;
  list.style.top = `${spot.bottom - frame.top + 4}px`;
}

function pick(index) {
  chosen = choices.length ? (index + choices.length) % choices.length : 0;
  list.querySelectorAll("li").forEach((item, at) => item.setAttribute("aria-selected", String(at === chosen)));
  if (choices.length) area.setAttribute("aria-activedescendant", `suggestion-${chosen}`);
  else area.removeAttribute("aria-activedescendant");
}

function complete(adapter) {
  const before = area.value.slice(0, area.selectionStart).replace(OPEN, "");
  const after = area.value.slice(area.selectionStart).replace(/^[^<>\s,]*>/, "");
  const tag = `<lora:${adapter.name}:${adapter.default_strength}>`;
  write(before + tag + after, "editor");
  area.setSelectionRange(before.length + tag.length, before.length + tag.length);
  area.focus();
  close();
}

/** Whether a name is being chosen from the list. */
export const choosing = () => !list.hidden;

function close() {
  choices = [];
  list.hidden = true;
}

export function start() {
  area.setAttribute("aria-autocomplete", "list");
  area.setAttribute("aria-controls", list.id);
  area.setAttribute("aria-haspopup", "listbox");
  area.addEventListener("input", () => {
    changed("editor");
    suggest();
  });
  area.addEventListener("scroll", () => (marks.scrollTop = area.scrollTop));
  area.addEventListener("blur", close);
  area.addEventListener("keydown", (event) => {
    if (list.hidden) return;
    if (event.key === "ArrowDown") pick(chosen + 1);
    else if (event.key === "ArrowUp") pick(chosen - 1);
    else if (event.key === "Enter" || event.key === "Tab") complete(choices[chosen]);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  });
  addEventListener("resize", draw);
  onChange(draw);
}
