// The Pareto front on two axes of the reader's choice.
const numeric = [...data.values, ...data.params].filter((name) =>
  every.some((i) => typeof valueOf(name, i) === "number"));
const wayOf = (name) => data.directions[name];

const isLog = (name) => /\blog\b/.test(data.searched[name] || "");

function fillAxes() {
  for (const id of ["x-axis", "y-axis"]) {
    for (const name of numeric) $(id).append(new Option(name, name));
  }
  const objectives = data.objectives.map(([name]) => name).filter((name) => numeric.includes(name));
  const y = objectives.find((name) => wayOf(name) === "maximize") || objectives[0] || numeric[0];
  const x = objectives.find((name) => name !== y) || numeric.find((name) => name !== y) || y;
  $("x-axis").value = x;
  $("y-axis").value = y;
  suggestLog("x");
  suggestLog("y");
}

// A logarithmic axis where the values are positive and span more than a factor of eight.
function suggestLog(which) {
  const name = $(which + "-axis").value;
  if (data.searched[name] !== undefined && data.params.includes(name)) { // as it was searched
    $(which + "-log").checked = isLog(name);
    $(which + "-log").disabled = !isLog(name) && every.some((i) => valueOf(name, i) <= 0 && valueOf(name, i) !== null);
    return;
  }
  const found = every.map((i) => valueOf(name, i)).filter((v) => typeof v === "number");
  const positive = found.length > 0 && Math.min(...found) > 0;
  $(which + "-log").checked = positive && Math.max(...found) / Math.min(...found) > 8;
  $(which + "-log").disabled = !positive;
}

// The front of the two shown axes: sort by x, keep what improves y.
function staircase(x, y, indices) {
  const sx = wayOf(x) === "maximize" ? -1 : 1;
  const sy = wayOf(y) === "maximize" ? -1 : 1;
  const sorted = [...indices].sort((a, b) =>
    sx * (valueOf(x, a) - valueOf(x, b)) || sy * (valueOf(y, a) - valueOf(y, b)));
  const kept = [];
  let best = Infinity;
  for (const i of sorted) {
    const value = sy * valueOf(y, i);
    if (value < best) { kept.push(i); best = value; }
  }
  return kept;
}

function hoverText(i) {
  const label = trials.label[i] ? " " + escapeHtml(trials.label[i]) : "";
  const axes = [...new Set([...data.objectives.map(([name]) => name), $("x-axis").value, $("y-axis").value])];
  const lines = axes.filter((name) => data.values.includes(name))
    .map((name) => `${name}  <b>${show(name, valueOf(name, i), stdOf(name, i))}</b>`);
  const settings = data.params.map((name) => `${escapeHtml(name)} = ${escapeHtml(show("", trials.params[name][i]))}`);
  const seeds = trials.n[i] > 1 ? `mean of ${trials.n[i]} seeds<br>` : "";
  const level = trials.front[i] ? ties(i).filter((other) => other !== i).map((other) => trials.number[other]) : [];
  return `<b>trial ${trials.number[i]}</b>${label}${level.length ? ` (level with ${level.join(", ")})` : ""}<br>${lines.join("<br>")}<br>${seeds}<br>${settings.join("<br>")}`;
}

function frontTraces(x, y) {
  const shown = every.filter((i) => trials.state[i] === "completed"
    && typeof valueOf(x, i) === "number" && typeof valueOf(y, i) === "number");
  const trace = (name, indices, marker, more) => ({
    type: "scatter", mode: "markers", name, x: indices.map((i) => valueOf(x, i)),
    y: indices.map((i) => valueOf(y, i)), text: indices.map(hoverText), customdata: indices,
    hovertemplate: "%{text}<extra></extra>", marker, ...errorBars(x, y, indices, marker.color), ...more,
  });
  const front = shown.filter((i) => trials.front[i]);
  const rest = shown.filter((i) => !trials.front[i]);
  const traces = [];
  if ($("dominated").checked) {
    const many = rest.length > 1500 && hasWebGL;
    traces.push(trace("dominated", rest.filter((i) => !trials.undistilled[i]),
      { color: colour("other"), size: 8, opacity: 0.6 }, many ? { type: "scattergl" } : {}));
  }
  if (wayOf(x) && wayOf(y)) {
    const steps = staircase(x, y, shown);
    traces.push({ type: "scatter", mode: "lines", name: "best of these axes", hoverinfo: "skip",
      x: steps.map((i) => valueOf(x, i)), y: steps.map((i) => valueOf(y, i)), opacity: 0.6,
      line: { color: colour("front"), width: 2, shape: wayOf(x) === "maximize" ? "vh" : "hv" } });
  }
  const plain = shown.filter((i) => trials.undistilled[i] && ($("dominated").checked || trials.front[i]));
  const single = front.filter((i) => !trials.undistilled[i] && ties(i)[0] === i);
  traces.push(trace("on the sweep's front", single, { color: colour("front"), size: 11, line: { color: colour("ground"), width: 1 } },
    { mode: "markers+text", textposition: "top left", textfont: { color: colour("front") },
      texttemplate: single.map((i) => (ties(i).length > 1 ? `×${ties(i).length}` : "")) }));
  if (plain.length) {
    traces.push(trace("trial from labels alone", plain, { color: colour("plain"), size: 12, symbol: "diamond",
      opacity: plain.map((i) => (trials.front[i] ? 1 : 0.6)), line: { color: colour("ground"), width: 1 } }));
  }
  if (chosen !== null && shown.includes(chosen)) {
    traces.push(trace("chosen", [chosen], { color: "rgba(0,0,0,0)", size: 19,
      line: { color: colour("text"), width: 2.5 } }, { showlegend: false }));
  }
  return traces;
}

