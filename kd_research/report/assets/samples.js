// What student and teacher of a language model write, side by side, of the trial that is chosen.
const withSamples = Object.keys(data.evaluations).filter((number) => data.evaluations[number].samples);

function drawSamples() {
  const rows = data.evaluations[$("samples-trial").value].samples.map((sample) => {
    const row = element("tr", "");
    for (const name of ["prompt", "student", "teacher", "text"]) row.append(element("td", sample[name] ?? "–", "sample"));
    return row;
  });
  document.querySelector("#samples tbody").replaceChildren(...rows);
}

$("samples-section").hidden = !withSamples.length;
if (withSamples.length) {
  for (const number of withSamples) $("samples-trial").append(new Option(number, number));
  $("samples-trial").addEventListener("change", drawSamples);
  onChoose.push((index) => {
    const number = String(trials.number[index]);
    if (withSamples.includes(number)) $("samples-trial").value = number;
    drawSamples();
  });
}

// The examples that student and teacher take for different classes.
const withDiffering = Object.keys(data.evaluations).filter((number) => data.evaluations[number].disagreements);

function drawDiffering() {
  const made = data.evaluations[$("differing-trial").value].disagreements.map((example) => {
    const figure = element("figure", undefined, example.image ? "" : "words");
    if (example.image) {
      const image = document.createElement("img");
      image.src = example.image;
      image.alt = `an example of class ${example.label}`;
      figure.append(image);
    } else {
      figure.append(element("blockquote", example.text ?? "–"));
    }
    const caption = element("figcaption");
    for (const who of ["student", "teacher"]) {
      if (example[who] === null) continue;
      const right = example[who] === example.label;
      caption.append(element("span", `${who}: ${example[who]} ${right ? "✓" : "✗"}`, right ? "" : "failed"));
    }
    caption.append(element("span", `label: ${example.label}`));
    figure.append(caption);
    return figure;
  });
  $("differing").replaceChildren(...made);
}

$("differing-section").hidden = !withDiffering.length;
if (withDiffering.length) {
  for (const number of withDiffering) $("differing-trial").append(new Option(number, number));
  $("differing-trial").addEventListener("change", drawDiffering);
  drawDiffering();
  onChoose.push((index) => {
    const number = String(trials.number[index]);
    if (withDiffering.includes(number)) $("differing-trial").value = number;
    drawDiffering();
  });
}
