// q = N(mu, sigma²) over a posterior with two peaks: the sums of one_number.py, in the page.
const { x, shift, noise, choices, peaks, densities, nats } = data;
const RATE = 0.02, LONGEST = 0.1, FLAT = 1e-4; // of the climb, as in one_number.py
const STEPS_A_SECOND = 80; // of the climb, in the film
const LOG_ROOT = Math.log(2 * Math.PI) / 2;

const part = name => figure.querySelector(`.${name}`);
const [muSlider, sigmaSlider, drawsSlider] = figure.querySelectorAll("input");
const button = figure.querySelector("button");
const summary = part("where-q-summary");
const handle = part("handle");
const picture = handle.ownerSVGElement;
const still = matchMedia("(prefers-reduced-motion: reduce)");

let [mu, sigma, draws] = data.start;
let walk = null; // the path that q is walking, and when it began
let grip = null; // from the pointer to the peak of q, while it is dragged

// What is computed

const grid = ([first, last, count]) => Float64Array.from(
  { length: count }, (_, i) => first + (last - first) * i / (count - 1));
const zs = grid(data.grids.z), us = grid(data.grids.u), vs = grid(data.grids.v);
const ss = vs.map(v => 16 * Math.sinh(v));
const ds = vs.map(v => 16 * Math.cosh(v) * (vs[1] - vs[0]));
const shares = us.map(u => Math.exp(-u * u / 2));
const whole = shares.reduce((sum, share) => sum + share);
shares.forEach((share, i) => { shares[i] = share / whole; });

const logNormal = (value, mean, sd) => -(((value - mean) / sd) ** 2) / 2 - Math.log(sd) - LOG_ROOT;
const f = z => (z + shift) ** 2 / 2;
const logLikelihood = z => logNormal(x, f(z), noise);
const logJoint = z => logNormal(z, 0, 1) + logLikelihood(z);
const logPx = Math.log(
  zs.reduce((sum, z) => sum + Math.exp(logJoint(z)), 0) * (zs[1] - zs[0]));

/** The mean under q of a function of z. */
function mean(mu, sigma, value) {
  let sum = 0;
  for (let i = 0; i < us.length; i++) sum += shares[i] * value(mu + sigma * us[i], us[i]);
  return sum;
}

const rate = (mu, sigma) => (mu ** 2 + sigma ** 2 - 1) / 2 - Math.log(sigma);
const distortion = (mu, sigma) => -mean(mu, sigma, logLikelihood);
const elbo = (mu, sigma) => -distortion(mu, sigma) - rate(mu, sigma);
const klToPosterior = (mu, sigma) =>
  mean(mu, sigma, z => logNormal(z, mu, sigma) - logJoint(z) + logPx);

/** The mean under q of exp(-t w) for every t, where w = p(z | x) / q(z): all that does not ask K. */
function oneDraw(mu, sigma) {
  const logWeights = us.map(u => {
    const z = mu + sigma * u;
    return logJoint(z) - logPx - logNormal(z, mu, sigma);
  });
  return ss.map(s => {
    let sum = 0;
    for (let i = 0; i < us.length; i++) {
      const y = s + logWeights[i];
      if (y < -40) sum += shares[i];
      else if (y < 6) sum += shares[i] * Math.exp(-Math.exp(y)); // beyond 6 it is 0
    }
    return sum;
  });
}

let latest = {}; // what oneDraw gave for the latest q
function importanceBound(mu, sigma, K) {
  if (latest.mu !== mu || latest.sigma !== sigma) {
    latest = { mu, sigma, means: oneDraw(mu, sigma) };
  }
  return latest.means.reduce(
    (sum, mean, i) => sum + ds[i] * (Math.exp(-K * Math.exp(ss[i])) - mean ** K), logPx);
}

