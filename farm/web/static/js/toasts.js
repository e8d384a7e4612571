/** Short messages in the corner; screen readers hear them. */
const SECONDS = 6;

export function toast(text, { bad = false, href = "", link = "" } = {}) {
  const made = document.getElementById("toast").content.firstElementChild.cloneNode(true);
  made.classList.toggle("bad", bad);
  const words = made.querySelector("p");
  words.textContent = text;
  if (href) {
    const anchor = document.createElement("a");
    anchor.href = href;
    anchor.textContent = link;
    words.append(" ", anchor);
  }
  made.querySelector("button").addEventListener("click", () => made.remove());
  document.querySelector(".toasts").append(made);
  if (!bad) setTimeout(() => made.remove(), SECONDS * 1000);
}
