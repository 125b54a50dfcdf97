// A map of layers and saves: one cell for each, coloured by its distance from chance.
import { SCALES, colour, palette } from "./colour.js";
import { frame, ink, make, moved, range, room, walkable } from "./chart.js";
import { grouped } from "./words.js";

const LEFT = 56, RIGHT = 22, BOTTOM = 20; // px, as in the charts of lines
const HEIGHT = 320, LEAST = 3, MOST = 26; // px of all layers, and of one

export class Heat {
  /** `scale` names one of SCALES; `moveTo(save)` is told where the cursor is. */
  constructor(host, { title, hint, scale, show, moveTo }) {
    Object.assign(this, frame(title, hint), { title, scale: SCALES[scale], show, moveTo });
    this.name = title;
    this.canvas = make("canvas", { className: "heat" });
    this.canvas.dataset.scale = scale;
    this.stage.append(this.canvas);
    this.rows = [];
    this.steps = [];
    this.at = null;
    this.layer = 0;
    walkable(this.canvas, this.sentence, (across, down) => this.walk(across, down));
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.leave());
    this.canvas.addEventListener("focus", () => this.walk(0, 0));
    this.canvas.addEventListener("blur", () => this.leave());
    host.append(this.figure);
    new ResizeObserver(() => this.paint()).observe(this.stage);
  }

  draw(name, rows, steps) {
    this.rows = rows;
    this.steps = steps;
    if (this.at !== null) this.at = Math.min(this.at, steps.length - 1);
    this.layer = Math.min(this.layer, Math.max(0, rows.length - 1));
    this.heading.textContent = `${this.title} of ${name}`;
    this.describe(name);
    this.paint();
    if (document.activeElement === this.canvas) this.tell();
  }

  describe(name) {
    const all = this.rows.flatMap(({ values }) => values);
    const found = range(all);
    const layers = this.rows.map(({ layer, values }) => {
      const of = range(values);
      return of && `${layerName(layer)} from ${this.show(of.first)} to ${this.show(of.last)}`;
    });
    const said = layers.filter(Boolean);
    const parts = said.length > 12 ? [...said.slice(0, 4), `${said.length - 8} layers more`, ...said.slice(-4)] : said;
    this.canvas.setAttribute("aria-label", found
      ? `${this.title} of ${name} by layer and step, ${this.steps.length} saves: ${parts.join(", ")}; ` +
        `least ${this.show(found.min)}, greatest ${this.show(found.max)}. Arrow keys read single values.`
      : `${this.title} of ${name}: no values.`);
  }

  /** Pixels of the cell of a save and a layer. */
  cell(at, row) {
    const { left, top, width, height } = this.plot;
    const x = (i) => left + Math.round((i * width) / this.steps.length);
    const y = (i) => top + Math.round((i * height) / this.rows.length);
    return [x(at), y(row), Math.max(1, x(at + 1) - x(at)), Math.max(1, y(row + 1) - y(row))];
  }

  paint() {
    const n = this.steps.length;
    const width = room(this.stage);
    const line = Math.max(LEAST, Math.min(MOST, HEIGHT / Math.max(1, this.rows.length)));
    const height = Math.round(line * Math.max(1, this.rows.length));
    this.plot = { left: LEFT, top: 4, width: width - LEFT - RIGHT, height };
    const ratio = window.devicePixelRatio || 1;
    const { canvas } = this;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round((height + 4 + BOTTOM) * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height + 4 + BOTTOM}px`;
    canvas.dataset.plot = [LEFT, 4, this.plot.width, height, n, this.rows.length].join(" ");
    const paper = canvas.getContext("2d");
    paper.setTransform(ratio, 0, 0, ratio, 0, 0);
    paper.clearRect(0, 0, width, height + 4 + BOTTOM);
    if (!n || !this.rows.length) return;
    this.cells(paper);
    this.axes(paper);
    this.scaleBar();
    if (this.at !== null) {
      const [x, y, w, h] = this.cell(this.at, this.layer);
      paper.lineWidth = 2;
      paper.strokeStyle = ink("--ink");
      paper.strokeRect(x - 1, y - 1, w + 2, h + 2);
      paper.lineWidth = 1;
      paper.strokeStyle = ink("--page");
      paper.strokeRect(x + 0.5, y + 0.5, Math.max(0, w - 1), Math.max(0, h - 1));
    }
  }

  cells(paper) {
    const stops = palette();
    const none = hatch(paper);
    // Of saves that share a pixel the mean is shown.
    const group = Math.max(1, Math.ceil(this.steps.length / this.plot.width));
    this.rows.forEach(({ values }, row) => {
      for (let at = 0; at < values.length; at += group) {
        const known = values.slice(at, at + group).filter((value) => value !== null);
        const value = known.length ? known.reduce((a, b) => a + b) / known.length : null;
        const [x, y, , h] = this.cell(at, row);
        const [end] = this.cell(Math.min(values.length, at + group), row);
        paper.fillStyle = value === null ? none : colour(stops, this.scale.position(value));
        paper.fillRect(x, y, Math.max(1, end - x), h);
      }
    });
  }

  axes(paper) {
    const { left, top, width, height } = this.plot;
    paper.fillStyle = ink("--dim");
    paper.font = "12px system-ui, sans-serif";
    paper.textAlign = "right";
    paper.textBaseline = "middle";
    const every = Math.ceil(13 / (height / this.rows.length));
    this.rows.forEach(({ layer }, row) => {
      if (row % every) return;
      const [, y, , h] = this.cell(0, row);
      paper.fillText(layer === null ? "–" : row ? String(layer) : `layer ${layer}`, left - 6, y + h / 2);
    });
    paper.textBaseline = "top";
    const n = this.steps.length;
    const labels = Math.max(1, Math.min(n, Math.floor(width / 90)));
    for (let i = 0; i < labels; i += 1) {
      const at = labels === 1 ? 0 : Math.round((i * (n - 1)) / (labels - 1));
      const [x, , w] = this.cell(at, 0);
      paper.textAlign = labels === 1 ? "center" : i === 0 ? "left" : i === labels - 1 ? "right" : "center";
      const edge = labels === 1 ? w / 2 : i === 0 ? 0 : i === labels - 1 ? w : w / 2;
      const word = i === labels - 1 ? "step " : "";
      paper.fillText(word + grouped(this.steps[at]), x + edge, top + height + 5);
    }
  }

  /** The legend: the colours with their numbers. */
  scaleBar() {
    const width = 220, height = 12;
    if (!this.bar) {
      this.bar = make("canvas", { className: "bar", width, height });
      this.bar.setAttribute("aria-hidden", "true");
      const labels = make("div", { className: "ticks" });
      labels.append(...this.scale.ticks.map(([, text]) => make("span", { textContent: text })));
      this.none = make("canvas", { className: "none", width: 16, height });
      this.none.setAttribute("aria-hidden", "true");
      this.legend.append(make("div", { className: "scale" }, this.bar, labels),
        make("span", { className: "nothing" }, this.none, " no value"));
    }
    const stops = palette();
    const paper = this.bar.getContext("2d");
    const [low, high] = [this.scale.ticks[0][0], this.scale.ticks.at(-1)[0]].map(this.scale.position);
    for (let x = 0; x < width; x += 1) {
      paper.fillStyle = colour(stops, low + ((high - low) * (x + 0.5)) / width);
      paper.fillRect(x, 0, 1, height);
    }
    const empty = this.none.getContext("2d");
    empty.fillStyle = hatch(empty);
    empty.fillRect(0, 0, 16, height);
  }

  walk(across, down) {
    if (!this.steps.length) return;
    this.at = moved(this.at, across, this.steps.length);
    this.layer = moved(this.layer, down, this.rows.length);
    this.moveTo(this.at);
    this.tell();
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const { left, top, width, height } = this.plot;
    const at = Math.floor(((event.clientX - box.left - left) / width) * this.steps.length);
    const row = Math.floor(((event.clientY - box.top - top) / height) * this.rows.length);
    if (at < 0 || row < 0 || at >= this.steps.length || row >= this.rows.length) return;
    this.at = at;
    this.layer = row;
    this.moveTo(at);
    this.tell();
  }

  leave() {
    if (document.activeElement === this.canvas) return;
    this.moveTo(null);
  }

  tell() {
    const { layer, values } = this.rows[this.layer] ?? {};
    const value = values?.[this.at] ?? null;
    const text = value === null ? "no value" : this.show(value);
    this.said.textContent = `${layerName(layer ?? null)}, step ${grouped(this.steps[this.at])}: ${text}`;
  }

  /** Shows where the cursor of another chart is. */
  follow(at) {
    this.at = at;
    if (at === null) this.said.textContent = "";
    else this.tell();
    this.paint();
  }
}

const layerName = (layer) => (layer === null ? "outside the stack" : `layer ${layer}`);

/** Stripes, which no value has. */
function hatch(paper) {
  const tile = make("canvas", { width: 6, height: 6 });
  const ground = tile.getContext("2d");
  ground.fillStyle = ink("--band");
  ground.fillRect(0, 0, 6, 6);
  ground.strokeStyle = ink("--dim");
  ground.beginPath();
  for (const from of [-6, 0, 6]) {
    ground.moveTo(from, 6);
    ground.lineTo(from + 6, 0);
  }
  ground.stroke();
  return paper.createPattern(tile, "repeat");
}
