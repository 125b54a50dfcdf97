// Lines over the training step, by uPlot, with the level of chance and the onsets of anomalies.
import { frame, ink, make, moved, range, room, walkable } from "./chart.js";
import { grouped, short } from "./words.js";

const HUES = 8; // --line-0 … of the style sheet

export class Lines {
  /** `level` is chance, drawn across; `moveTo(save)` is told where the cursor is. */
  constructor(host, { title, hint, height = 200, level = null, canLog = false, moveTo }) {
    Object.assign(this, frame(title, hint), { title, height, level, canLog, moveTo });
    this.hidden = new Set();
    this.at = null;
    this.picture = make("div", { className: "lines" });
    this.stage.append(this.picture);
    walkable(this.picture, this.sentence, (across) => this.walk(across));
    this.picture.addEventListener("focus", () => this.walk(0));
    this.picture.addEventListener("blur", () => this.moveTo(null));
    host.append(this.figure);
    new ResizeObserver(() => this.fit()).observe(this.stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.build());
  }

  /** `series` is [{ label, values, dash, like }]; `marks` is [{ step, severity, isOver }]. */
  draw(steps, series, marks) {
    const names = series.map(({ label, like }) => `${label} ${like}`).join("\n");
    const isLog = this.canLog && isWide(series);
    const isSame = this.plot && names === this.names && isLog === this.isLog;
    Object.assign(this, { steps, series, marks, names, isLog });
    this.describe();
    if (!isSame) {
      this.build();
      return;
    }
    // A part that the reader has drawn large stays so.
    const [old] = this.plot.data;
    const { min, max } = this.plot.scales.x;
    const isZoomed = old.length > 1 && (min !== old[0] || max !== old[old.length - 1]);
    this.plot.setData(this.data(), !isZoomed);
    if (isZoomed) this.plot.redraw(true, true);
    this.follow(this.at);
  }

  data() {
    // A logarithm has no place for 0.
    const shown = (values) => (this.isLog ? values.map((v) => (v > 0 ? v : null)) : values);
    return [this.steps, ...this.series.map(({ values }) => shown(values))];
  }