/** Gradient ascent on the ELBO: [mu, sigma, ELBO] from the start to the end. */
function climb(mu, sigma) {
  const path = [];
  while (true) {
    const height = elbo(mu, sigma);
    path.push([mu, sigma, height]);
    const pull = z => (x - f(z)) / noise ** 2 * (z + shift); // d/dz log p(x | z)
    const across = mean(mu, sigma, pull) - mu;
    const along = mean(mu, sigma, (z, u) => pull(z) * sigma * u) - sigma ** 2 + 1; // by log sigma
    const steepness = Math.hypot(across, along);
    if (steepness < FLAT) return path;
    let step = Math.min(RATE, LONGEST / steepness);
    const after = () => [mu + step * across, sigma * Math.exp(step * along)];
    while (elbo(...after()) <= height) step /= 2;
    [mu, sigma] = after();
  }
}

// For tests: the numbers that the figure shows, and the path that its button follows.
figure.compute = (mu, sigma, K) => ({
  "distortion": distortion(mu, sigma),
  "rate": rate(mu, sigma),
  "elbo": elbo(mu, sigma),
  "kl": klToPosterior(mu, sigma),
  "log-px": logPx,
  "bound": importanceBound(mu, sigma, K),
});
figure.climb = climb;

// What is shown

const across = z =>
  densities.left + (z - densities.x_range[0]) / (densities.x_range[1] - densities.x_range[0])
  * densities.width;
const up = (frame, value) => frame.top + (frame.y_range[1] - value)
  / (frame.y_range[1] - frame.y_range[0]) * frame.height;
const bottom = nats.top + nats.height;
const text = value => (Math.round(100 * value) / 100 || 0).toFixed(2).replace("-", "−");
const move = (name, x, y) => part(name).setAttribute("transform", `translate(${x} ${y})`);
const peakOf = sigma => 1 / (sigma * Math.sqrt(2 * Math.PI));

function drawDensities() {
  const peak = peakOf(sigma);
  const points = Array.from({ length: 81 }, (_, i) => {
    const u = i / 10 - 4;
    const y = up(densities, peak * Math.exp(-u * u / 2));
    return `${across(mu + sigma * u).toFixed(2)} ${y.toFixed(2)}`;
  });
  for (const path of part("q").children) path.setAttribute("d", `M${points.join("L")}`);
  const height = Math.max(up(densities, peak), 12); // a narrow q leaves the picture
  move("handle", across(mu), height);
  // Labels of what stands still keep to the side where q is not, and that of q keeps off them.
  const side = mu < -shift ? 1 : 0;
  const outside = Math.abs(mu) > 2; // where there is no room further out
  move("q-label", across(mu) + ((side === 1) === outside ? 32 : -32), Math.max(height - 6, 10));
  move("posterior-label", across(peaks[side][0]), up(densities, peaks[side][1]));
  move("prior-label", across(data.besides[side]), densities.top + densities.height);
}

function drawBar(name, value) {
  const level = up(nats, value), left = data.bars[name];
  move(name, left, level);
  // The label hangs under its level, or stands on it where it would leave the picture.
  const top = level + data.room < bottom ? level + 4 : Math.min(level, bottom - 14) - data.room;
  move(`${name}-label`, left + data.barWidth / 2, top);
  part(`${name}-label`).lastElementChild.textContent = text(value);
  part(`${name}-below`).setAttribute("visibility", level > bottom ? "visible" : "hidden");
}

function drawNats(numbers) {
  drawBar("elbo", numbers["elbo"]);
  drawBar("bound", numbers["bound"]);
  const [, number] = part("bound-label").firstElementChild.children; // K, and its value
  number.textContent = ` = ${draws.toLocaleString("en")}`;
  const ceiling = up(nats, logPx), level = up(nats, numbers["elbo"]), at = data.gapAt;
  const end = level > bottom ? `V${bottom - 2}m-4 -7l4 7l4 -7` : `V${level}m-4 0h8`;
  part("gap").firstElementChild.setAttribute("d", `M${at - 4} ${ceiling}h8m-4 0${end}`);
  const middle = (ceiling + Math.min(level, bottom)) / 2;
  move("kl-label", at + 8, Math.max(middle, ceiling + 22));
  part("kl-label").lastElementChild.textContent = text(numbers["kl"]);
}

