// Triplets of a batch of codes, and their pull: what vaelib.triplet computes, in the page.
const { classes, scales, plane, curves } = data;

const part = name => figure.querySelector(`.${name}`);
const rule = figure.querySelector("select");
const sliders = Object.fromEntries(
  [...figure.querySelectorAll("input")].map(slider => [slider.name, slider]));
const button = figure.querySelector("button");
const summary = part("where-q-summary");
const handle = part("handle");
const picture = handle.ownerSVGElement;

let places, now; // the codes at scale 1, and what the controls say
let grip = null; // from the pointer to the code that it drags

// What is computed

const nearest = (candidates, d) => candidates.reduce((best, k) => d[k] < d[best] ? k : best);
const farthest = (candidates, d) => candidates.reduce((best, k) => d[k] > d[best] ? k : best);

/** All distances of a batch. */
const distances = z => z.map(([x, y]) => z.map(([u, v]) => Math.hypot(x - u, y - v)));

/** The triplets [a, p, n] that a rule picks. */
function mined(d, rule) {
  const found = [], index = d.map((_, k) => k);
  for (const a of index) {
    const positives = index.filter(k => k !== a && k % classes === a % classes);
    const negatives = index.filter(k => k % classes !== a % classes);
    if (rule === "batch-all") {
      for (const p of positives) for (const n of negatives) found.push([a, p, n]);
    } else if (rule === "semi-hard") {
      for (const p of positives) {
        const beyond = negatives.filter(n => d[a][n] > d[a][p]);
        found.push([a, p, beyond.length ? nearest(beyond, d[a]) : farthest(negatives, d[a])]);
      }
    } else {
      const p = (rule === "batch-hard" ? farthest : nearest)(positives, d[a]);
      found.push([a, p, nearest(negatives, d[a])]);
    }
  }
  return found;
}

const missing = (d, margin, [a, p, n]) => Math.max(0, d[a][p] - d[a][n] + margin);

/** Loss, triplets above 0, and gradient. Codes that coincide have none between them. */
function pulls(z, rule, margin) {
  const d = distances(z), triplets = mined(d, rule);
  const active = triplets.filter(t => missing(d, margin, t) > 0);
  const gradient = z.map(() => [0, 0]);
  for (const [a, p, n] of active) {
    for (const i of [0, 1]) {
      const to = k => d[a][k] > 0 ? (z[a][i] - z[k][i]) / d[a][k] / triplets.length : 0;
      gradient[a][i] += to(p) - to(n);
      gradient[p][i] -= to(p);
      gradient[n][i] += to(n);
    }
  }
  const loss = active.reduce((sum, t) => sum + missing(d, margin, t), 0) / triplets.length;
  return { d, loss, active, gradient };
}

const scaled = (places, scale) => places.map(([x, y]) => [scale * x, scale * y]);

function price(places, scale) {
  const moment = places.reduce((sum, [x, y]) => sum + x * x + y * y, 0) / places.length;
  return (scale ** 2 - 1) * moment / 2 - 2 * Math.log(scale);
}

/** The numbers that the figure shows; tests compare them with vaelib. */
figure.compute = (places, rule, margin, scale) => {
  const z = scaled(places, scale);
  const { d, loss, active, gradient } = pulls(z, rule, margin);
  const all = mined(d, "batch-all");
  const others = z.map((_, k) => z.map((_, j) => j).filter(j => j !== k));
  return {
    loss,
    active: active.length,
    pull: z.reduce((sum, [x, y], k) => sum + x * gradient[k][0] + y * gradient[k][1], 0),
    ordered: all.filter(([a, p, n]) => d[a][p] < d[a][n]).length / all.length,
    neighbours: others.filter((rest, k) => nearest(rest, d[k]) % classes === k % classes).length
      / z.length,
    price: price(places, scale),
  };
};
figure.gradient = (places, rule, margin, scale) =>
  pulls(scaled(places, scale), rule, margin).gradient;

// What is shown

