/** Uploads of adapters: straight into the store, with progress; the farm inspects each before it keeps it. */
import { ask } from "./http.js";
import { toast } from "./toasts.js";

const form = document.getElementById("upload");
const list = document.getElementById("uploads");
const input = form.querySelector("input[type=file]");

/** The browser cannot reach the store: the farm itself then takes the bytes. */
class OutOfReach extends Error {}

function put(target, file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(target.method, target.url);
    for (const [name, value] of Object.entries(target.headers)) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => progress(event.loaded / event.total));
    request.addEventListener("load", () => (request.status < 300 ? resolve() : reject(new Error(`the store answered ${request.status}; try again`))));
    request.addEventListener("error", () => reject(new OutOfReach("the connection to the store broke; try again")));
    request.send(file);
  });
}

async function deliver(begun, file, say) {
  try {
    await put(begun.upload, file, (share) => say(`${Math.round(share * 100)} % of ${(file.size / 1e6).toFixed(1)} MB`, share * 0.95));
  } catch (error) {
    if (!(error instanceof OutOfReach)) throw error;
    say("goes through the farm, as the store is out of this browser's reach", 0.5);
    const body = new FormData();
    body.append("file", file);
    return ask("POST", "/api/v1/loras", { body });
  }
  say("is being inspected", 0.97);
  return ask("POST", `/api/v1/loras/${begun.id}:complete`);
}

async function send(file) {
  const row = document.getElementById("upload-row").content.firstElementChild.cloneNode(true);
  const words = row.querySelector("[data-words]");
  const bar = row.querySelector("i");
  row.querySelector("b").textContent = file.name;
  list.prepend(row);
  const say = (text, share) => {
    words.textContent = text;
    bar.style.width = `${share * 100}%`;
  };
  try {
    say("begins", 0);
    const begun = await ask("POST", "/api/v1/loras", { json: { file_name: file.name, size: file.size } });
    accepted(row, await deliver(begun, file, say));
    return true;
  } catch (error) {
    refused(row, error);
    return false;
  }
}

function accepted(row, adapter) {
  row.querySelector(".bar").className = "bar succeeded";
  row.querySelector("i").style.width = "100%";
  const link = Object.assign(document.createElement("a"), { href: `/networks/${encodeURIComponent(adapter.name)}`, textContent: adapter.name });
  row.querySelector("[data-words]").replaceChildren("accepted as ", link);
}

function refused(row, error) {
  row.querySelector(".bar").remove();
  row.querySelector("[data-words]").textContent = "not accepted";
  const line = Object.assign(document.createElement("p"), { className: "problem" });
  line.append(Object.assign(document.createElement("span"), { textContent: error.message }));
  row.append(line);
}

async function sendAll(files) {
  const done = [];
  for (const file of files) done.push(await send(file));
  if (done.every(Boolean) && done.length) {
    toast(done.length === 1 ? "The adapter can be used now." : `${done.length} adapters can be used now.`);
    setTimeout(() => location.reload(), 1200);
  }
}

input.addEventListener("change", () => {
  sendAll([...input.files]);
  input.value = "";
});
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("dragover", (event) => {
  event.preventDefault();
  form.classList.add("over");
});
addEventListener("dragleave", (event) => event.relatedTarget === null && form.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  form.classList.remove("over");
  sendAll([...event.dataTransfer.files]);
});
