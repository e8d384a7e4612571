/** Requests to the farm's own API, with its token, and its errors as sentences. `keepalive`: also when the page is left. */
const token = () => document.querySelector('meta[name="csrf-token"]').content;

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || `the farm answered ${status}`);
    this.status = status;
    this.problems = problem.errors || [];
  }
}

export async function ask(method, path, { json, body, headers = {}, signal, keepalive = false } = {}) {
  const all = { Accept: "application/json", "X-CSRFToken": token(), ...headers };
  if (json !== undefined) {
    all["Content-Type"] = "application/json";
    body = JSON.stringify(json);
  }
  const response = await fetch(path, { method, body, headers: all, signal, keepalive });
  if (response.status === 204) return null;
  const found = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, found);
  return found;
}
