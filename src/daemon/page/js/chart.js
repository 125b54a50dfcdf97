// What all charts share: a frame with a title, one sentence that says how to read it, a picture that can be
// focused, and a line that says what lies under the cursor.

let count = 0;

export const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

export const ink = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function frame(title, hint) {
  count += 1;
  const heading = make("h3", { textContent: title, id: `chart-${count}` });
  const sentence = make("p", { className: "hint dim small", textContent: hint, id: `hint-${count}` });
  const stage = make("div", { className: "stage" });
  const legend = make("div", { className: "legend small" });
  const said = make("p", { className: "said small" });
  said.setAttribute("aria-live", "polite");
  const figure = make("figure", {}, make("figcaption", {}, heading, sentence), stage, legend, said);
  figure.setAttribute("aria-labelledby", heading.id);
  return { figure, heading, sentence, stage, legend, said };
}

/** Width of a picture: what the stage has inside of its padding. */
export const room = (stage) => Math.max(160, stage.clientWidth - 4);

/** Makes an element a picture that the keyboard can walk over; `move(across, down, end)`. */
export function walkable(element, described, move) {
  element.tabIndex = 0;
  element.setAttribute("role", "img");
  element.setAttribute("aria-describedby", described.id);
  const steps = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
    PageUp: [-10, 0], PageDown: [10, 0], Home: [-Infinity, 0], End: [Infinity, 0],
  };
  element.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    move(...step);
  });
}

/** Position after a step; ±Infinity leads to an end. */
export function moved(at, by, n) {
  return Math.max(0, Math.min(n - 1, (at ?? n - 1) + by));
}

/** First, last, least and greatest of what is known. */
export function range(values) {
  const known = values.filter((value) => value !== null && Number.isFinite(value));
  if (!known.length) return null;
  return {
    first: known[0],
    last: known[known.length - 1],
    min: known.reduce((a, b) => Math.min(a, b)),
    max: known.reduce((a, b) => Math.max(a, b)),
  };
}
