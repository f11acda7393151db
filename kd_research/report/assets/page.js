// The page of one sweep: its data, the cards, and the trial that the reader chose.
const trials = data.trials;
const numTrials = trials.number.length;
const every = [...Array(numTrials).keys()];
const short = (name) => {
  const last = name.split(".").pop();
  return data.params.filter((other) => other.split(".").pop() === last).length > 1 ? name : last;
};

// A value of a trial, whether a setting, a metric or a cost.
function valueOf(name, index) {
  const column = trials.mean[name] || trials.params[name];
  return column ? column[index] : null;
}
const stdOf = (name, index) => (trials.std[name] ? trials.std[name][index] : null);

$("name").textContent = data.name;
$("subtitle").textContent = data.objectives.map(([name, way]) => `${way} ${name}`).join(", ");
$("made").textContent = data.made;
$("gain").textContent = [data.gain, ...data.lent].filter(Boolean).map((said) => said[0].toUpperCase() + said.slice(1) + ".").join(" ");
for (const [name, value] of data.setup) {
  const line = element("div");
  line.append(element("dt", name), element("dd", value));
  $("setup").append(line);
}
const seeds = trials.n.filter((n) => n > 1);
const [fewest, most] = [Math.min(...seeds), Math.max(...seeds)];
$("plus-minus").textContent = Object.keys(trials.std).length
  ? `± and the bars are the standard deviation over the n seeds of a trial, n = ${fewest < most ? fewest + " to " : ""}${most}.` : "One seed a trial: no value here has a spread over seeds.";
const counts = Object.entries(data.counts).filter(([, number]) => number);
card("trials", data.n_trials ? `${numTrials} of ${data.n_trials}` : String(numTrials),
  counts.map(([state, number]) => `${number} ${state}`).join(", ") || "none yet");
// Trials of the front with the very same objectives, the trial itself among them.
const placeOf = (i) => data.objectives.map(([name]) => valueOf(name, i)).join();
const ties = (i) => every.filter((other) => trials.front[other] && placeOf(other) === placeOf(i));
const members = every.filter((i) => trials.front[i]);
const places = new Set(members.map(placeOf)).size;
card("on the front", String(members.length), places < members.length ? `non-dominated trials, at ${places} places` : "non-dominated trials");
for (const [name, entry] of Object.entries(data.best)) {
  card("best " + name, show(name, entry.value), "trial " + entry.trial);
}
const share = data.hypervolume_share;
card("hypervolume", data.hypervolume === null ? "–" : share === null ? String(+data.hypervolume.toPrecision(5)) : (100 * share).toFixed(1) + "%",
  data.hypervolume === null ? "no reference point was set"
    : (share === null ? "" : `of the reference box (${+data.hypervolume.toPrecision(5)}), `) + "up to " + Object.entries(data.reference_point).map(([n, v]) => `${n} ${show(n, v)}`).join(", "));
if (data.baseline) {
  const [first, ...rest] = data.objectives.map(([name]) => name);
  const value = (name) => show(name, data.baseline.mean[name], data.baseline.std[name]);
  card(`labels alone ${first}`, value(first), [...rest.map((name) => `${name} ${value(name)}`), `the student of trial ${data.baseline.of}`].join(", "));
}
for (const teacher of data.teachers.slice(0, 2)) {
  const [first, ...rest] = data.objectives.map(([name]) => name).filter((name) => name in teacher);
  if (first) {
    card("teacher " + first, show(first, teacher[first]),
      rest.map((name) => `${name} ${show(name, teacher[name])}`).join(", "));
  }
}

let chosen = null;
const onChoose = [];
function choose(index) {
  chosen = index;
  const names = data.values.filter((name) => valueOf(name, index) !== null);
  const main = [...data.objectives.map(([name]) => name), "test_accuracy", "teacher_agreement", "latency_ms"];
  $("chosen-title").textContent = `trial ${trials.number[index]}${trials.label[index] ? " " + trials.label[index] : ""}, `
    + trials.state[index] + (trials.front[index] ? ", on the front" : "")
    + (trials.front[index] && ties(index).length > 1 ? `, level with ${ties(index).filter((i) => i !== index).map((i) => trials.number[i]).join(", ")}` : "") + (trials.n[index] > 1 ? `, mean of ${trials.n[index]} seeds` : "");
  $("chosen-values").textContent = trials.error[index] || [...new Set(main)].filter((name) => names.includes(name))
    .map((name) => `${name} ${show(name, valueOf(name, index), stdOf(name, index))}`).join("   ");
  const intervals = Object.entries(data.evaluations[trials.number[index]]?.intervals || {});
  $("chosen-intervals").textContent = intervals.length ? "95 % intervals over the validation examples: "
    + intervals.map(([name, [low, high]]) => `${name} ${show(name, low)} to ${show(name, high)}`).join("   ") : "";
  $("chosen-settings").textContent = data.params.map((name) => `${name}=${trials.params[name][index]}`).join("  ");
  $("rerun").textContent = trials.rerun[index];
  $("folder").textContent = trials.directory[index];
  $("folder").href = trials.directory[index].split("/").map(encodeURIComponent).join("/") + "/";
  onChoose.forEach((listener) => listener(index));
}
$("sweep-command").hidden = !data.command;
$("command").textContent = data.command || "";
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const code = $(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch { // no clipboard permission: select the text, and the user copies it
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
