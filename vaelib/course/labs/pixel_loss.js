// One pixel under a Gaussian decoder: what pixel_loss.py computes, in the page.
const { value, contrast, pixels, density, costs } = data;
const [smallest, largest] = data.errors, [low, high] = data.scales;

const part = name => figure.querySelector(`.${name}`);
const [scaleSlider, errorSlider] = figure.querySelectorAll("input");
const button = figure.querySelector("button");
const summary = part("where-q-summary");
const handle = part("handle");
const picture = handle.ownerSVGElement;

let [error, scale] = data.start;
let grip = null; // from the pointer to the peak of the bell, while it is dragged

// What is computed

const distortion = (error, scale) =>
  error ** 2 / (2 * scale ** 2) + Math.log(scale * Math.sqrt(2 * Math.PI));
const rate = error => Math.log(contrast / error);
const bestError = scale => Math.min(scale, contrast);

/** The numbers that the figure shows; tests compare them with vaelib. */
figure.compute = (error, scale) => ({
  "distortion": distortion(error, scale),
  "rate": rate(error),
  "total": distortion(error, scale) + rate(error),
  "best": bestError(scale),
  "beta": scale ** 2,
  "beta-mean": 2 * scale ** 2 / pixels,
});

// What is shown

const DIGITS = { "scale": 3, "error": 3, "best": 3, "beta": 4, "beta-mean": 7 };
const text = (name, value) => value.toFixed(DIGITS[name] ?? 2)
  .replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
const across = (frame, number) => frame.left
  + (number - frame.x_range[0]) / (frame.x_range[1] - frame.x_range[0]) * frame.width;
const up = (frame, number) => frame.top
  + (frame.y_range[1] - number) / (frame.y_range[1] - frame.y_range[0]) * frame.height;
const clamp = (number, [low, high]) => Math.min(Math.max(number, low), high);
const move = (name, x, y) => part(name).setAttribute("transform", `translate(${x} ${y})`);
const peakOf = scale => 1 / (scale * Math.sqrt(2 * Math.PI));
const through = points => `M${points.map(([x, y]) => `${x.toFixed(2)} ${y.toFixed(2)}`).join("L")}`;

function drawDensity() {
  const middle = value - error, peak = peakOf(scale);
  const bell = Array.from({ length: 81 }, (_, i) => {
    const x = clamp(middle + scale * (i / 10 - 4), density.x_range); // the picture ends there
    return [across(density, x), up(density, peak * Math.exp(-(((x - middle) / scale) ** 2) / 2))];
  });
  const [area, curve] = part("bell").children, floor = density.top + density.height;
  curve.setAttribute("d", through(bell));
  area.setAttribute("d", through([[bell[0][0], floor], ...bell, [bell.at(-1)[0], floor]]));
  move("handle", across(density, middle), Math.max(up(density, peak), 36));
  move("prediction", across(density, middle), density.top + density.height);
  move("said", across(density, value), Math.max(
    up(density, peak * Math.exp(-((error / scale) ** 2) / 2)), 4));
}

function drawCosts() {
  const errors = Array.from({ length: 99 }, (_, i) =>
    largest + (smallest - largest) * i / 98);
  for (const name of ["distortion", "total"]) {
    const curve = errors.map(e =>
      [across(costs, e), up(costs, figure.compute(e, scale)[name])]);
    part(`${name}-curve`).firstElementChild.setAttribute("d", through(curve));
  }
  const best = Math.max(bestError(scale), smallest);
  const inside = y => Math.max(y, 8); // what leaves the picture stays at its upper edge
  move("best", across(costs, best), inside(up(costs, figure.compute(best, scale).total)));
  move("now", across(costs, error), inside(up(costs, figure.compute(error, scale).total)));
  move("total-label", across(costs, 0.46), Math.max(up(costs, figure.compute(0.46, scale).total), 24));
  move("distortion-label", across(costs, 0.1), inside(up(costs, distortion(0.1, scale))));
}

function draw() {
  drawDensity();
  drawCosts();
  for (const [name, number] of Object.entries({ ...figure.compute(error, scale), scale, error })) {
    figure.querySelectorAll(`[data-number="${name}"]`)
      .forEach(e => { e.textContent = text(name, number); });
  }
  scaleSlider.value = data.steps * Math.log(scale / low) / Math.log(high / low);
  errorSlider.value = error;
  scaleSlider.setAttribute("aria-valuetext", text("scale", scale));
  errorSlider.setAttribute("aria-valuetext", text("error", error));
}

/** Say the numbers once a change is over. */
function say() {
  const now = figure.compute(error, scale);
  summary.textContent = `distortion ${text("distortion", now.distortion)}, `
    + `rate ${text("rate", now.rate)}, sum ${text("total", now.total)} nats; `
    + `best error ${text("best", now.best)}, beta ${text("beta", now.beta)}`;
}

// What readers do

scaleSlider.addEventListener("input", () => {
  scale = low * (high / low) ** (Number(scaleSlider.value) / data.steps);
  draw();
});
errorSlider.addEventListener("input", () => { error = Number(errorSlider.value); draw(); });
for (const slider of [scaleSlider, errorSlider]) slider.addEventListener("change", say);
button.addEventListener("click", () => { error = bestError(scale); draw(); say(); });

/** Where a pointer is in the picture, in its own units. */
function placeOf(event) {
  const place = new DOMPoint(event.clientX, event.clientY);
  return place.matrixTransform(picture.getScreenCTM().inverse());
}

handle.addEventListener("pointerdown", event => {
  const place = placeOf(event);
  grip = {
    x: across(density, value - error) - place.x,
    y: up(density, peakOf(scale)) - place.y,
  };
  handle.setPointerCapture(event.pointerId);
});
handle.addEventListener("pointermove", event => {
  if (grip === null) return;
  const place = placeOf(event), [left, right] = density.x_range;
  const prediction = left + (place.x + grip.x - density.left) / density.width * (right - left);
  error = clamp(value - prediction, data.errors);
  const floor = density.top + density.height;
  const peak = Math.max(floor - place.y - grip.y, 1) / density.height * density.y_range[1];
  scale = clamp(peakOf(peak), data.scales); // the scale of a peak is the peak of that scale
  draw();
});
// A finger on the dot drags the bell; anywhere else it scrolls the page.
handle.addEventListener("touchstart", event => event.preventDefault(), { passive: false });
handle.addEventListener("lostpointercapture", () => { grip = null; say(); });

part("drawing").classList.remove("without-script"); // the still is where the figure begins
draw();
