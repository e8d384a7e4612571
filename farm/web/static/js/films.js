/** Videos on cards play while the pointer or the focus is on them, unless a person wants less motion. */
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const cardOf = (node) => node?.closest?.("a, .shot");
const filmOf = (node) => cardOf(node)?.querySelector("video[data-film]");

function play(event) {
  const film = filmOf(event.target);
  // a card that goes away while it starts is no news
  if (film?.paused && !calm.matches) film.play().catch(() => {});
}

function rest(event) {
  const film = filmOf(event.target);
  if (!film || film.paused || cardOf(event.relatedTarget)?.contains(film)) return;
  film.pause();
  // back to its still
  film.load();
}

export function start() {
  for (const name of ["pointerover", "focusin"]) document.addEventListener(name, play);
  for (const name of ["pointerout", "focusout"]) document.addEventListener(name, rest);
}
