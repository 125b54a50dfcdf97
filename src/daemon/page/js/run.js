// The page of one run: charts above the tables.
import { follow, refresh } from "./live.js";
import { mean, read } from "./history.js";
import { Heat } from "./heat.js";
import { Lines } from "./lines.js";
import { make } from "./chart.js";
import { grouped, short, signed } from "./words.js";

const main = document.getElementById("main");
const section = document.getElementById("charts");
const choice = make("select", { id: "pair" });
const note = make("p", { className: "dim small" });
const left = make("div", { className: "column" });
const right = make("div", { className: "column" });
let charts = null, saves = null, marks = [], text = "";

const moveTo = (at) => {
  for (const chart of Object.values(charts)) {
    if (chart.figure.isConnected && !chart.figure.hidden) chart.follow(at);
  }
};

function build() {
  section.append(
    make("div", { className: "choice" },
      make("h2", { textContent: "Over the training" }),
      make("label", {}, "Pair ", choice)),
    note, make("div", { className: "columns" }, left, right));
  charts = {
    gram: new Heat(left, {
      title: "Gram correlation", scale: "gram", show: signed, moveTo,
      hint: "Rising (blue) means that a layer reads what the one before writes; a sudden fall, that something broke.",
    }),
    kappa: new Heat(right, {
      title: "Commutator over chance, κ,", scale: "kappa", show: short, moveTo,
      hint: "Falling to 0 (blue) means a common eigenbasis; a direction that begins to align raises it first.",
    }),
    mean: new Lines(left, {
      title: "Mean alignment", level: 0, height: 220, moveTo,
      hint: "Mean gram correlation over layers and heads. Rising is not good in itself, falling not bad: look for changes.",
    }),
    loss: new Lines(left, {
      title: "Training loss", height: 150, canLog: true, moveTo,
      hint: "From the trainer's own record, at the same steps: falling means learning.",
    }),
    commutator: new Lines(right, {
      title: "κ, mean over layers", level: 1, height: 220, canLog: true, moveTo,
      hint: "Below 1 adjacent matrices commute more than chance, above 1 less; a spike means that a layer was changed.",
    }),
    overlap: new Lines(left, {
      title: "Head overlap", height: 180, moveTo,
      hint: "Mean over layers, dashed: chance. Rising above chance means redundant heads, as healthy runs have too.",
    }),
    effective: new Lines(right, {
      title: "Effective heads", height: 150, moveTo,
      hint: "Mean over layers of the number of different heads; falling means that heads become redundant.",
    }),
  };
  choice.addEventListener("change", () => {
    const url = new URL(location.href);
    url.searchParams.set("pair", choice.value);
    history.replaceState(null, "", url);
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  section.hidden = false;
}

/** The pairs to choose from; the choice stays as long as it is among them. */
function choose() {
  const { pairs } = saves;
  const shown = [...choice.options].map((option) => option.value);
  if (shown.join() !== pairs.join()) {
    const wanted = choice.value || new URLSearchParams(location.search).get("pair");
    choice.replaceChildren(...pairs.map((pair) => make("option", { value: pair, textContent: pair })));
    choice.value = pairs.includes(wanted) ? wanted : pairs[0] ?? "";
  }
}

function remarks() {
  const { steps, thinned, leftOut, wentBack } = saves;
  const said = [`${grouped(steps.length)} ${steps.length === 1 ? "save" : "saves"}.`];
  if (wentBack) said.push("Training went back to an earlier step.");
  if (leftOut) said.push(`${grouped(leftOut)} saves from before that are left out here; the JSON has them.`);
  if (thinned) said.push(`${grouped(thinned)} older saves are left out, at even distances.`);
  if (steps.length === 1) said.push("Lines are drawn from the second on.");
  else if (marks.length) said.push("Vertical lines: onsets of anomalies, dotted where over.");
  const text = said.join(" ");
  if (note.textContent !== text) note.textContent = text;
}

function draw() {
  const { steps } = saves;
  const pair = choice.value;
  const place = (chart, isShown) => {
    chart.figure.hidden = !isShown;
    return isShown;
  };
  for (const [chart, rows] of [[charts.gram, saves.gram], [charts.kappa, saves.kappa]]) {
    const found = rows.get(pair) ?? [];
    if (place(chart, found.length > 0)) chart.draw(pair, found, steps);
  }
  const lines = (chart, series) => {
    const known = series.filter(({ values }) => values.some((value) => value !== null));
    // One save is no line; the tables have its numbers.
    if (place(chart, known.length > 0 && steps.length > 1)) chart.draw(steps, known, marks);
  };
  const each = (map, of) => [...map].map(([label, rows]) => ({ label, values: of(rows) }));
  const average = (rows) => mean(rows, steps.length);
  lines(charts.mean, each(saves.mean, (values) => values));
  lines(charts.loss, [{ label: "training loss", values: saves.loss }]);
  lines(charts.commutator, [
    ...each(saves.kappa, average),
    { label: `greatest of ${pair}`, values: saves.max.get(pair) ?? [], dash: [4, 4], like: [...saves.kappa.keys()].indexOf(pair) },
  ]);
  const dashed = each(saves.chance, average).map((one) => ({ ...one, label: `chance of ${one.label}`, dash: [4, 4], like: null }));
  const isOne = dashed.every(({ values }) => values.join() === dashed[0].values.join());
  const chance = isOne && dashed.length ? [{ ...dashed[0], label: "chance" }] : dashed;
  lines(charts.overlap, [...each(saves.overlap, average), ...chance]);
  lines(charts.effective, each(saves.effective, average));
  remarks();
}

async function anomalies() {
  const answer = await fetch("/api/v1/anomalies", { cache: "no-store" });
  const { anomalies: all } = await answer.json();
  const mine = all.filter((one) => one.run === main.dataset.run);
  const seen = new Map();
  for (const { onset_step: step, severity, open } of mine) {
    const known = seen.get(step);
    seen.set(step, { step, severity: known?.severity === "critical" ? "critical" : severity, isOver: !open && (known?.isOver ?? true) });
  }
  return [...seen.values()];
}

async function look() {
  const isThere = await refresh(["facts", "tables"]);
  if (!isThere) return false;
  const answer = await fetch(main.dataset.history, { cache: "no-store" });
  if (!answer.ok) return true;
  const now = await answer.text();
  const onsets = await anomalies();
  if (now === text && JSON.stringify(onsets) === JSON.stringify(marks)) return true;
  text = now;
  marks = onsets;
  saves = read(JSON.parse(now));
  if (!saves.steps.length) return true;
  if (!charts) build();
  choose();
  draw();
  return true;
}

follow((news) => news.list || news.runs.includes(main.dataset.run), look);
