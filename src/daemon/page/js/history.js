// The saves of a run, from rows to columns.

/** Positions of the saves of the training as it is now: what came before it went back is left out. */
function current(steps) {
  const kept = [];
  let lowest = Infinity;
  for (let at = steps.length - 1; at >= 0; at -= 1) {
    if (steps[at] < lowest) {
      kept.push(at);
      lowest = steps[at];
    }
  }
  return kept.reverse();
}

const key = ({ metric, pair, projection, layer }) =>
  [metric, pair ?? projection ?? "", layer ?? (layer === null ? "–" : "")].join("/");

/** Column key → { column, values } over all rows of all parts, null where a part lacks the column. */
function columns(parts) {
  const all = new Map();
  const length = parts.reduce((sum, part) => sum + part.rows.length, 0);
  let start = 0;
  for (const { columns: names, rows } of parts) {
    names.forEach((column, at) => {
      const name = key(column);
      if (!all.has(name)) all.set(name, { column, values: new Array(length).fill(null) });
      const { values } = all.get(name);
      rows.forEach((row, i) => { values[start + i] = row[at]; });
    });
    start += rows.length;
  }
  return { all, length };
}

// Pairs within a block first: they are the sharpest, and alone worth an alert.
const ORDER = ["v_o", "q_k", "up_down", "gate_down", "chain", "conv", "lora"];
const rank = (pair) => (ORDER.includes(pair) ? ORDER.indexOf(pair) : ORDER.length);
const inOrder = (map) => new Map([...map].sort(([a], [b]) => rank(a) - rank(b)));

const byLayer = (a, b) => (a.layer ?? -1) - (b.layer ?? -1);

/** What the charts are made of; `body` is the JSON of `/api/v1/history/NAME`. */
export function read(body) {
  const { all, length } = columns(body.parts);
  const raw = (name) => all.get(`${name}//`)?.values ?? new Array(length).fill(null);
  const kept = current(raw("step"));
  const pick = (values) => kept.map((at) => values[at]);
  /** Pair or projection → [{ layer, values }]. */
  const layers = (metric) => {
    const found = new Map();
    for (const { column, values } of all.values()) {
      if (column.metric !== metric) continue;
      const name = column.pair ?? column.projection;
      if (!found.has(name)) found.set(name, []);
      found.get(name).push({ layer: column.layer ?? null, values: pick(values) });
    }
    found.forEach((rows) => rows.sort(byLayer));
    return inOrder(found);
  };
  const wholes = (metric) =>
    new Map([...layers(metric)].map(([name, rows]) => [name, rows[0].values]));
  const gram = layers("gram_correlation");
  const segments = pick(raw("segment"));
  return {
    steps: pick(raw("step")),
    loss: pick(raw("train_loss")),
    mean: wholes("alignment_mean"),
    max: wholes("commutator_max_ratio"),
    gram,
    kappa: layers("commutator_vs_chance"),
    overlap: layers("head_overlap_ratio"),
    chance: layers("head_overlap_chance_ratio"),
    effective: layers("effective_heads"),
    pairs: [...gram.keys()],
    thinned: body.thinned,
    leftOut: length - kept.length,
    wentBack: new Set(segments).size > 1 || length > kept.length,
  };
}

/** Mean of what is known at each save. */
export function mean(rows, length) {
  return Array.from({ length }, (_, at) => {
    const known = rows.map(({ values }) => values[at]).filter((value) => value !== null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  });
}
