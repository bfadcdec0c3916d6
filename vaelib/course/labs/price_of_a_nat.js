// A sweep over beta: the model of one price on its plane, its units, its pictures and its samples.
const { betas, names, models, units, thresholds, frames } = data;

const part = name => figure.querySelector(`.${name}`);
const all = selector => [...figure.querySelectorAll(selector)];
const radios = all("input");
const button = part("price-prediction").querySelector("button");
const handle = part("handle");
const picture = handle.ownerSVGElement;
const summary = part("where-q-summary");

let chosen = data.start;
let predicted = null; // the model that the reader expects to have the best samples
let grip = null; // whether the knob is held, or has been moved

// What is computed

/** The rates of the best linear code at a price; without a price they have no limit. */
const linearRates = beta => thresholds.map(t => beta > 0 ? Math.max(Math.log(t / beta) / 2, 0) : 0);

/** The numbers that the figure shows for a model; tests compare them with vaelib. */
figure.compute = k => ({
  "distortion": models[k].distortion,
  "rate": models[k].rate,
  "loss": models[k].distortion + betas[k] * models[k].rate,
  "alive": units[k].filter(nats => nats > data.alive).length,
  "mismatch": models[k].mismatch,
  ...Object.fromEntries(data.hidden.map(name => [name, models[k][name]])),
  "linear": linearRates(betas[k]),
});

// What is shown

const text = (name, value) => name === "alive" ? String(value)
  : data.hidden.includes(name) ? (predicted === null ? "?" : `${(100 * value).toFixed(0)} %`)
  : value.toFixed(name === "mismatch" ? 2 : 1).replace("-", "−");
const across = (frame, number) => frame.left
  + (number - frame.x_range[0]) / (frame.x_range[1] - frame.x_range[0]) * frame.width;
const up = (frame, number) => frame.top
  + (frame.y_range[1] - number) / (frame.y_range[1] - frame.y_range[0]) * frame.height;
const move = (name, x, y) => part(name).setAttribute("transform", `translate(${x} ${y})`);
const placeOfModel = k => [
  across(frames.plane, models[k].rate), up(frames.plane, models[k].distortion)];

function drawPlane(now) {
  const { plane } = frames, beta = betas[chosen], [x, y] = placeOfModel(chosen);
  const low = plane.y_range[0], right = plane.x_range[1];
  const rate = beta === 0 ? right : Math.min(right, (now.loss - low) / beta);
  const ends = [[0, now.loss], [rate, now.loss - beta * rate]]
    .map(([r, d]) => `${across(plane, r)} ${up(plane, d)}`);
  part("tangent").firstElementChild.setAttribute("d", `M${ends.join("L")}`);
  const level = up(plane, now.loss);
  move("intercept", plane.left, level);
  part("loss-label").firstElementChild.textContent =
    `meets the axis at ${text("loss", now.loss)}, the loss`;
  // The curve is convex: there is room above it, and at its right end only to the left.
  move("beta-label", x > plane.left + 0.78 * plane.width ? x - 84 : x, Math.max(y, plane.top + 24));
  part("beta-label").firstElementChild.textContent = `β = ${names[chosen]}`;
  move("handle", x, y);
}

function drawBars(kind, values) {
  const { units: frame } = frames, bottom = frame.top + frame.height;
  all(`.${kind}`).forEach((bar, i) => {
    const top = up(frame, Math.min(values[i] ?? 0, frame.y_range[1]));
    bar.setAttribute("y", top);
    bar.setAttribute("height", bottom - top);
    bar.setAttribute("visibility", values[i] > 0 ? "visible" : "hidden");
  });
}

function draw() {
  const now = figure.compute(chosen);
  drawPlane(now);
  drawBars("unit", units[chosen]);
  drawBars("theory", now.linear);
  move("now-line", across(frames.quality, chosen), 0);
  part("answer").setAttribute("visibility", predicted === null ? "hidden" : "visible");
  part("question").setAttribute("visibility", predicted === null ? "visible" : "hidden");
  for (const [name, value] of Object.entries(now)) {
    const place = figure.querySelector(`[data-number="${name}"]`);
    if (place) place.textContent = text(name, value);
  }
  figure.querySelector("button [data-number]").textContent = names[chosen];
  for (const [row, strips] of Object.entries(data.strips)) {
    const image = figure.querySelector(`[data-row="${row}"]`);
    image.src = strips[chosen];
    image.alt = image.alt.replace(/β = .*/, `β = ${names[chosen]}`);
  }
  radios[chosen].checked = true;
}

/** Say the numbers once a change is over. */
function say() {
  const now = figure.compute(chosen);
  summary.textContent = `Price ${names[chosen]}: distortion ${text("distortion", now.distortion)}, `
    + `rate ${text("rate", now.rate)}, loss ${text("loss", now.loss)} nats, `
    + `${now.alive} units over ${data.alive} nats`;
}

function choose(k) {
  if (k === chosen) return;
  chosen = k;
  draw();
}

// What readers do

radios.forEach((radio, k) => radio.addEventListener("change", () => { choose(k); say(); }));

button.addEventListener("click", () => {
  predicted = chosen;
  const shares = models.map(model => model["prior-coverage"]);
  const best = shares.indexOf(Math.max(...shares));
  const said = text("prior-coverage", shares[predicted]);
  part("price-answer").textContent = predicted === best
    ? `Right: at β = ${names[best]} they cover the most, ${said}. See the curve, and the numbers.`
    : `At β = ${names[predicted]} they cover ${said}; the most, `
      + `${text("prior-coverage", shares[best])}, at β = ${names[best]}. See the curve.`;
  part("price-prediction").hidden = true;
  draw();
  radios[chosen].focus(); // the button is gone
});

/** Where a pointer is in the picture, in its own units. */
function placeOf(event) {
  const place = new DOMPoint(event.clientX, event.clientY);
  return place.matrixTransform(picture.getScreenCTM().inverse());
}

/** The models nearest to a pointer: several, where they lie on one another. */
function under(event) {
  const place = placeOf(event);
  const far = names.map((_, k) => {
    const [x, y] = placeOfModel(k);
    return Math.hypot(x - place.x, y - place.y);
  });
  return [...far.keys()].filter(k => far[k] < Math.min(...far) + 6);
}

/** Choose the nearest model; of several the one after that which is chosen. */
function chooseAt(event) {
  const there = under(event);
  choose(there.find(k => k > chosen) ?? there[0]);
  say();
}

picture.addEventListener("click", event => {
  if (!handle.contains(event.target)) chooseAt(event);
});
handle.addEventListener("pointerdown", event => {
  grip = "held";
  handle.setPointerCapture(event.pointerId);
});
handle.addEventListener("pointermove", event => {
  if (grip === null) return;
  const there = under(event);
  if (there.includes(chosen)) return;
  grip = "moved";
  choose(there[0]);
});
handle.addEventListener("pointerup", event => {
  if (grip === "held") chooseAt(event); // a click on the knob
});
// A finger on the knob drags it; anywhere else it scrolls the page.
handle.addEventListener("touchstart", event => event.preventDefault(), { passive: false });
handle.addEventListener("lostpointercapture", () => { grip = null; say(); });

part("drawing").classList.remove("without-script"); // the still is where the figure begins
draw();
