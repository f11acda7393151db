// The table of all trials: sort, filter, download.
const PAGE_ROWS = 100;
const table = { sort: "trial", descending: false, all: false };

function tableColumns() {
  const main = data.objectives.map(([name]) => name);
  const usual = ["test_accuracy", "teacher_agreement"].filter((name) => data.values.includes(name));
  const values = $("all-columns").checked ? data.values : [...new Set([...main, ...usual])];
  const columns = [
    { name: "trial", get: (i) => trials.number[i],
      text: (i) => (trials.label[i] ? `${trials.number[i]} ${trials.label[i]}` : String(trials.number[i])) },
    { name: "state", get: (i) => trials.state[i], words: true },
  ];
  for (const name of values) {
    columns.push({ name, get: (i) => valueOf(name, i), text: (i) => show(name, valueOf(name, i), stdOf(name, i)) });
  }
  for (const name of data.params) {
    const words = every.some((i) => typeof trials.params[name][i] === "string");
    columns.push({ name, title: short(name), words, get: (i) => trials.params[name][i] });
  }
  if (trials.error.some(Boolean)) columns.push({ name: "error", get: (i) => trials.error[i], words: true });
  return columns;
}
const cellText = (column, i) => (column.text ? column.text(i) : show("", column.get(i)));

function shownRows(columns) {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = every.filter((i) => {
    if ($("only-front").checked && !trials.front[i]) return false;
    if (!words.length) return true;
    const text = columns.map((column) => cellText(column, i)).join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const column = columns.find((candidate) => candidate.name === table.sort) || columns[0];
  const way = table.descending ? -1 : 1;
  const rank = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  return rows.sort((i, j) => {
    const [a, b] = [column.get(i), column.get(j)];
    const missing = (a === null || a === undefined) - (b === null || b === undefined);
    return missing || way * rank(a, b) || i - j; // what was not measured comes last, either way
  });
}

function drawHead(columns) {
  const row = document.createElement("tr");
  for (const column of columns) {
    const cell = element("th", undefined, column.words ? "text" : "");
    cell.scope = "col";
    const sorted = column.name === table.sort;
    cell.setAttribute("aria-sort", sorted ? (table.descending ? "descending" : "ascending") : "none");
    const mark = sorted ? (table.descending ? " ▼" : " ▲") : "";
    const button = element("button", (column.title || column.name) + mark);
    button.type = "button";
    button.title = column.name;
    button.dataset.column = column.name;
    button.addEventListener("click", () => {
      table.descending = column.name === table.sort ? !table.descending : wayOf(column.name) === "maximize";
      table.sort = column.name;
      drawTable();
      document.querySelector(`[data-column="${CSS.escape(column.name)}"]`).focus();
    });
    cell.append(button);
    row.append(cell);
  }
  document.querySelector("#trials thead").replaceChildren(row);
}

// The references below the trials: the student from labels alone, and the teachers.
function drawReferences(columns) {
  const { baseline, teachers } = data;
  const rows = teachers.slice(0, 3).map((teacher) => ["teacher", "", (name) => show(name, teacher[name])]);
  if (baseline) {
    rows.unshift(["labels alone", `student of trial ${baseline.of}`, (name) => (name in baseline.mean
      ? show(name, baseline.mean[name], baseline.std[name]) : show(name, baseline.params[name]))]);
  }
  document.querySelector("#trials tfoot").replaceChildren(...rows.map(([who, state, text]) => {
    const row = element("tr");
    for (const column of columns) {
      const own = { trial: who, state, error: "" }[column.name];
      row.append(element("td", own ?? text(column.name), column.words ? "text" : ""));
    }
    return row;
  }));
}

function drawTable() {
  const columns = tableColumns();
  drawHead(columns);
  drawReferences(columns);
  const rows = shownRows(columns);
  const some = table.all ? rows : rows.slice(0, PAGE_ROWS);
  document.querySelector("#trials tbody").replaceChildren(...some.map((i) => {
    const row = element("tr", undefined, (trials.front[i] ? "front " : "") + (i === chosen ? "chosen" : ""));
    row.dataset.index = i;
    for (const column of columns) {
      const cell = element("td", cellText(column, i), column.words ? "text" : "");
      if (column.name === "state" || column.name === "error") cell.classList.toggle("failed", trials.state[i] === "failed");
      if (column.name === "error") cell.title = trials.error[i] || "";
      row.append(cell);
    }
    row.firstChild.tabIndex = 0;
    return row;
  }));
  $("more").hidden = some.length === rows.length;
  $("shown").textContent = `${rows.length} of ${numTrials} trials`;
}

function downloadCsv() {
  const columns = tableColumns();
  const quote = (value) => (/[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value ?? ""));
  const lines = [columns.map((column) => quote(column.name)).join(",")];
  for (const i of shownRows(columns)) lines.push(columns.map((column) => quote(column.get(i) ?? "")).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = data.name + "-trials.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

function startTable() {
  drawTable();
  $("filter").addEventListener("input", drawTable);
  for (const id of ["only-front", "all-columns"]) $(id).addEventListener("change", drawTable);
  $("more").addEventListener("click", () => { table.all = true; drawTable(); });
  $("download").addEventListener("click", downloadCsv);
  const body = document.querySelector("#trials tbody");
  const pick = (event) => {
    const row = event.target.closest("tr");
    if (row) choose(Number(row.dataset.index));
  };
  body.addEventListener("click", pick);
  body.addEventListener("keydown", (event) => { if (event.key === "Enter") pick(event); });
  onChoose.push((index) => {
    for (const row of body.children) row.classList.toggle("chosen", Number(row.dataset.index) === index);
  });
}
