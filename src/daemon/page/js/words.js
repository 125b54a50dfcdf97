// Numbers and times as people read them; the same forms as in the tables.

const minus = (text) => text.replace("-", "−");

export function short(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size > 0 && (size < 1e-3 || size >= 1e6)) return minus(value.toExponential(2)).replace("e+", "e");
  return minus(value.toFixed(size < 1 ? 3 : size < 100 ? 2 : 0));
}

export function signed(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  const text = value.toFixed(3);
  return text === "-0.000" ? "0.000" : minus(text);
}

export function grouped(n) {
  return String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

export function age(seconds) {
  const s = Math.max(0, Date.now() / 1000 - seconds);
  if (s < 90) return `${Math.floor(s)} s ago`;
  if (s < 5400) return `${Math.floor(s / 60)} min ago`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86400)} days ago`;
}
