/** A new batch: files dropped onto the rows, examples, and the matrix. */
import * as matrix from "./matrix.js";

const rows = document.getElementById("rows");
const note = document.getElementById("rows-note");
const file = document.querySelector("#batch-form input[type=file]");
/* larger files are sent as they are instead of being shown */
const SHOWN_BYTES = 2e6;

async function take(chosen) {
  if (chosen.size > SHOWN_BYTES) {
    note.textContent = `${chosen.name}, ${(chosen.size / 1e6).toFixed(1)} MB, is sent as it is`;
    return;
  }
  rows.value = await chosen.text();
  file.value = "";
  tell();
}

function tell() {
  const lines = rows.value.split("\n").filter((line) => line.trim());
  const jobs = lines.length - (lines.length && !lines[0].startsWith("{") ? 1 : 0);
  note.textContent = jobs > 0 ? `${jobs} ${jobs === 1 ? "row" : "rows"}` : "or drop one onto the field";
}

file.addEventListener("change", () => file.files[0] && take(file.files[0]));
rows.addEventListener("input", tell);
rows.addEventListener("dragover", (event) => event.preventDefault());
rows.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  if (event.dataTransfer.files[0].size > SHOWN_BYTES) file.files = event.dataTransfer.files;
  take(event.dataTransfer.files[0]);
});
for (const button of document.querySelectorAll("[data-fill]")) {
  button.addEventListener("click", () => {
    const field = document.querySelector(button.dataset.fill);
    field.value = button.dataset.text;
    field.dispatchEvent(new Event("input"));
  });
}
tell();
matrix.start();
