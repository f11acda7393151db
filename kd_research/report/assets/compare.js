// Two sweeps: circles and a solid line for the first, diamonds and a dashed line for the second.
$("name").textContent = data.name;
$("subtitle").textContent = data.objectives.map(([name, way]) => `${way} ${name}`).join(", ");
$("made").textContent = data.made;
$("facts").append(...data.facts.map((fact) => element("li", fact)));

function fillTable(id, header, rows) {
  const line = (cells, tag) => {
    const row = document.createElement("tr");
    row.append(...cells.map((cell) => element(tag, cell)));
    return row;
  };
  document.querySelector(`#${id} thead`).append(line(header, "th"));
  document.querySelector(`#${id} tbody`).append(...rows.map((row) => line(row, "td")));
}
fillTable("joint", data.header, data.rows);
$("settings-section").hidden = data.settings.length === 0;
fillTable("settings", ["setting", ...data.sweeps.map((sweep) => sweep.name)], data.settings);

const shared = Object.keys(data.sweeps[0].mean).filter((name) => name in data.sweeps[1].mean);
const rangeOf = (name) => data.sweeps.flatMap((sweep) => sweep.mean[name]).filter((v) => v !== null);
function suggestLog(which) {
  const values = rangeOf($(which + "-axis").value);
  const positive = Math.min(...values) > 0;
  $(which + "-log").checked = positive && Math.max(...values) / Math.min(...values) > 8;
  $(which + "-log").disabled = !positive;
}

function drawFronts() {
  const [x, y] = [$("x-axis").value, $("y-axis").value];
  const colours = [colour("front"), colour("teacher")];
  const traces = data.sweeps.flatMap((sweep, side) => {
    const [xs, ys] = [sweep.mean[x], sweep.mean[y]];
    const text = sweep.number.map((number, i) => `<b>${escapeHtml(sweep.name)}, trial ${number}</b><br>${x} ${show(x, xs[i])}<br>`
      + `${y} ${show(y, ys[i])}<br><br>${sweep.settings[i].map(escapeHtml).join("<br>")}`);
    const members = sweep.number.map((_, i) => i).filter((i) => sweep.front[i]).sort((a, b) => xs[a] - xs[b]);
    const symbol = side ? "diamond" : "circle";
    const line = { color: colours[side], dash: side ? "dash" : "solid", width: 2, shape: data.directions[x] === "maximize" ? "vh" : "hv" };
    return [
      { type: "scatter", mode: "markers", name: `${sweep.name}, dominated`, x: xs, y: ys, text, hovertemplate: "%{text}<extra></extra>",
        marker: { color: colours[side], symbol, size: 6, opacity: 0.3 } },
      { type: "scatter", mode: data.objectives.length === 2 ? "lines+markers" : "markers", name: `${sweep.name}, front`, line,
        x: members.map((i) => xs[i]), y: members.map((i) => ys[i]), text: members.map((i) => text[i]),
        hovertemplate: "%{text}<extra></extra>", marker: { color: colours[side], symbol, size: 11, line: { color: colour("ground"), width: 1 } } },
    ];
  });
  const axis = (which, name) => ({ title: { text: name }, type: $(which + "-log").checked ? "log" : "linear",
    dtick: $(which + "-log").checked ? "D2" : undefined, tickformat: isFraction(name) ? ".1~%" : "~s" });
  Plotly.react("front", traces, chartLayout({ xaxis: axis("x", x), yaxis: axis("y", y),
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 } }), chartConfig("fronts"));
}

loadPlotly().then(() => {
  for (const which of ["x", "y"]) for (const name of shared) $(which + "-axis").append(new Option(name, name));
  const objectives = data.objectives.map(([name]) => name);
  $("y-axis").value = objectives.find((name) => data.directions[name] === "maximize") || objectives[0];
  $("x-axis").value = objectives.find((name) => name !== $("y-axis").value) || shared.find((name) => name !== $("y-axis").value);
  for (const which of ["x", "y"]) {
    suggestLog(which);
    $(which + "-axis").addEventListener("change", () => { suggestLog(which); drawFronts(); });
    $(which + "-log").addEventListener("change", drawFronts);
  }
  drawFronts();
  redraws.push(drawFronts);
  document.body.dataset.ready = "true";
}).catch((problem) => {
  $("front").replaceChildren(element("p", `No chart: ${problem}. The tables are complete.`, "waiting"));
  document.body.dataset.ready = "without charts";
});
