// The summary: numbers and plots, all computed by verl_multiattempt.metrics when the page was written.

const SVG = "http://www.w3.org/2000/svg";
const FRAME = {width: 340, height: 168, left: 44, right: 74, top: 10, bottom: 32};

function svg(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

/**
 * A line plot of shares. Series differ by colour, dashes, marker and a label at their end.
 * @param {{title: string, note: string, xLabel: string, series: {label: string, points: {x: number, y: number,
 *   hint: string}[]}[]}} plot
 */
function drawPlot({title, note, xLabel, series}) {
  const drawn = series.filter((one) => one.points.length);
  const {width, height, left, right, top, bottom} = FRAME;
  const xs = drawn.flatMap((one) => one.points.map((point) => point.x));
  const low = Math.min(...xs), high = Math.max(...xs);
  const atX = (x) => high === low ? (left + width - right) / 2 : left + 8 + (x - low) / (high - low) * (width - left - right - 16);
  const atY = (y) => height - bottom - y * (height - top - bottom);
  const root = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title + ". " + note});
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    root.append(svg("line", {class: "grid", x1: left, x2: width - right, y1: atY(share), y2: atY(share)}));
    root.append(svg("text", {class: "axis", x: left - 5, y: atY(share) + 4, "text-anchor": "end"}, 100 * share + " %"));
  }
  for (const x of ticks(low, high)) {
    root.append(svg("text", {class: "axis", x: atX(x), y: height - bottom + 17, "text-anchor": "middle"}, number(x)));
  }
  root.append(svg("text", {class: "axis", x: (left + width - right) / 2, y: height - 2, "text-anchor": "middle"}, xLabel));
  const labels = spread(drawn.map((one) => atY(one.points[one.points.length - 1].y)), 13, top + 4, height - bottom);
  drawn.forEach((one, index) => {
    const line = one.points.map((point) => atX(point.x).toFixed(1) + "," + atY(point.y).toFixed(1)).join(" ");
    root.append(svg("polyline", {class: `series s${index}`, points: line}));
    const every = Math.ceil(one.points.length / 12);
    one.points.forEach((point, i) => {
      const dot = marker(index, atX(point.x), atY(point.y), i % every === 0 || i === one.points.length - 1 ? 3.5 : 0);
      dot.append(svg("title", {}, point.hint));
      root.append(dot);
    });
    root.append(svg("text", {class: `s${index}`, x: atX(one.points[one.points.length - 1].x) + 8, y: labels[index] + 4}, one.label));
  });
  return element("figure", {}, element("figcaption", {}, title, element("small", {}, note)), root);
}

function marker(index, x, y, size) {
  const shape = {class: `dot s${index}`};
  if (index === 0) return svg("circle", {...shape, cx: x, cy: y, r: size});
  if (index === 1) return svg("rect", {...shape, x: x - size, y: y - size, width: 2 * size, height: 2 * size});
  return svg("polygon", {...shape, points: `${x},${y - size * 1.3} ${x + size * 1.2},${y + size} ${x - size * 1.2},${y + size}`});
}

/** At most seven round integers from low to high. */
function ticks(low, high) {
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
  const stride = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= rough) || 1;
  const found = [];
  for (let x = Math.ceil(low / stride) * stride; x <= high; x += stride) found.push(x);
  return found;
}

/** Positions moved apart to at least `gap` within [low, high], their order kept. */
function spread(positions, gap, low, high) {
  const order = positions.map((_, index) => index).sort((a, b) => positions[a] - positions[b]);
  const moved = positions.slice();
  let floor = low;
  for (const index of order) { moved[index] = Math.max(moved[index], floor); floor = moved[index] + gap; }
  let ceiling = high;
  for (const index of order.reverse()) { moved[index] = Math.min(moved[index], ceiling); ceiling = moved[index] - gap; }
  return moved;
}

function stepsText(first, last) { return first === last ? "step " + number(first) : `steps ${number(first)}–${number(last)}`; }

function drawSummary(name) {
  const split = INDEX.summary[name];
  for (const button of document.querySelectorAll("#splits button")) {
    button.setAttribute("aria-pressed", String(button.value === name));
  }
  const numbers = split.numbers.map(({label, key, value, unit}) => element("div", {title: key},
    element("dt", {}, label), element("dd", {}, unit === "share" ? percent(value) : number(value, 2))));
  document.getElementById("numbers").replaceChildren(...numbers);

  const byStep = (key, label) => ({label, points: split.by_step.filter((point) => key in point.values).map((point) => ({
    x: (point.first + point.last) / 2, y: point.values[key],
    hint: `${label}, ${stepsText(point.first, point.last)}: ${percent(point.values[key])} of ` +
      plural(point.counts[key], key === "repeat" || key === "refinement" ? "retried attempt" : "episode"),
  }))});
  const byAttempt = (key, label) => ({label, points: split.retries_by_k.filter((point) => key in point).map((point) => ({x: point.k, y: point[key],
    hint: `${label}, attempt ${point.k}: ${percent(point[key])} of ${plural(point.count, "retried attempt")}`}))});
  const pooled = split.steps_per_point > 1 ? `; a point is ${split.steps_per_point} steps` : "";
  const plots = [
    {
      title: "Accuracy at k", note: "solved within k attempts, of the episodes allowed k", xLabel: "k (attempts)",
      series: split.by_k.map(({first, last, points}) => ({
        label: stepsText(first, last).replace("steps ", ""),
        points: points.map(({k, share, count}) => ({x: k, y: share,
          hint: `k = ${k}, ${stepsText(first, last)}: ${percent(share)} of ${plural(count, "episode")}`})),
      })),
    },
    // Of a single step, as in an evaluation, there is no course to draw.
    ...(split.by_step.length > 1 ? [
      {title: "Accuracy by step", note: "solved within k attempts" + pooled, xLabel: "step",
        series: split.ks.map((k) => byStep("accuracy@" + k, "k = " + k))},
      {title: "Retries by step", note: "of the attempts after a wrong one" + pooled, xLabel: "step",
        series: [byStep("repeat", "repeat"), byStep("refinement", "correct")]},
    ] : [{title: "Retries by attempt", note: "of the k-th attempts, each after a wrong one", xLabel: "k (attempts)",
      series: [byAttempt("repeat", "repeat"), byAttempt("refinement", "correct")]}]),
  ];
  const drawable = plots.filter((plot) => plot.series.some((one) => one.points.length));
  document.getElementById("plots").replaceChildren(...drawable.map(drawPlot));
}

function startSummary() {
  const names = Object.keys(INDEX.summary);
  document.getElementById("headline").textContent = plain(INDEX.headline);
  const buttons = names.map((name) => {
    const button = element("button", {type: "button", value: name}, name);
    button.addEventListener("click", () => drawSummary(name));
    return button;
  });
  document.getElementById("splits").replaceChildren(...(names.length > 1 ? buttons : []));
  if (names.length) drawSummary(names[0]);
  if (window.matchMedia("(max-width: 820px)").matches) document.getElementById("summary").open = false;
}
