// A VAE in the page: what the reader draws is encoded, and decoded, while he draws.
const SIDE = 28, BOX = 20; // of an image of MNIST, and of the box that its digit fits
const PEN = 2.6; // width of a stroke in such an image, in pixels
const STEP = 0.01; // of the pad: a shorter way of the pointer is not followed
const DOT = 1 / 8; // of the pad: a smaller drawing is not enlarged any further

const pad = figure.querySelector(".draw-pad canvas");
const [clear, sample] = figure.querySelectorAll("button");
const choices = [...figure.querySelectorAll("input[type='radio']")];
const sliders = [...figure.querySelectorAll("input[type='range']")];
const stage = figure.querySelector(".draw-stage");
const [seenCanvas, meanCanvas, pointCanvas] = figure.querySelectorAll(".draw-pictures canvas");
const show = (name, text) => { figure.querySelector(`.draw-${name}`).textContent = text; };

const encoder = data.encoder.map(layerOf);
const decoder = data.decoder.map(layerOf);
const examples = data.examples.map(text => Float64Array.from(bytesOf(text), byte => byte / 255));

let strokes = []; // of the drawing: points [x, y] in units of the pad's side
let seen = null; // the 28x28 picture of a drawing or an example; null while the pad is empty
let q = null; // what the encoder says of it: { mu, sigma }
let z = [0, 0]; // the reader's point on the plane

// ---- The model

function bytesOf(text) {
  return Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
}

/** Whole numbers of a few bits, one after the other, the lowest bit first; 0 is in their middle. */
function wholeNumbers(text, bits) {
  const bytes = bytesOf(text);
  const zero = 2 ** (bits - 1) - 1;
  let held = 0, waiting = 0, next = 0;
  return Float32Array.from({ length: Math.floor(8 * bytes.length / bits) }, () => {
    for (; waiting < bits; waiting += 8) held |= bytes[next++] << waiting;
    const whole = held & (2 ** bits - 1);
    held >>>= bits;
    waiting -= bits;
    return whole - zero;
  });
}

function layerOf({ activation, bits, weights, scale, bias }) {
  const floats = text => new Float32Array(bytesOf(text).buffer);
  return {
    activation, weights: wholeNumbers(weights, bits), scale: floats(scale), bias: floats(bias),
  };
}

const activations = {
  none: x => x,
  relu: x => Math.max(x, 0),
  silu: x => x / (1 + Math.exp(-x)),
};

function run(network, x) {
  for (const { activation, weights, scale, bias } of network) {
    const input = x.map(activations[activation]);
    const output = new Float64Array(bias);
    for (let row = 0, k = 0; row < output.length; row++) {
      let sum = 0;
      for (let i = 0; i < input.length; i++) sum += weights[k++] * input[i];
      output[row] += scale[row] * sum;
    }
    x = output;
  }
  return x;
}

/** Pixels -> mean, standard deviation and log-variance of q(z | x), each two numbers. */
function encode(x) {
  const out = run(encoder, x);
  const logvar = [out[2], out[3]].map(value => Math.min(value, data.ceiling));
  return { mu: [out[0], out[1]], sigma: logvar.map(value => Math.exp(value / 2)), logvar };
}

const logitsAt = z => run(decoder, Float64Array.from(z));

/** A point of the plane -> pixels: the mean of p(x | z). */
function decode(z) {
  return logitsAt(z).map(logit => 1 / (1 + Math.exp(-logit)));
}

/** -log p(x | z) in nats. */
function distortionAt(x, z) {
  // log(1 + e^l) without an overflow
  const softplus = l => Math.max(l, 0) + Math.log1p(Math.exp(-Math.abs(l)));
  return logitsAt(z).reduce((sum, l, i) => sum + softplus(l) - x[i] * l, 0);
}

/** Rate and distortion of a picture in nats. The distortion is an expectation over q, by a
    Gauss-Hermite rule on both axes: no chance makes the number flicker. */
function score(x, { mu, sigma, logvar }) {
  const [points, weights] = data.quadrature;
  let distortion = 0;
  points.forEach((a, i) => points.forEach((b, j) => {
    const z = [mu[0] + sigma[0] * a, mu[1] + sigma[1] * b];
    distortion += weights[i] * weights[j] * distortionAt(x, z);
  }));
  const rate = [0, 1].reduce(
    (sum, d) => sum + 0.5 * (mu[d] ** 2 + sigma[d] ** 2 - 1 - logvar[d]), 0);
  return { rate, distortion };
}

// ---- A drawing as an image of MNIST

