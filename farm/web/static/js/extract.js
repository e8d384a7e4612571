/** The form of an extraction: networks that fit the model, found by words; a typed strength chooses its network. */
const model = document.getElementById("model");
const search = document.getElementById("pick-search");
const picks = [...document.querySelectorAll(".pick")];

function filter() {
  const base = model?.selectedOptions[0]?.dataset.base;
  const words = (search?.value || "").toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const pick of picks) {
    const chosen = pick.querySelector("[type=checkbox]").checked;
    const fits = !base || [base, "unknown"].includes(pick.dataset.base);
    pick.hidden = !chosen && !(fits && words.every((word) => pick.dataset.words.includes(word)));
    if (!pick.hidden) shown += 1;
  }
  const none = document.getElementById("picks-none");
  if (none) none.hidden = shown > 0;
}

document.getElementById("picks")?.addEventListener("input", (event) => {
  if (event.target.name.startsWith("strength:")) event.target.closest(".pick").querySelector("[type=checkbox]").checked = true;
});
model?.addEventListener("change", filter);
search?.addEventListener("input", filter);
filter();
