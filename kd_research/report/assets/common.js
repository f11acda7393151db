"use strict";
// What both pages share: formatting, theme, and how plotly.js is unpacked.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const isFraction = (name) => /accuracy|agreement|retention|rouge_l|exact_match/.test(name);

const thousands = new Intl.NumberFormat("en");
function show(name, value, std) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value !== "number") return String(value);
  const spread = std === null || std === undefined || (std === 0 && !isFraction(name)) ? "" : " ± ";
  if (isFraction(name)) {
    return (100 * value).toFixed(2) + (spread && spread + (100 * std).toFixed(2)) + "%";
  }
  const digits = Number.isInteger(value) ? thousands.format(value) : String(+value.toPrecision(4));
  return digits + (spread && spread + String(+std.toPrecision(2)));
}

// SI prefixes are for counts alone: a loss of 0.05 is not 50m.
function tickFormat(name, values) {
  if (isFraction(name)) return ".1~%";
  return values.every((v) => typeof v !== "number" || v === 0 || Math.abs(v) >= 100) ? "~s" : ".4~g";
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const escapeHtml = (text) => String(text).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const hasWebGL = Boolean(document.createElement("canvas").getContext("webgl"));
const redraws = []; // every chart, called again when the theme changes

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = theme === "dark" ? "Light" : "Dark";
  redraws.forEach((draw) => draw());
}
setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
$("theme").addEventListener("click", () =>
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));

function card(title, value, detail) {
  const made = element("div", undefined, "card");
  made.append(element("h3", title), element("strong", value), element("span", detail));
  $("cards").append(made);
}

// plotly.js travels compressed; the charts are drawn when it has been unpacked.
async function loadPlotly() {
  const packed = Uint8Array.from(atob($("plotly").textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function chartLayout(more) {
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), automargin: true,
    linecolor: colour("line"), tickcolor: colour("line") };
  const { xaxis, yaxis, ...rest } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: { color: colour("text"), family: getComputedStyle(document.body).fontFamily, size: 13 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: colour("text") },
    margin: { l: 70, r: 20, t: 30, b: 60 },
    hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("muted"), align: "left",
      font: { color: colour("text") } },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}
const chartConfig = (name) => ({ responsive: true, displaylogo: false, displayModeBar: innerWidth >= 600,
  modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d"],
  toImageButtonOptions: { format: "svg", filename: `${data.name}-${name}` } });
