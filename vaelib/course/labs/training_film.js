// Codes on their way through the plane: from snapshot to snapshot on straight lines.
const SECONDS = 0.9; // from one snapshot to the next, in the film

const button = figure.querySelector("button");
const slider = figure.querySelector("input");
const output = figure.querySelector("output");
const digits = [...figure.querySelectorAll(".film text")];
const { epochs, limit, side } = data;
const frames = data.frames.map(unpack);
const last = epochs.length - 1;
const still = matchMedia("(prefers-reduced-motion: reduce)");

let place = last; // in snapshots: 1.5 is halfway between the second and the third
let clock = null; // the time of the latest picture; null while the film stands

/** 16-bit integers in base64 -> coordinates x0, y0, x1, y1, ... */
function unpack(text) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float64Array.from(
    { length: bytes.length / 2 }, (_, i) => view.getInt16(2 * i, true) / 32767 * limit);
}

/** The snapshot that a place follows, and how far it is on the way to the next. */
function between(place) {
  const k = Math.min(Math.floor(place), last - 1);
  return [k, place - k];
}

function codesAt(place) {
  const [k, t] = between(place);
  return frames[k].map((z, i) => (1 - t) * z + t * frames[k + 1][i]);
}

function epochAt(place) {
  const [k, t] = between(place);
  return (1 - t) * epochs[k] + t * epochs[k + 1];
}

function placeOf(epoch) {
  const k = Math.min(epochs.findLastIndex(e => e <= epoch), last - 1);
  return k + (epoch - epochs[k]) / (epochs[k + 1] - epochs[k]);
}

function draw() {
  const z = codesAt(place);
  let i = 0;
  for (const digit of digits) {
    const xs = [], ys = [];
    for (const end = i + digit.textContent.length; i < end; i++) {
      xs.push(((z[2 * i] + limit) / (2 * limit) * side).toFixed(2));
      ys.push(((limit - z[2 * i + 1]) / (2 * limit) * side).toFixed(2));
    }
    digit.setAttribute("x", xs.join(" "));
    digit.setAttribute("y", ys.join(" "));
  }
  const epoch = Math.round(epochAt(place));
  slider.value = epoch;
  slider.setAttribute("aria-valuetext", `epoch ${epoch}`);
  output.textContent = `epoch ${epoch}`;
}

function play(now) {
  if (clock === null) return;
  // The first picture may belong to a moment before the click.
  place = Math.min(place + Math.max(0, now - clock) / 1000 / SECONDS, last);
  clock = now;
  // Who asked for less motion sees the snapshots, and nothing between them.
  const exact = place;
  if (still.matches) place = Math.floor(place);
  draw();
  place = exact;
  if (place < last) requestAnimationFrame(play);
  else pause();
}

function start() {
  if (place === last) place = 0;
  clock = performance.now();
  button.textContent = "Pause";
  output.setAttribute("aria-live", "off"); // a number that runs is not worth being read out
  requestAnimationFrame(play);
}

function pause() {
  clock = null;
  button.textContent = "Play";
  output.setAttribute("aria-live", "polite");
}

button.addEventListener("click", () => clock === null ? start() : pause());
slider.addEventListener("input", () => {
  pause();
  place = placeOf(Number(slider.value));
  draw();
});
draw();