/** Strokes -> 28x28 pixels. The drawing is scaled to fit a box of 20x20 and drawn again with a pen
    of one width; whole pixels of shift bring its centre of mass to the middle, as in MNIST. */
function prepared(strokes) {
  const [xs, ys] = [0, 1].map(d => strokes.flat().map(point => point[d]));
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const extent = Math.max(Math.max(...xs) - left, Math.max(...ys) - top, DOT);
  const scale = (BOX - PEN) / extent;
  const lines = strokes.map(stroke =>
    stroke.map(([x, y]) => [(x - left) * scale + PEN / 2, (y - top) * scale + PEN / 2]));
  const segments = lines.flatMap(line =>
    line.length > 1 ? line.slice(1).map((end, i) => [line[i], end]) : [[line[0], line[0]]]);
  return centred(inked(segments));
}

/** How much of each pixel of the box is ink: a pen's width around the segments, soft by a pixel. */
function inked(segments) {
  return Float64Array.from({ length: BOX * BOX }, (_, i) => {
    const x = i % BOX + 0.5, y = Math.floor(i / BOX) + 0.5;
    let nearest = Infinity;
    for (const segment of segments) nearest = Math.min(nearest, distance(x, y, segment));
    return Math.min(Math.max(PEN / 2 - nearest + 0.5, 0), 1);
  });
}

function distance(x, y, [[x0, y0], [x1, y1]]) {
  const dx = x1 - x0, dy = y1 - y0;
  const along = ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy || 1);
  const t = Math.min(Math.max(along, 0), 1);
  return Math.hypot(x - x0 - t * dx, y - y0 - t * dy);
}

/** A box on black, with its centre of mass in the middle: up to half a pixel, in pixel 14. */
function centred(box) {
  let mass = 0, x = 0, y = 0;
  box.forEach((ink, i) => {
    mass += ink;
    x += ink * (i % BOX);
    y += ink * Math.floor(i / BOX);
  });
  const left = SIDE / 2 - Math.round(x / mass), top = SIDE / 2 - Math.round(y / mass);
  return Float64Array.from({ length: SIDE * SIDE }, (_, i) => {
    const column = i % SIDE - left, row = Math.floor(i / SIDE) - top;
    const within = Math.min(column, row) >= 0 && Math.max(column, row) < BOX;
    return within ? box[row * BOX + column] : 0;
  });
}

// ---- The page

