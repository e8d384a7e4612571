/** Curves of the tag language: points over the steps of a run, read, evaluated and written. Steps count from 1. */
const POINT = /^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(?:([@~])\s*(\d*\.?\d+)\s*(%?))?\s*$/i;

export const tidy = (value, digits = 3) => String(Number(value.toFixed(digits)));

/** `{points: [{value, step, ramp}], unit}` of a curve's text in a run of `steps`; null when it is no curve. */
export function readCurve(text, steps, { linear = false } = {}) {
  const parts = String(text).split(/[,;]/).map((part) => POINT.exec(part));
  if (parts.some((part) => !part)) return null;
  const raw = parts.map(([, value, sign, place, percent]) => ({ value: Number(value), ramp: linear || sign === "~", place, percent: Boolean(percent) }));
  const placed = raw.filter((point) => point.place !== undefined);
  const small = placed.length > 0 && placed.every((point) => !point.percent && Number(point.place) <= 1);
  const unit = placed.some((point) => point.percent) ? "percent" : small || placed.some((point) => point.place.includes(".")) ? "fraction" : "step";
  const points = raw.map((point) => ({ value: point.value, ramp: point.ramp, step: stepOf(point, steps, small, linear) }));
  return { points, unit };
}

function stepOf({ place, percent }, steps, small, linear) {
  if (place === undefined) return 1;
  const at = Number(place);
  if (percent) return 1 + (at / 100) * (steps - 1);
  if (small || place.includes(".")) return 1 + at * (steps - 1);
  return linear ? at + 1 : at;
}

/** Strength at `step`: the first value before the first point, switches at the first step at or after their place. */
export function valueAt(points, step) {
  let reached = 0;
  while (reached + 1 < points.length && Math.ceil(points[reached + 1].step - 1e-9) <= step) reached += 1;
  const from = points[reached];
  const to = points[reached + 1];
  if (!to || !to.ramp || step < from.step) return from.value;
  return from.value + ((to.value - from.value) * (step - from.step)) / (to.step - from.step);
}

export function writeCurve({ points, unit }, steps) {
  if (points.length === 1) return tidy(points[0].value);
  return points.map((point) => `${tidy(point.value)}${point.ramp ? "~" : "@"}${placeOf(point.step, unit, steps)}`).join(",");
}

function placeOf(step, unit, steps) {
  const share = steps > 1 ? (step - 1) / (steps - 1) : 0;
  if (unit === "percent") return `${tidy(share * 100, 1)}%`;
  if (unit === "fraction") return tidy(share).includes(".") ? tidy(share) : `${tidy(share)}.0`;
  return String(Math.round(step));
}

/** A curve in a few characters: `0.8`, `0.2 → 0.9`, `0 ↗ 0.8`. */
export function shortCurve(curve) {
  if (!curve) return "";
  const { points } = curve;
  const first = points[0];
  const last = points[points.length - 1];
  if (points.length === 1 || points.every((point) => point.value === first.value)) return tidy(first.value);
  const sign = points.length > 2 ? "…" : !last.ramp ? "→" : last.value > first.value ? "↗" : "↘";
  return `${tidy(first.value)} ${sign} ${tidy(last.value)}`;
}

export const peak = (points) => points.reduce((most, point) => (Math.abs(point.value) > Math.abs(most) ? point.value : most), 0);