const minus = text => text.replace("-", "−");
const TEXTS = {
  active: String,
  ordered: share => `${(100 * share).toFixed(0)} %`,
  neighbours: share => `${(100 * share).toFixed(0)} %`,
  batch: String,
  anchor: String,
};
const text = (name, value) =>
  (TEXTS[name] ?? (v => minus(v.toFixed(2).replace(/^-(?=0\.00$)/, ""))))(value);
const across = (frame, value) => frame.left
  + (value - frame.x_range[0]) / (frame.x_range[1] - frame.x_range[0]) * frame.width;
const up = (frame, value) => frame.top
  + (frame.y_range[1] - value) / (frame.y_range[1] - frame.y_range[0]) * frame.height;
const clamp = (value, [low, high]) => Math.min(Math.max(value, low), high);
const move = (name, x, y) => part(name).setAttribute("transform", `translate(${x} ${y})`);
const spot = ([x, y]) => [across(plane, x), up(plane, y)];

/** An arrow from the origin: a short one has no head, a long one is cut. */
function arrowPath(dx, dy) {
  const full = Math.hypot(dx, dy);
  if (full < 1) return "M0 0";
  const length = Math.min(full, data.longest), ux = dx / full, uy = dy / full;
  const x = length * ux, y = length * uy, head = Math.min(6, length / 2);
  const wing = side => `${(x - head * (ux + side * 0.6 * uy)).toFixed(1)} `
    + `${(y - head * (uy - side * 0.6 * ux)).toFixed(1)}`;
  return `M0 0L${x.toFixed(1)} ${y.toFixed(1)}M${wing(1)}L${x.toFixed(1)} ${y.toFixed(1)}`
    + `L${wing(-1)}`;
}

function drawPlane() {
  const z = scaled(places, now.scale), batch = z.slice(0, now.batch);
  const { active, gradient } = pulls(batch, now.rule, now.margin);
  const lines = { "mined-p": "", "mined-n": "", "mined-p-own": "", "mined-n-own": "" };
  for (const [a, p, n] of active) {
    const own = a === now.anchor - 1 ? "-own" : "";
    for (const [kind, end] of [["p", p], ["n", n]]) {
      const [[x0, y0], [x1, y1]] = [spot(z[a]), spot(z[end])];
      lines[`mined-${kind}${own}`] +=
        `M${x0.toFixed(1)} ${y0.toFixed(1)}L${x1.toFixed(1)} ${y1.toFixed(1)}`;
    }
  }
  for (const [name, path] of Object.entries(lines)) part(name).setAttribute("d", path || "M0 0");
  z.forEach((code, k) => {
    const inside = k < now.batch, [x, y] = spot(code);
    move(`code-${k}`, x, y);
    part(`code-${k}`).firstElementChild.setAttribute("fill-opacity", inside ? 1 : 0.25);
    move(`arrow-${k}`, x, y);
    const [gx, gy] = inside ? gradient[k] : [0, 0], much = -data.arrow * now.batch;
    part(`arrow-${k}`).firstElementChild.setAttribute("d", arrowPath(much * gx, -much * gy));
  });
  move("ring", ...spot(z[now.anchor - 1]));
}

function drawCurves() {
  const batch = places.slice(0, now.batch);
  const values = { // at a scale
    loss: c => pulls(scaled(batch, c), now.rule, now.margin).loss,
    price: c => price(batch, c),
  };
  for (const [name, value] of Object.entries(values)) {
    const points = Array.from({ length: 57 }, (_, i) => {
      const c = scales[0] + (scales[1] - scales[0]) * i / 56;
      return `${across(curves, c).toFixed(2)} ${up(curves, clamp(value(c), curves.y_range)).toFixed(2)}`;
    });
    part(`${name}-curve`).firstElementChild.setAttribute("d", `M${points.join("L")}`);
    move(`${name}-dot`, across(curves, now.scale),
      up(curves, clamp(value(now.scale), curves.y_range)));
  }
  move("loss-label", across(curves, 1.5), Math.max(up(curves, values.loss(1.5)), curves.top + 22));
}

