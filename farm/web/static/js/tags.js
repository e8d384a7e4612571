/**
 * Adapter tags of a prompt: found, read, changed, written back. What is not understood is kept as it was typed; whether
 * a tag is right, the server says.
 */
const TAG = /<\s*(lora|lyco|loractl)\s*:([^<>]*)>/gi;
const KEYED = /^\s*([a-z_][a-z0-9_]*)\s*=(.*)$/is;
const EXPERTS = new Set(["high", "low"]);

export const BLOCKS = ["in", "mid", "out"];

export class Tag {
  constructor(start, source, kind, name, items) {
    Object.assign(this, { start, source, kind, name, items });
  }

  get end() {
    return this.start + this.source.length;
  }

  /** Value of the item `key`, or undefined. */
  get(key) {
    return this.items.find((item) => item.key === key)?.value;
  }

  /** The strengths among the items without a key: at most two. */
  get positional() {
    return this.items.filter((item) => !item.key && !EXPERTS.has(item.value.trim().toLowerCase())).slice(0, 2);
  }

  set(key, value) {
    const item = this.items.find((found) => found.key === key);
    if (value === null) this.items = this.items.filter((found) => found.key !== key);
    else if (item) item.value = value;
    else this.items.push({ key, value });
  }

  setPositional(index, value) {
    const found = this.positional;
    if (found[index]) found[index].value = value;
    else this.items.splice(index, 0, { key: "", value });
  }

  /** What each part of the model gets, as written: `{te, main, in, mid, out}`. The denoiser follows the text encoder. */
  strengths(fallback) {
    const [first, second] = this.positional;
    const te = this.get("te") ?? first?.value ?? fallback;
    const main = this.get("unet") ?? second?.value ?? te;
    const blocks = Object.fromEntries(BLOCKS.map((block) => [block, this.get(block) ?? main]));
    return { te, main, ...blocks };
  }

  /** Sets the denoiser. A tag with a single number for everything keeps that form. */
  setMain(value) {
    if (this.get("unet") !== undefined) this.set("unet", value);
    else if (this.positional[1]) this.setPositional(1, value);
    else if (this.get("te") !== undefined) this.#nameBoth(this.get("te"), value);
    else this.setPositional(0, value);
  }

  /** Sets the text encoders; the tag then names both, as a lone `te` would surprise. */
  setTe(value, fallback) {
    if (this.get("te") === undefined && this.positional[1]) this.setPositional(0, value);
    else this.#nameBoth(value, this.strengths(fallback).main);
  }

  #nameBoth(te, main) {
    const loose = this.positional;
    this.items = this.items.filter((item) => !loose.includes(item));
    this.set("te", te);
    this.set("unet", main);
  }

  toString() {
    const items = this.items.map((item) => (item.key ? `${item.key}=${item.value}` : item.value));
    return `<${[this.kind, this.name, ...items].join(":")}>`;
  }
}

export function parseTags(text) {
  return [...text.matchAll(TAG)].map((match) => {
    const [name, ...items] = match[2].split(":");
    return new Tag(
      match.index,
      match[0],
      match[1].toLowerCase(),
      name.trim().replace(/^"|"$/g, "").trim(),
      items.map((item) => {
        const keyed = KEYED.exec(item);
        return keyed ? { key: keyed[1].toLowerCase(), value: keyed[2].trim() } : { key: "", value: item.trim() };
      }),
    );
  });
}

/** `text` without the stretch from `start` to `end` and without the blanks and commas that it leaves. */
export function cut(text, start, end) {
  const before = text.slice(0, start).replace(/[\s,]+$/, "");
  const after = text.slice(end).replace(/^[\s,]+/, "");
  return before && after ? `${before}, ${after}` : before + after;
}

/** `text` with `piece` at its end, set off by a comma. */
export function append(text, piece) {
  const before = text.replace(/[\s,]+$/, "");
  return before ? `${before}, ${piece}` : piece;
}

const escape = (word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** Where `word` stands in the prompt as words of its own, outside tags; null when it does not. */
export function findWord(text, word) {
  const tags = parseTags(text);
  for (const match of text.matchAll(new RegExp(`(?<![\\p{L}\\p{N}])${escape(word)}(?![\\p{L}\\p{N}])`, "giu"))) {
    if (!tags.some((tag) => match.index >= tag.start && match.index < tag.end)) return [match.index, match.index + word.length];
  }
  return null;
}