function draw() {
  const numbers = figure.compute(mu, sigma, draws);
  if (draws === 1) numbers["bound"] = numbers["elbo"]; // they differ by what the sums leave out
  drawDensities();
  drawNats(numbers);
  const texts = Object.entries(numbers).map(([name, value]) => [name, text(value)]);
  texts.push(["mu", text(mu)], ["sigma", text(sigma)], ["draws", draws.toLocaleString("en")]);
  for (const [name, value] of texts) {
    figure.querySelectorAll(`[data-number="${name}"]`).forEach(e => { e.textContent = value; });
  }
  muSlider.value = mu;
  sigmaSlider.value = Math.log(sigma);
  drawsSlider.value = choices.indexOf(draws);
  muSlider.setAttribute("aria-valuetext", text(mu));
  sigmaSlider.setAttribute("aria-valuetext", text(sigma));
  drawsSlider.setAttribute("aria-valuetext", String(draws));
}

/** Say the numbers once a change is over. */
function say() {
  const numbers = figure.compute(mu, sigma, draws);
  summary.textContent = `ELBO ${text(numbers["elbo"])}, KL ${text(numbers["kl"])} nats, `
    + `bound for K = ${draws}: ${text(numbers["bound"])}`;
}

// What readers do

function stroll(now) {
  if (walk === null) return;
  const step = still.matches ? Infinity : (now - walk.began) / 1000 * STEPS_A_SECOND;
  const last = walk.path.length - 1;
  [mu, sigma] = walk.path[Math.max(0, Math.min(Math.floor(step), last))];
  draw();
  if (step < last) requestAnimationFrame(stroll);
  else stop();
}

function start() {
  walk = { path: climb(mu, sigma), began: performance.now() };
  button.textContent = "Stop";
  requestAnimationFrame(stroll);
}

function stop() {
  walk = null;
  button.textContent = "Let it climb";
  say();
}

function halt() {
  if (walk !== null) stop();
}

button.addEventListener("click", () => walk === null ? start() : stop());
muSlider.addEventListener("input", () => { halt(); mu = Number(muSlider.value); draw(); });
sigmaSlider.addEventListener("input", () => {
  halt();
  sigma = Math.exp(Number(sigmaSlider.value));
  draw();
});
drawsSlider.addEventListener("input", () => { draws = choices[Number(drawsSlider.value)]; draw(); });
for (const slider of [muSlider, sigmaSlider, drawsSlider]) slider.addEventListener("change", say);

/** Where a pointer is in the picture, in its own units. */
function placeOf(event) {
  const place = new DOMPoint(event.clientX, event.clientY);
  return place.matrixTransform(picture.getScreenCTM().inverse());
}

handle.addEventListener("pointerdown", event => {
  halt();
  const place = placeOf(event);
  grip = { x: across(mu) - place.x, y: up(densities, peakOf(sigma)) - place.y };
  handle.setPointerCapture(event.pointerId);
});
handle.addEventListener("pointermove", event => {
  if (grip === null) return;
  const place = placeOf(event);
  const [low, high] = densities.x_range, clamp = (v, [a, b]) => Math.min(Math.max(v, a), b);
  const z = low + (place.x + grip.x - densities.left) / densities.width * (high - low);
  mu = clamp(z, [Number(muSlider.min), Number(muSlider.max)]);
  const floor = densities.top + densities.height;
  const peak = Math.max(floor - place.y - grip.y, 1) / densities.height * densities.y_range[1];
  sigma = clamp(1 / (peak * Math.sqrt(2 * Math.PI)), data.sigmas);
  draw();
});
// A finger on the dot drags q; anywhere else it scrolls the page. The property touch-action does
// this for whole pictures only, not for a part of an SVG.
handle.addEventListener("touchstart", event => event.preventDefault(), { passive: false });
handle.addEventListener("lostpointercapture", () => { grip = null; say(); });

part("drawing").classList.remove("without-script"); // the still is where the figure begins
draw();
