/** Keyboard shortcuts of every page. */
const PAGES = { c: "/create", q: "/queue", g: "/gallery", n: "/networks", b: "/batches", w: "/workers" };
let leader = 0;

const typing = (target) => target.closest("input, textarea, select, [contenteditable], [role=slider], dialog");

export function start() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (Date.now() - leader < 1200 && PAGES[event.key]) location.href = PAGES[event.key];
    else if (event.key === "g") leader = Date.now();
    else if (event.key === "?") document.getElementById("shortcuts")?.showModal();
    else {
      const wanted = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
      if (!wanted) return;
      event.preventDefault();
      if (wanted.matches("input")) wanted.focus();
      else wanted.click();
    }
  });
}
