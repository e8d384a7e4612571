/** A new batch: files dropped onto the rows, the matrix counted as it is typed. */
const rows = document.getElementById("rows");
const matrix = document.getElementById("matrix");
const count = document.getElementById("matrix-count");
const note = document.getElementById("rows-note");
const file = document.querySelector("#batch-form input[type=file]");
const first = count.innerHTML;
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

function combine() {
  matrix.removeAttribute("aria-invalid");
  if (!matrix.value.trim()) {
    count.innerHTML = first;
    return;
  }
  try {
    const sizes = Object.entries(JSON.parse(matrix.value).axes ?? {}).map(([name, values]) => [name, values.length]);
    const jobs = sizes.reduce((product, [, size]) => product * size, 1);
    count.textContent = `${sizes.map(([name, size]) => `${size} × ${name}`).join(", ")}: ${jobs} ${jobs === 1 ? "job" : "jobs"}`;
  } catch (error) {
    matrix.setAttribute("aria-invalid", "true");
    count.textContent = `This is no JSON yet: ${error.message}`;
  }
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
matrix.addEventListener("input", combine);
for (const button of document.querySelectorAll("[data-fill]")) {
  button.addEventListener("click", () => {
    const field = document.querySelector(button.dataset.fill);
    field.value = button.dataset.text;
    field.dispatchEvent(new Event("input"));
  });
}
tell();
combine();