  build() {
    if (!this.series) return;
    this.plot?.destroy();
    const axis = { stroke: ink("--dim"), grid: { stroke: ink("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const few = this.steps.length < 40;
    const line = ({ label, dash }, at) => ({
      label,
      show: !this.hidden.has(label),
      stroke: this.hue(at),
      width: 1.75,
      dash: dash ?? (at >= HUES ? [8, 4] : undefined),
      points: { show: few, size: 5 },
      spanGaps: false,
    });
    this.plot = new uPlot({
      width: this.width(),
      height: this.height,
      legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: true, y: false } },
      padding: [10, 22, 0, 0],
      scales: { x: { time: false }, y: this.isLog ? { distr: 3 } : { range: (_, low, high) => this.span(low, high) } },
      axes: [
        { ...axis, size: 28, values: (_, ticks) => ticks.map(tick) },
        { ...axis, size: 56, grid: { ...axis.grid, filter: (_, at) => (this.isLog ? at.map(decade) : at) }, values: (_, ticks) => ticks.map((value) => (value === null ? "" : plain(value))) },
      ],
      series: [{ label: "step" }, ...this.series.map(line)],
      hooks: { draw: [(plot) => this.annotate(plot)], setCursor: [(plot) => this.pointed(plot)] },
    }, this.data(), this.picture);
    this.buttons();
    this.follow(this.at);
  }

  width() {
    return room(this.stage);
  }

  fit() {
    if (this.plot && this.plot.width !== this.width()) {
      this.plot.setSize({ width: this.width(), height: this.height });
    }
  }

  /** Chance is always in sight, and a flat line is not blown up. */
  span(low, high) {
    const known = [low, high, this.level].filter((value) => value !== null && Number.isFinite(value));
    if (!known.length) return [0, 1];
    const [from, to] = [Math.min(...known), Math.max(...known)];
    const room = Math.max((to - from) * 0.08, Math.abs(to) * 0.02, 0.01);
    return [from - (from === 0 && this.level !== 0 ? 0 : room), to + room];
  }

  annotate(plot) {
    const { ctx: paper, bbox } = plot;
    const ratio = window.devicePixelRatio || 1;
    paper.save();
    paper.lineWidth = ratio;
    for (const { step, severity, isOver } of this.marks) {
      if (step < plot.scales.x.min || step > plot.scales.x.max) continue;
      const x = Math.round(plot.valToPos(step, "x", true));
      paper.strokeStyle = ink(severity === "critical" ? "--bad" : severity === "warning" ? "--wait" : "--dim");
      paper.setLineDash(isOver ? [2 * ratio, 4 * ratio] : []);
      paper.beginPath();
      paper.moveTo(x, bbox.top);
      paper.lineTo(x, bbox.top + bbox.height);
      paper.stroke();
    }
    const y = this.level === null ? NaN : plot.valToPos(this.level, "y", true);
    if (y >= bbox.top && y <= bbox.top + bbox.height) {
      paper.strokeStyle = paper.fillStyle = ink("--dim");
      paper.setLineDash([6 * ratio, 4 * ratio]);
      paper.beginPath();
      paper.moveTo(bbox.left, y);
      paper.lineTo(bbox.left + bbox.width, y);
      paper.stroke();
      paper.font = `${11 * ratio}px system-ui, sans-serif`;
      paper.textAlign = "right";
      paper.textBaseline = "bottom";
      paper.fillText("chance", bbox.left + bbox.width - 4 * ratio, y - 2 * ratio);
    }
    paper.restore();
  }

  /** A line has the colour of its place, or of that of another one, or that of chance. */
  hue(at) {
    const { like = at } = this.series[at];
    return ink(like === null ? "--dim" : `--line-${like % HUES}`);
  }

  /** One switch a line. */
  buttons() {
    const shown = this.series.map(({ label, dash }, at) => {
      const marker = make("span", { className: dash ? "marker dashed" : "marker" });
      marker.style.borderColor = this.hue(at);
      const button = make("button", { type: "button" }, marker, label);
      button.setAttribute("aria-pressed", String(!this.hidden.has(label)));
      button.addEventListener("click", () => {
        const isShown = this.hidden.delete(label) || !this.hidden.add(label);
        button.setAttribute("aria-pressed", String(isShown));
        this.plot.setSeries(at + 1, { show: isShown });
      });
      return button;
    });
    this.legend.replaceChildren(...shown);
  }

  describe() {
    const said = this.series.map(({ label, values }) => {
      const of = range(values);
      return of && `${label} from ${short(of.first)} to ${short(of.last)}, least ${short(of.min)}, greatest ${short(of.max)}`;
    }).filter(Boolean);
    this.picture.setAttribute("aria-label",
      `${this.title} over ${this.steps.length} saves: ${said.join("; ") || "no values"}. Arrow keys read single values.`);
  }

  walk(across) {
    if (!this.steps?.length) return;
    this.moveTo(moved(this.at, across, this.steps.length));
  }

  pointed(plot) {
    if (this.isFollowing) return;
    const { idx, left } = plot.cursor;
    this.moveTo(left < 0 ? null : idx ?? null);
  }

  tell() {
    const of = ({ label, values }) => `${label} ${short(values[this.at])}`;
    const shown = this.series.filter(({ label }) => !this.hidden.has(label));
    this.said.textContent = `step ${grouped(this.steps[this.at])}: ${shown.map(of).join(", ")}`;
  }

  /** Shows where the cursor is, its own or another chart's. */
  follow(at) {
    this.at = at === null ? null : Math.min(at, this.steps.length - 1);
    if (!this.plot) return;
    this.isFollowing = true;
    const left = this.at === null ? -10 : this.plot.valToPos(this.steps[this.at], "x");
    this.plot.setCursor({ left, top: this.at === null ? -10 : 0 }, false);
    this.isFollowing = false;
    if (this.at === null) this.said.textContent = "";
    else this.tell();
  }
}

/** Whether values above 0 span more than a linear axis shows. */
function isWide(series) {
  const known = series.flatMap(({ values }) => values).filter((value) => value !== null && value > 0);
  if (!known.length) return false;
  const [min, max] = [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))];
  return max / min > 30;
}

/** Powers of ten alone have a line across. */
const decade = (value) => (value !== null && Math.abs(Math.log10(value) % 1) < 1e-9 ? value : null);

const plain = (value) => (Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(0) : String(+value.toPrecision(4))).replace("-", "−");

const tick = (value) => (value >= 1e6 ? `${+(value / 1e6).toPrecision(4)} M` : grouped(value));
