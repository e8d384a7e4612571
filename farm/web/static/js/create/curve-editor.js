/** The strength of one adapter over the steps, as points to drag: click to add, arrow keys to move, Delete to remove. */
import { tidy, valueAt, writeCurve } from "../curve.js";
import { steps } from "./state.js";

const NS = "http://www.w3.org/2000/svg";
const EDGE = { left: 30, right: 12, top: 10, bottom: 20 };
const HEIGHT = 132;
const SNAP = 0.05;

function shape(name, attributes, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export class CurveEditor {
  /** `write(text)` is told every change. */
  constructor(root, name, write) {
    this.root = root;
    this.name = name;
    this.write = write;
    this.selected = 0;
    this.low = 0;
    this.high = 1;
    this.dragging = false;
    this.root.innerHTML = `<div class="label"><span>Strength over the steps</span><span class="mono" data-text></span></div>
      <div class="plot"></div>
      <div class="row wrap point-tools"><div class="seg"><button type="button" data-ramp="0">switch</button><button type="button" data-ramp="1">ramp</button></div>
      <label class="row small muted">step <input class="field number" type="number" min="1" data-step></label>
      <label class="row small muted">strength <input class="field number" type="number" step="0.05" data-value></label>
      <button class="btn quiet small" type="button" data-delete>Remove point</button><span class="grow"></span><span class="small faint">click the plot to add a point</span></div>`;
    this.plot = this.root.querySelector(".plot");
    this.root.querySelectorAll("[data-ramp]").forEach((button) => button.addEventListener("click", () => this.#change((point) => (point.ramp = button.dataset.ramp === "1"))));
    this.root.querySelector("[data-step]").addEventListener("change", (event) => this.#move(Number(event.target.value), this.#point.value));
    this.root.querySelector("[data-value]").addEventListener("change", (event) => this.#move(this.#point.step, Number(event.target.value)));
    this.root.querySelector("[data-delete]").addEventListener("click", () => this.#remove());
    this.plot.addEventListener("pointerdown", (event) => this.#down(event));
    new ResizeObserver(() => this.curve && this.#draw()).observe(this.plot);
  }

  get #point() {
    return this.curve.points[this.selected];
  }

  update(curve, text) {
    this.curve = curve;
    this.root.querySelector("[data-text]").textContent = text;
    this.plot.hidden = !curve;
    if (!curve || this.root.hidden) return;
    this.selected = Math.min(this.selected, curve.points.length - 1);
    if (!this.dragging) {
      const values = curve.points.map((point) => point.value);
      this.low = Math.min(0, Math.floor(Math.min(...values) * 2) / 2);
      this.high = Math.max(1.2, Math.ceil(Math.max(...values) * 2) / 2);
    }
    this.#draw();
  }

  #x(step) {
    return EDGE.left + ((step - 1) / Math.max(1, steps() - 1)) * (this.width - EDGE.left - EDGE.right);
  }

  #y(value) {
    return EDGE.top + ((this.high - value) / (this.high - this.low)) * (HEIGHT - EDGE.top - EDGE.bottom);
  }

  #draw() {
    const focused = this.plot.contains(document.activeElement);
    this.width = this.plot.clientWidth || 400;
    const svg = shape("svg", { viewBox: `0 0 ${this.width} ${HEIGHT}`, width: this.width, height: HEIGHT, role: "group", "aria-label": `Curve of ${this.name}` });
    for (let value = this.low; value <= this.high + 1e-9; value += 0.5) {
      svg.append(shape("line", { class: value === 0 ? "zero" : "grid", x1: EDGE.left, x2: this.width - EDGE.right, y1: this.#y(value), y2: this.#y(value) }));
      svg.append(shape("text", { x: EDGE.left - 8, y: this.#y(value) + 3.5, "text-anchor": "end" }, tidy(value)));
    }
    const gap = [1, 5, 10, 20, 50, 100].find((size) => steps() / size <= 10) ?? 100;
    for (let step = gap === 1 ? 1 : 0; step <= steps(); step += gap) {
      const at = Math.max(1, step);
      svg.append(shape("text", { x: this.#x(at), y: HEIGHT - 5, "text-anchor": "middle" }, at));
    }
    const line = this.#path();
    svg.append(shape("path", { class: "area", d: `${line}V${this.#y(0)}H${this.#x(1)}Z` }), shape("path", { class: "line", d: line }));
    this.curve.points.forEach((point, index) => svg.append(this.#dot(point, index)));
    this.plot.replaceChildren(svg);
    if (focused) svg.querySelectorAll(".dot")[this.selected]?.focus();
    this.#tools();
  }

  #path() {
    const { points } = this.curve;
    let path = `M${this.#x(1)} ${this.#y(valueAt(points, 1))}`;
    for (const point of points) {
      if (point.step <= 1) continue;
      path += point.ramp ? `L${this.#x(point.step)} ${this.#y(point.value)}` : `H${this.#x(Math.ceil(point.step - 1e-9))}V${this.#y(point.value)}`;
    }
    return `${path}H${this.#x(steps())}`;
  }

  #dot(point, index) {
    const dot = shape("circle", {
      class: "dot", cx: this.#x(Math.min(point.step, steps())), cy: this.#y(point.value), r: 6, tabindex: index === this.selected ? 0 : -1, role: "slider",
      "aria-label": `Point ${index + 1}`, "aria-valuenow": tidy(point.value), "aria-valuetext": `strength ${tidy(point.value)} at step ${Math.round(point.step)}, ${point.ramp ? "reached by a ramp" : "switched"}`,
      "aria-valuemin": this.low, "aria-valuemax": this.high, "aria-current": String(index === this.selected),
    });
    dot.addEventListener("keydown", (event) => this.#key(event));
    dot.addEventListener("focus", () => this.#select(index));
    return dot;
  }

  #tools() {
    const point = this.#point;
    const first = this.selected === 0;
    this.root.querySelectorAll("[data-ramp]").forEach((button) => {
      button.setAttribute("aria-pressed", String((button.dataset.ramp === "1") === point.ramp));
      button.disabled = first;
    });
    const step = this.root.querySelector("[data-step]");
    const value = this.root.querySelector("[data-value]");
    step.max = steps();
    if (document.activeElement !== step) step.value = Math.round(point.step);
    if (document.activeElement !== value) value.value = tidy(point.value);
    this.root.querySelector("[data-delete]").disabled = this.curve.points.length === 1;
  }

  #select(index) {
    this.selected = index;
    this.plot.querySelectorAll(".dot").forEach((dot, at) => {
      dot.setAttribute("aria-current", String(at === index));
      dot.tabIndex = at === index ? 0 : -1;
    });
    this.#tools();
  }

  #at(event) {
    const box = this.plot.getBoundingClientRect();
    const step = 1 + ((event.clientX - box.left - EDGE.left) / (this.width - EDGE.left - EDGE.right)) * (steps() - 1);
    const value = this.high - ((event.clientY - box.top - EDGE.top) / (HEIGHT - EDGE.top - EDGE.bottom)) * (this.high - this.low);
    return [Math.round(Math.min(steps(), Math.max(1, step))), Math.round(Math.min(this.high, Math.max(this.low, value)) / SNAP) * SNAP];
  }

  #down(event) {
    if (event.button !== 0 || !this.curve) return;
    event.preventDefault();
    const dots = [...this.plot.querySelectorAll(".dot")];
    const hit = dots.indexOf(event.target);
    if (hit >= 0) this.#select(hit);
    else if (!this.#add(...this.#at(event))) return;
    this.plot.querySelectorAll(".dot")[this.selected]?.focus();
    this.dragging = true;
    this.plot.setPointerCapture(event.pointerId);
    const move = (moved) => this.#move(...this.#at(moved));
    const up = () => {
      this.dragging = false;
      this.plot.removeEventListener("pointermove", move);
      this.update(this.curve, this.root.querySelector("[data-text]").textContent);
    };
    this.plot.addEventListener("pointermove", move);
    this.plot.addEventListener("lostpointercapture", up, { once: true });
  }

  #add(step, value) {
    const { points } = this.curve;
    const near = points.findIndex((point) => Math.round(point.step) === step);
    if (near >= 0) {
      this.selected = near;
      this.#move(step, value);
      return true;
    }
    const place = points.findIndex((point) => point.step > step);
    const at = place < 0 ? points.length : place;
    points.splice(at, 0, { value, step, ramp: points[Math.max(0, at - 1)].ramp });
    this.selected = at;
    this.#send();
    return true;
  }

  #move(step, value) {
    const { points } = this.curve;
    const least = this.selected > 0 ? Math.floor(points[this.selected - 1].step) + 1 : 1;
    const most = this.selected + 1 < points.length ? Math.ceil(points[this.selected + 1].step) - 1 : steps();
    this.#change((point) => {
      point.step = points.length === 1 ? 1 : Math.min(most, Math.max(least, step || 1));
      point.value = Number.isFinite(value) ? value : 0;
    });
  }

  #key(event) {
    const { step, value } = this.#point;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, SNAP], ArrowDown: [0, -SNAP] };
    if (moves[event.key]) this.#move(Math.round(step) + moves[event.key][0], value + moves[event.key][1]);
    else if (event.key === "Delete" || event.key === "Backspace") this.#remove();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #remove() {
    if (this.curve.points.length === 1) return;
    this.curve.points.splice(this.selected, 1);
    this.selected = Math.max(0, this.selected - 1);
    this.#send();
  }

  #change(act) {
    act(this.#point);
    this.#send();
  }

  #send() {
    this.curve.points[0].ramp &&= this.curve.points[0].step > 1;
    this.write(writeCurve(this.curve, steps()));
  }
}
