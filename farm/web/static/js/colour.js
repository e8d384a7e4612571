/** An adapter's hue, by its name alone; the server computes the same. */
const SEED = 59673;
const HUES = 24;

export function hue(name) {
  let value = SEED;
  for (const byte of new TextEncoder().encode(name.toLowerCase())) value = Math.imul(value ^ byte, 16777619) >>> 0;
  return ((value ^ (value >>> 15)) >>> 0) % HUES * 15 + 5;
}

export function paint(element, name) {
  element.style.setProperty("--h", hue(name));
}
