// Everything below the front: hypervolume, importances, learning curves, reliability, parallel axes.
// Okabe and Ito's colours, apart for most kinds of colour blindness; patterns and dashes double them.
const palette = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];
const patterns = ["", "/", ".", "x", "-", "+"];
// The front comes last, so that its lines lie on top.
const done = every.filter((i) => trials.state[i] === "completed").sort((a, b) => trials.front[a] - trials.front[b]);
const indexOf = new Map(trials.number.map((number, i) => [number, i]));

function drawHistory() {
  const line = { color: colour("front"), width: 2, shape: "hv" };
  const box = data.hypervolume_share ? data.hypervolume / data.hypervolume_share : null;
  const trace = { type: "scatter", mode: "lines", x: trials.number, y: data.history.map((v) => (box ? v / box : v)), line,
    hovertemplate: `after trial %{x}: %{y:${box ? ".2%" : ".6~g"}}<extra></extra>` };
  Plotly.react("history", [trace], chartLayout({ showlegend: false, xaxis: { title: { text: "trial" } },
    yaxis: { title: { text: box ? "share of the reference box" : "hypervolume" }, tickformat: box ? ".1~%" : ".4~g" } }), chartConfig("hypervolume"));
}

function drawImportance() {
  const names = Object.keys(data.importances);
  const settings = [...new Set(names.flatMap((name) => Object.keys(data.importances[name].shares)))].reverse();
  const traces = names.map((name, k) => ({
    type: "bar", orientation: "h", name, y: settings.map(short),
    x: settings.map((setting) => data.importances[name].shares[setting] ?? null),
    error_x: { array: settings.map((setting) => data.importances[name].spreads[setting] ?? 0), color: colour("muted"), thickness: 1, width: 2 },
    marker: { color: palette[k % 6], pattern: { shape: patterns[k % 6], solidity: 0.25 } },
    hovertemplate: `${name}: %{x:.1%}<extra>%{y}</extra>`,
  }));
  Plotly.react("importance", traces, chartLayout({ barmode: "group", bargap: 0.25,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" },
    xaxis: { title: { text: "share of the explained variation" }, tickformat: ".0%", rangemode: "tozero" } }), chartConfig("importances"));
  $("importance-note").textContent = "Permutation importance in a random forest; how much the forest explains out of bag (R²): "
    + names.map((name) => `${name} ${data.importances[name].r2.toFixed(2)}`).join(", ") + ". Near 0, the bars mean nothing.";
}

// From blue over grey to yellow (cividis), along the front: as readable in grey as in colour.
function alongFront(share) {
  const stops = [[0, 34, 78], [60, 77, 110], [124, 123, 120], [187, 174, 109], [253, 234, 69]];
  const dark = document.documentElement.dataset.theme === "dark";
  const place = (dark ? 0.25 + 0.75 * share : 0.9 * share) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  const mix = stops[low].map((from, k) => Math.round(from + (place - low) * (stops[low + 1][k] - from)));
  return `rgb(${mix.join(",")})`;
}

function drawCurves() {
  const metric = $("curve-metric").value;
  const shown = data.curves.filter((entry) => entry.curves[metric]);
  const traces = shown.map((entry, k) => {
    const isChosen = trials.number[chosen] === entry.trial;
    return { type: "scatter", mode: "lines", name: `trial ${entry.trial}`, x: entry.curves[metric][0], y: entry.curves[metric][1],
      line: { color: isChosen ? colour("text") : alongFront(shown.length > 1 ? k / (shown.length - 1) : 0), width: isChosen ? 3.5 : 1.7 },
      hovertemplate: `trial ${entry.trial}, epoch %{x}: %{y${isFraction(metric) ? ":.2%" : ":.4~g"}}<extra></extra>` };
  });
  const teacher = data.teachers.length === 1 ? data.teachers[0][metric] : undefined;
  const shapes = teacher === undefined ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: teacher, y1: teacher,
    line: { color: colour("teacher"), width: 1.5, dash: "dash" } }];
  Plotly.react("curves", traces, chartLayout({ shapes, xaxis: { title: { text: "epoch" } }, legend: { font: { size: 11 } },
    yaxis: { title: { text: metric }, tickformat: tickFormat(metric, shown.flatMap((entry) => entry.curves[metric][1])) } }), chartConfig("curves"));
}

const FEW = 10; // examples of a bin: its accuracy is then off by a third as easily as not

function drawTuning() {
  const up = data.objectives[0][0];
  const traces = Object.entries(data.tuning).map(([name, values], k) => ({ type: "scatter", mode: "lines", name, x: values.map((_, i) => i + 1), y: values,
    line: { shape: "hv", width: 2, color: palette[k % 6], dash: ["solid", "dash", "dot", "dashdot"][Math.floor(k / 6) % 4] },
    hovertemplate: `${escapeHtml(name)}, after %{x} trials: %{y${isFraction(up) ? ":.2%" : ":.4~g"}}<extra></extra>` }));
  Plotly.react("tuning", traces, chartLayout({ xaxis: { title: { text: "tuning trials" } }, yaxis: { title: { text: "best " + up },
    tickformat: tickFormat(up, Object.values(data.tuning).flat()) } }), chartConfig("tuning"));
}

