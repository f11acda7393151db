// What the sweep was made to say: the comparison of methods, a paper's ledger, answers.
function saidTable([header, ...rows]) {
  const isWord = (text) => /[a-z]{2}/i.test(text);
  const made = document.createElement("table");
  const words = header.map((_, k) => k === 0 || rows.some((row) => isWord(row[k] || "")));
  const line = (cells, tag) => {
    const row = element("tr");
    row.append(...cells.map((cell, k) => element(tag, cell, words[k] ? "text" : "")));
    return row;
  };
  made.createTHead().append(line(header, "th"));
  made.createTBody().append(...rows.map((row) => line(row, "td")));
  const scroll = element("div", undefined, "scroll");
  scroll.tabIndex = 0;
  scroll.append(made);
  return scroll;
}

for (const parts of data.said) {
  const section = element("section");
  parts.forEach((part, k) => {
    if (part.table) section.append(saidTable(part.table));
    else if (part.head) section.append(element(k ? "h3" : "h2", part.head));
    else if (part.code) section.append(element("pre", part.code));
    else section.append(element("p", part.text, "note"));
  });
  $("said").append(section);
}