function errorBars(x, y, indices, color) {
  const bars = {};
  for (const [key, name] of [["error_x", x], ["error_y", y]]) {
    if (trials.std[name]) {
      bars[key] = { array: indices.map((i) => stdOf(name, i) || 0), color, thickness: 1, width: 3 };
    }
  }
  return bars;
}

function teacherMarks(x, y) {
  const traces = [];
  const shapes = [];
  if (!$("references").checked) return { traces, shapes };
  const color = colour("teacher");
  const line = { color, width: 1.5, dash: "dash" };
  for (const teacher of data.teachers.length <= 3 ? data.teachers : []) { // more lines would hide the trials
    if (x in teacher) shapes.push({ type: "line", yref: "paper", y0: 0, y1: 1, x0: teacher[x], x1: teacher[x], line });
    if (y in teacher) shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: teacher[y], y1: teacher[y], line });
  }
  const plain = data.baseline;
  if (plain && typeof plain.mean[x] === "number" && typeof plain.mean[y] === "number") {
    const bar = (name) => ({ array: [plain.std[name] || 0], color: colour("plain"), thickness: 1, width: 3 });
    traces.push({ type: "scatter", mode: "markers", name: "labels alone", x: [plain.mean[x]], y: [plain.mean[y]], error_x: bar(x), error_y: bar(y),
      marker: { color: colour("plain"), size: 14, symbol: "diamond-open", line: { width: 2.5 } },
      text: [`the student of trial ${plain.of}<br>` + [...new Set([x, y])].map((name) => `${name} ${show(name, plain.mean[name], plain.std[name])}`).join("<br>")],
      hovertemplate: "<b>labels alone</b><br>%{text}<extra></extra>" });
  }
  const shown = data.teachers.filter((teacher) => x in teacher && y in teacher);
  if (shown.length) {
    traces.push({ type: "scatter", mode: "markers", name: "teacher", x: shown.map((t) => t[x]), y: shown.map((t) => t[y]),
      marker: { color, size: 15, symbol: "star" }, text: shown.map((t) => `${x} ${show(x, t[x])}<br>${y} ${show(y, t[y])}`),
      hovertemplate: "<b>teacher</b><br>%{text}<extra></extra>" });
  }
  return { traces, shapes };
}

function drawFront() {
  const [x, y] = [$("x-axis").value, $("y-axis").value];
  const { traces, shapes } = teacherMarks(x, y);
  const axis = (which, name) => ({ title: { text: name + arrow(name) }, type: $(which + "-log").checked ? "log" : "linear",
    tickformat: tickFormat(name, every.map((i) => valueOf(name, i))), dtick: $(which + "-log").checked ? logTick(name) : undefined, exponentformat: "power", zeroline: false });
  const layout = chartLayout({ xaxis: axis("x", x), yaxis: axis("y", y), shapes,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, uirevision: [x, y, $("x-log").checked, $("y-log").checked].join() });
  Plotly.react("front", [...frontTraces(x, y), ...traces], layout, chartConfig("front"));
  const agree = data.objectives.length === 2 && data.objectives.every(([name]) => [x, y].includes(name));
  $("front-note").textContent = "Click a point or use the arrow keys to choose a trial; drag to zoom, double-click to see everything. "
    + (agree ? "" : "The filled points are the front of the sweep's own objectives; the line is the front of the axes shown.");
}
// 1, 2, 5 a decade, or the decades alone where there are many of them.
function logTick(name) {
  const found = every.map((i) => valueOf(name, i)).filter((v) => typeof v === "number");
  const most = innerWidth < 600 ? 8 : 1e4;
  return Math.max(...found, ...data.teachers.map((t) => t[name] || 0)) / Math.min(...found) > most ? 1 : "D2";
}
const arrow = (name) => ({ maximize: "  (more is better)", minimize: "  (less is better)" })[wayOf(name)] || "";

// The arrow keys choose the next trial of the front, in the order of the horizontal axis.
function walkFront(event) {
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
  const x = $("x-axis").value;
  const members = every.filter((i) => trials.front[i] && ties(i)[0] === i).sort((a, b) => valueOf(x, a) - valueOf(x, b) || a - b);
  if (!step || !members.length) return;
  event.preventDefault();
  const place = members.indexOf(trials.front[chosen] ? ties(chosen)[0] : chosen) + step;
  choose(members[Math.max(0, Math.min(members.length - 1, place))]);
}

function startFront() {
  fillAxes();
  drawFront();
  redraws.push(drawFront);
  onChoose.push(drawFront);
  for (const which of ["x", "y"]) {
    $(which + "-axis").addEventListener("change", () => { suggestLog(which); drawFront(); });
    $(which + "-log").addEventListener("change", drawFront);
  }
  for (const id of ["dominated", "references"]) $(id).addEventListener("change", drawFront);
  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", () => Plotly.downloadImage("front", { format: button.dataset.save, width: 1000, height: 620,
      scale: button.dataset.save === "png" ? 2 : 1, filename: `${data.name}-front` }));
  }
  $("front").addEventListener("keydown", walkFront);
  $("front").on("plotly_click", (event) => {
    if (event.points[0].customdata !== undefined) choose(event.points[0].customdata);
  });
}