function drawReliability() {
  const { student, teacher } = data.evaluations[$("reliability-trial").value];
  const found = teacher ? { student, teacher } : { student };
  const most = Math.max(...Object.values(found).flatMap((bins) => bins.count));
  const traces = Object.entries(found).map(([who, bins]) => ({
    type: "scatter", mode: "lines+markers", name: who, x: bins.confidence, y: bins.accuracy, customdata: bins.count,
    line: { color: colour(who === "teacher" ? "teacher" : "front"), width: 1.5, dash: who === "teacher" ? "dash" : "solid" },
    marker: { symbol: bins.count.map((n) => (who === "teacher" ? "star" : "circle") + (n < FEW ? "-open" : "")), size: bins.count.map((n) => 6 + 14 * Math.sqrt(n / most)) },
    hovertemplate: `${who}: confidence %{x:.1%}, accuracy %{y:.1%}, %{customdata} examples<extra></extra>`,
  }));
  const axis = (text) => ({ title: { text }, range: [-0.03, 1.05], tickformat: ".0%" });
  Plotly.react("reliability", traces, chartLayout({ xaxis: axis("confidence"), yaxis: axis("accuracy"),
    shapes: [{ type: "line", x0: 0, y0: 0, x1: 1, y1: 1, line: { color: colour("muted"), dash: "dot", width: 1.5 } }] }), chartConfig("reliability"));
}

// An axis of parallel coordinates: numbers (by their logarithm where they span decades) or words.
function parallelAxis(name) {
  const values = done.map((i) => valueOf(name, i));
  const label = data.params.includes(name) ? short(name) : name;
  const known = values.filter((v) => v !== null && v !== undefined);
  if (known.length < done.length || known.some((v) => typeof v !== "number")) {
    const words = [...new Set(values.map(String))].sort();
    return { label, values: values.map((v) => words.indexOf(String(v))), tickvals: words.map((_, k) => k), ticktext: words };
  }
  const distinct = [...new Set(known)].sort((a, b) => a - b);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const searched = data.params.includes(name) && data.searched[name] !== undefined;
  if (low > 0 && high > low && (searched ? isLog(name) : high / low > 8)) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (const step of [1, 2, 5]) ticks.push(step * 10 ** power);
    }
    const apart = distinct.every((v, k) => k === 0 || Math.log(v / distinct[k - 1]) >= Math.log(high / low) / 16);
    const inside = distinct.length <= 8 && apart ? distinct : ticks.filter((tick) => tick >= low && tick <= high);
    return { label, values: values.map(Math.log10), tickvals: inside.map(Math.log10), ticktext: inside.map((tick) => show(label, tick)) };
  }
  const apart = distinct.every((v, k) => k === 0 || v - distinct[k - 1] >= (high - low) / 16); // labels do not meet
  const few = distinct.length <= 8 && apart ? { tickvals: distinct, ticktext: distinct.map((v) => show(name, v)) } : {};
  return { label, values, tickformat: isFraction(name) ? ".1~%" : ".3~g", ...few };
}

function drawParallel() {
  if (!hasWebGL) {
    $("parallel").replaceChildren(element("p", "This chart needs WebGL, which this browser does not have.", "waiting"));
    return;
  }
  const names = [...data.params, ...data.objectives.map(([name]) => name)];
  const grey = colour("other");
  const trace = { type: "parcoords", dimensions: names.map(parallelAxis), labelfont: { color: colour("text") },
    tickfont: { color: colour("text"), size: 11 }, rangefont: { color: "rgba(0,0,0,0)", size: 1 },
    line: { color: done.map((i) => (trials.front[i] ? 1 : 0)), cmin: 0, cmax: 1, colorscale: [[0, grey], [0.5, grey], [0.5, colour("front")], [1, colour("front")]] },
    unselected: { line: { color: colour("line"), opacity: 0.25 } } };
  Plotly.react("parallel", [trace], chartLayout({ margin: { l: 60, r: 60, t: 60, b: 30 } }), chartConfig("parallel"));
}

// A chart is drawn when it comes near the window: the page opens at once, however long it is.
const drawn = new Map();
const nearby = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((seen) => seen.isIntersecting)) {
    nearby.unobserve(entry.target);
    const draw = drawn.get(entry.target);
    draw();
    redraws.push(draw);
  }
}, { rootMargin: "300px" });

function startChart(id, there, draw) {
  $(id + "-section").hidden = !there;
  if (!there) return;
  drawn.set($(id), draw);
  nearby.observe($(id));
}

// For what the reader changes: a chart that was never near is drawn then.
const redraw = (draw) => redraws.includes(draw) && draw();

function startCharts() {
  const metrics = [...new Set(data.curves.flatMap((entry) => Object.keys(entry.curves)))];
  for (const name of metrics) $("curve-metric").append(new Option(name, name));
  $("curve-metric").value = ["val_accuracy", "val_loss"].find((name) => metrics.includes(name)) || metrics[0];
  const withBins = Object.keys(data.evaluations).filter((number) => data.evaluations[number].student);
  for (const number of withBins) $("reliability-trial").append(new Option(number, number));
  if (withBins.includes(String(trials.number[chosen]))) $("reliability-trial").value = String(trials.number[chosen]);
  startChart("tuning", Object.keys(data.tuning).length > 0, drawTuning);
  startChart("history", data.history.length > 1, drawHistory);
  startChart("importance", Object.keys(data.importances).length > 0, drawImportance);
  startChart("curves", metrics.length > 0, drawCurves);
  startChart("reliability", withBins.length > 0, drawReliability);
  startChart("parallel", data.params.length > 0 && done.length > 1, drawParallel);
  $("curve-metric").addEventListener("change", drawCurves);
  $("reliability-trial").addEventListener("change", drawReliability);
  onChoose.push((index) => {
    redraw(drawCurves);
    const number = String(trials.number[index]);
    if (withBins.includes(number)) {
      $("reliability-trial").value = number;
      redraw(drawReliability);
    }
  });
}