function draw() {
  drawPlane();
  drawCurves();
  const numbers = figure.compute(places.slice(0, now.batch), now.rule, now.margin, now.scale);
  const { margin, scale, batch, anchor } = now;
  for (const [name, value] of Object.entries({ ...numbers, margin, scale, batch, anchor })) {
    figure.querySelectorAll(`[data-number="${name}"]`)
      .forEach(e => { e.textContent = text(name, value); });
  }
  rule.value = now.rule;
  sliders.anchor.max = batch;
  for (const [name, slider] of Object.entries(sliders)) {
    slider.value = now[name];
    slider.setAttribute("aria-valuetext", text(name, now[name]));
  }
}

/** Say the numbers once a change is over. */
function say() {
  const n = figure.compute(places.slice(0, now.batch), now.rule, now.margin, now.scale);
  summary.textContent = `${now.rule}: loss ${text("loss", n.loss)}, ${n.active} triplets above 0, `
    + `${text("ordered", n.ordered)} in order, price ${text("price", n.price)} nats`;
}

function restart() {
  places = data.places.map(place => [...place]);
  now = { ...data.start };
  draw();
}

// What readers do

rule.addEventListener("change", () => { now.rule = rule.value; draw(); say(); });
for (const [name, slider] of Object.entries(sliders)) {
  slider.addEventListener("input", () => {
    now[name] = Number(slider.value);
    now.anchor = Math.min(now.anchor, now.batch);
    draw();
  });
  slider.addEventListener("change", say);
}
button.addEventListener("click", () => { restart(); say(); });

/** Put the anchor's code to a place in the plane; what is stored is its place at scale 1. */
function put(x, y) {
  const edge = plane.x_range;
  places[now.anchor - 1] = [clamp(x, edge), clamp(y, edge)].map(v => v / now.scale);
  draw();
}

/** Where a pointer is in the picture, in its own units. */
function placeOf(event) {
  const place = new DOMPoint(event.clientX, event.clientY);
  return place.matrixTransform(picture.getScreenCTM().inverse());
}

/** The code of the batch under a pointer, and how far it is from its middle; or null. */
function codeAt(event) {
  const place = placeOf(event);
  const gaps = scaled(places, now.scale).slice(0, now.batch).map(code => {
    const [x, y] = spot(code);
    return [x - place.x, y - place.y];
  });
  const sizes = gaps.map(([x, y]) => Math.hypot(x, y));
  const k = nearest(sizes.map((_, i) => i), sizes);
  return sizes[k] < 22 ? { k, gap: gaps[k] } : null;
}

handle.addEventListener("pointerdown", event => {
  const found = codeAt(event);
  if (found === null) return;
  grip = found.gap;
  now.anchor = found.k + 1;
  handle.setPointerCapture(event.pointerId);
  draw();
});
handle.addEventListener("pointermove", event => {
  if (grip === null) return;
  const place = placeOf(event), width = plane.x_range[1] - plane.x_range[0];
  put(plane.x_range[0] + (place.x + grip[0] - plane.left) / plane.width * width,
    plane.y_range[1] - (place.y + grip[1] - plane.top) / plane.height * width);
});
// A finger on a code drags it; anywhere else it scrolls the page.
handle.addEventListener("touchstart", event => {
  if (codeAt(event.touches[0]) !== null) event.preventDefault();
}, { passive: false });
handle.addEventListener("lostpointercapture", () => { grip = null; say(); });

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
handle.addEventListener("keydown", event => {
  if (!(event.key in STEPS)) return;
  event.preventDefault();
  const [dx, dy] = STEPS[event.key], [x, y] = places[now.anchor - 1];
  put(now.scale * x + 0.1 * dx, now.scale * y + 0.1 * dy);
  say();
});

part("drawing").classList.remove("without-script"); // the still is where the figure begins
restart();
