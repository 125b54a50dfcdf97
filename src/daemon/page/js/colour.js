// From a number to a colour: five stops from below over chance to above, which people who confuse red and
// green can tell apart, in the colours of the page's scheme.

/** Where a value lies between −1 and 1; small distances from chance are spread by a square root. */
const spread = (x) => Math.sign(x) * Math.sqrt(Math.min(1, Math.abs(x)));

export const SCALES = {
  gram: {
    position: (value) => spread(value),
    ticks: [[-1, "−1"], [-0.25, "−0.25"], [0, "0 chance"], [0.25, "0.25"], [1, "1"]],
  },
  // A common eigenbasis is on the side of alignment.
  kappa: {
    position: (value) => -spread(Math.log2(Math.max(value, 2 ** -4)) / 4),
    ticks: [[16, "16"], [2, "2"], [1, "1 chance"], [0.5, "0.5"], [1 / 16, "≤ 0.06"]],
  },
};

/** The stops as the style sheet has them now. */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const stop = (name) => {
    const hex = style.getPropertyValue(name).trim().slice(1);
    return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
  };
  return ["--heat-0", "--heat-1", "--heat-2", "--heat-3", "--heat-4"].map(stop);
}

/** Colour at a position from −1 to 1. */
export function colour(stops, position) {
  const at = ((Math.min(1, Math.max(-1, position)) + 1) / 2) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(at));
  const mix = stops[low].map((from, i) => Math.round(from + (stops[low + 1][i] - from) * (at - low)));
  return `rgb(${mix.join(",")})`;
}
