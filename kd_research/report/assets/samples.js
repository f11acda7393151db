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
