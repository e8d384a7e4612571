/** The panel of networks: a click puts an adapter's tag and trigger words into the prompt, a second one takes them out. */
import { append, cut, findWord } from "../tags.js";
import { fits } from "./cards.js";
import { adapterOf, area, fallbackOf, onChange, tags, write } from "./state.js";

const nets = document.getElementById("nets");
const search = document.getElementById("nets-search");
const fitting = document.getElementById("nets-fit");
const none = document.getElementById("nets-none");
const WORDS_INSERTED = 2;

const plain = (text) => text.toLowerCase().replace(/[\s._-]/g, "");

export function toggle(name) {
  const words = adapterOf(name)?.trigger_words ?? [];
  const present = tags().filter((tag) => tag.name.toLowerCase() === name.toLowerCase());
  let text = area.value;
  if (present.length) {
    for (const tag of present.reverse()) text = cut(text, tag.start, tag.end);
    for (const word of words) {
      const place = findWord(text, word);
      if (place) text = cut(text, ...place);
    }
  } else {
    text = append(text, `<lora:${name}:${fallbackOf(name)}>`);
    for (const word of words.slice(0, WORDS_INSERTED)) if (!findWord(text, word)) text = append(text, word);
  }
  write(text, "networks");
}

function matches(card, words) {
  const text = card.dataset.words.toLowerCase();
  return words.every((word) => {
    const [key, value] = word.split(":");
    if (value && key === "base") return plain(card.dataset.base).includes(plain(value)) || plain(card.textContent).includes(plain(value));
    if (value && key === "type") return card.dataset.type.startsWith(value);
    return word.startsWith("-") && word.length > 1 ? !text.includes(word.slice(1)) : text.includes(word);
  });
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const onlyFitting = fitting.getAttribute("aria-pressed") === "true";
  let shown = 0;
  for (const card of nets.children) {
    card.hidden = !matches(card, words) || (onlyFitting && !fits(card.value));
    shown += !card.hidden;
  }
  none.hidden = shown > 0;
}

function mark() {
  const used = new Set(tags().map((tag) => tag.name.toLowerCase()));
  for (const card of nets.children) {
    card.setAttribute("aria-pressed", String(used.has(card.value.toLowerCase())));
    card.classList.toggle("misfit", !fits(card.value));
  }
}

export function start() {
  if (!nets) return;
  nets.addEventListener("click", (event) => {
    const card = event.target.closest(".net");
    if (!card) return;
    event.preventDefault();
    toggle(card.value);
  });
  search.addEventListener("input", filter);
  search.addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault());
  fitting.addEventListener("click", () => {
    fitting.setAttribute("aria-pressed", String(fitting.getAttribute("aria-pressed") !== "true"));
    filter();
  });
  onChange(mark);
}
