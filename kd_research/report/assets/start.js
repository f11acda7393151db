// The tables first: they need no chart, and are there even where the charts are not.
startTable();
const [bestOfFirst] = Object.values(data.best);
const firstChoice = bestOfFirst ? trials.number.indexOf(bestOfFirst.trial) : numTrials ? 0 : null;
if (firstChoice === null) $("chosen").hidden = true;
else choose(firstChoice);
loadPlotly().then(startFront).then(startCharts).then(() => { document.body.dataset.ready = "true"; }).catch((problem) => {
  $("front").replaceChildren(element("p", `No chart: ${problem}. The tables are complete.`, "waiting"));
  document.body.dataset.ready = "without charts";
});