function paint(canvas, pixels) {
  const image = new ImageData(SIDE, SIDE);
  pixels.forEach((grey, i) => image.data.set([255 * grey, 255 * grey, 255 * grey, 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function paintPad() {
  const pen = pad.getContext("2d");
  const side = pad.width;
  pen.fillStyle = "black";
  pen.fillRect(0, 0, side, side);
  if (!strokes.length && seen) {
    pen.imageSmoothingEnabled = false;
    pen.drawImage(seenCanvas, 0, 0, side, side);
  }
  pen.strokeStyle = "white";
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = PEN / SIDE * side;
  for (const stroke of strokes) {
    pen.beginPath();
    pen.moveTo(...stroke[0].map(v => v * side));
    for (const point of stroke) pen.lineTo(...point.map(v => v * side));
    pen.stroke();
  }
}

const signed = value => value.toFixed(2).replace("-", "−");
/** What lies beyond the plane is shown at its edge. */
const inside = value => Math.min(Math.max(value, -data.limit), data.limit);
const placeOf = z => [
  data.left + (z[0] + data.limit) / (2 * data.limit) * data.side,
  (data.limit - z[1]) / (2 * data.limit) * data.side,
];
const move = (selector, place) =>
  figure.querySelector(selector).setAttribute("transform", `translate(${place.join(" ")})`);

function resize(selector, perUnit) {
  figure.querySelectorAll(`${selector} ellipse`).forEach((ellipse, k) => {
    ellipse.setAttribute("rx", (k + 1) * q.sigma[0] * perUnit);
    ellipse.setAttribute("ry", (k + 1) * q.sigma[1] * perUnit);
  });
}

/** Show a picture, q and all that follows from them. */
function update() {
  seen = strokes.length ? prepared(strokes) : seen;
  figure.querySelector(".draw-parts").classList.toggle("draw-empty", !seen);
  sample.disabled = !seen;
  figure.querySelector(".draw-dots").replaceChildren();
  const black = new Float64Array(SIDE * SIDE);
  paint(seenCanvas, seen ?? black);
  paintPad();
  q = seen && encode(seen);
  paint(meanCanvas, q ? decode(q.mu) : black);
  if (!q) {
    for (const name of ["mu", "rate", "distortion", "loss", "zoom"]) show(name, "–");
    return;
  }
  const { rate, distortion } = score(seen, q);
  move(".draw-q", placeOf(q.mu.map(inside)));
  resize(".draw-q", data.side / (2 * data.limit));
  resize(".draw-ellipse", data.lens / lensWidth());
  show("zoom", (2 * data.limit / lensWidth()).toFixed(0));
  show("mu", `(${q.mu.map(signed).join(", ")})`);
  show("rate", rate.toFixed(1));
  show("distortion", distortion.toFixed(1));
  show("loss", (rate + distortion).toFixed(1));
}

/** The side of the lens on the plane: three standard deviations to each side. */
const lensWidth = () => 6 * Math.max(...q.sigma);

/** Say the numbers to who does not see them: when a stroke ends, not while it grows. */
function say() {
  const text = name => figure.querySelector(`.draw-${name}`).textContent;
  show("said", q ? `Code ${text("mu")}. Rate ${text("rate")}, distortion ${text("distortion")}, ` +
    `−ELBO ${text("loss")} nats.` : "The pad is empty.");
}

function goTo(point) {
  z = point.map(inside);
  sliders.forEach((slider, d) => {
    slider.value = z[d];
    slider.setAttribute("aria-valuetext", signed(z[d]));
    show(`z${d + 1}`, signed(z[d]));
  });
  move(".draw-z", placeOf(z));
  paint(pointCanvas, decode(z));
}

/** At most one call for each picture of the screen, with the latest argument. */
function calmly(act) {
  let latest, waits = false;
  return argument => {
    latest = argument;
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => { waits = false; act(latest); });
  };
}

const updateSoon = calmly(update);
const goToSoon = calmly(goTo);

/** Where a pointer is, in units of an element's sides. */
function placeIn(element, event) {
  const { left, top, width, height } = element.getBoundingClientRect();
  return [(event.clientX - left) / width, (event.clientY - top) / height];
}

pad.addEventListener("pointerdown", event => {
  if (!event.isPrimary || event.button) return;
  pad.setPointerCapture(event.pointerId);
  choices.forEach(choice => { choice.checked = false; });
  strokes.push([placeIn(pad, event)]);
  updateSoon();
});
pad.addEventListener("pointermove", event => {
  if (!event.isPrimary || !pad.hasPointerCapture(event.pointerId)) return;
  const stroke = strokes.at(-1), place = placeIn(pad, event);
  if (Math.hypot(place[0] - stroke.at(-1)[0], place[1] - stroke.at(-1)[1]) < STEP) return;
  stroke.push(place);
  updateSoon();
});
pad.addEventListener("lostpointercapture", () => {
  update();
  say();
});

clear.addEventListener("click", () => {
  choices.forEach(choice => { choice.checked = false; });
  strokes = [];
  seen = null;
  update();
  say();
});
choices.forEach((choice, i) => choice.addEventListener("change", () => {
  strokes = [];
  seen = examples[i];
  update();
  say();
}));

function follow(event) {
  const svg = stage.querySelector("svg");
  const [x, y] = placeIn(svg, event).map((v, d) => v * svg.viewBox.baseVal[["width", "height"][d]]);
  goToSoon([
    ((x - data.left) / data.side * 2 - 1) * data.limit,
    (1 - y / data.side * 2) * data.limit,
  ]);
}
stage.addEventListener("pointerdown", follow);
stage.addEventListener("pointermove", follow);
for (const slider of sliders) {
  slider.addEventListener("input", () => goTo(sliders.map(slider => Number(slider.value))));
}

/** Two draws of a standard normal (Box and Muller 1958). */
function noise() {
  const radius = Math.sqrt(-2 * Math.log(1 - Math.random()));
  const angle = 2 * Math.PI * Math.random();
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}

sample.addEventListener("click", () => {
  const epsilon = noise();
  goTo(q.mu.map((mu, d) => mu + q.sigma[d] * epsilon[d]));
  const dot = document.createElementNS(stage.querySelector("svg").namespaceURI, "circle");
  const [x, y] = z.map((value, d) => (value - q.mu[d]) / lensWidth() * data.lens);
  dot.setAttribute("cx", data.lens / 2 + x);
  dot.setAttribute("cy", data.lens / 2 - y);
  dot.setAttribute("r", 2);
  figure.querySelector(".draw-dots").append(dot);
});

seen = examples[0];
choices[0].checked = true; // a reloaded page may remember another choice
update();
goTo(z);

// For tests: the model of the page, and the picture that it is asked about.
figure.model = { encode, decode, score, picture: () => seen };
