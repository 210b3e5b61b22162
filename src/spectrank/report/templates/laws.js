// The laws: a grid of verdicts over the steps, the course of one family, the table.
const LAWS = DATA.laws ?? { steps: [], families: [] };
const LAW = { chosen: 0 };
// Verdict to tone of the page and mark, best first.
const LAW_LOOKS = [["conserved", "✓", "good"], ["explained", "≈", "mid-low"], ["not_applicable", "–", "ghost"], ["broken", "✗", "warn"]];
const lawCode = (word) => {
  const at = LAW_LOOKS.findIndex(([name]) => name === word);
  return at < 0 ? (word ? 2 : null) : at;
};

function drawLawGrid() {
  const box = byId("law-grid");
  const { steps, families } = LAWS;
  const width = box.clientWidth;
  const longest = Math.max(...families.map(({ name }) => name.length), 1);
  const margin = { l: Math.min(longest * 6.4 + 14, width * 0.36), r: 8, t: 28, b: 44 };
  const cell = Math.max(4, Math.min(24, 620 / families.length));
  const { axis, layout } = baseLayout(box, families.length * cell + margin.t + margin.b, margin);
  const at = families.map((family) => new Map(family.steps.map((step, k) => [step, k])));
  const code = families.map((family, row) => steps.map((step) => (at[row].has(step) ? lawCode(family.verdicts[at[row].get(step)]) : null)));
  const room = (width - margin.l - margin.r) / steps.length;
  const fills = LAW_LOOKS.map(([, , tone]) => colour(tone));
  const every = Math.ceil(14 / cell);
  const shown = families.map((_, row) => row).filter((row) => row % every === 0);
  const limit = Math.floor((margin.l - 12) / 6.2);
  const short = (text) => (text.length > limit ? `…${text.slice(1 - limit)}` : text);
  Plotly.react(box, [{
    type: "heatmap", z: code, x: steps.map(String), y: families.map((_, row) => row), xgap: room > 6 ? 1 : 0, ygap: cell > 6 ? 1 : 0, zmin: -0.5, zmax: 3.5, showscale: false,
    colorscale: fills.flatMap((fill, k) => [[k / 4, fill], [(k + 1) / 4, fill]]), hoverinfo: "text", hoverongaps: false,
    text: families.map((family, row) => steps.map((step) => {
      const k = at[row].get(step);
      return k === undefined ? "" : `<b>${plain(family.name)}</b><br>step ${step}: ${plain(words(family.verdicts[k] ?? "no verdict"))}<br>${plain(family.reasons[k])}`;
    })),
  }], {
    ...layout, hovermode: "closest",
    shapes: [{ type: "rect", xref: "paper", yref: "y", x0: 0, x1: 1, y0: LAW.chosen - 0.5, y1: LAW.chosen + 0.5, fillcolor: "rgba(0,0,0,0)", line: { width: 1.5, color: colour("ink") } }],
    // A mark in each cell, where there is room: never a colour alone.
    annotations: room < 13 || cell < 13 ? [] : code.flatMap((row, y) => row.flatMap((value, x) => (value === null ? [] : [{
      x, y, text: LAW_LOOKS[value][1], showarrow: false, font: { size: 11, color: value === 1 || value === 2 ? colour("ink") : colour("paper") },
    }]))),
    xaxis: { ...axis, type: "category", showgrid: false, ticks: "", nticks: Math.max(2, Math.floor((width - margin.l) / 46)), title: { text: "step", standoff: 6, font: { size: 12, color: colour("muted") } } },
    yaxis: { ...axis, tickvals: shown, ticktext: shown.map((row) => plain(short(families[row].name))), range: [families.length - 0.5, -0.5], showgrid: false, ticks: "", fixedrange: true },
  }, MODEBAR);
  const present = LAW_LOOKS.map((_, k) => k).filter((k) => code.some((row) => row.includes(k)));
  drawLegend(byId("law-legend"), present.map((k) => `${LAW_LOOKS[k][1]} ${words(LAW_LOOKS[k][0])}`), present.map((k) => fills[k]));
}

function drawLawCourse() {
  const box = byId("law-course");
  const { steps, drift, explained, bound, verdicts, reasons, name } = LAWS.families[LAW.chosen];
  const { axis, layout } = baseLayout(box, 320, { l: 70, r: 14, t: 26, b: 46 });
  const numbers = [...drift, ...explained].filter((x) => x !== null);
  const band = steps.map((_, k) => (explained[k] === null || bound[k] === null ? null : [explained[k] - bound[k], explained[k] + bound[k]]));
  const known = steps.map((_, k) => k).filter((k) => band[k]);
  const hovertext = steps.map((step, k) => `step ${step}: ${plain(words(verdicts[k] ?? "no verdict"))}<br>drift ${format(drift[k])}, explained ${format(explained[k])}, rounding ${format(bound[k], 2)}`);
  const broken = steps.map((_, k) => k).filter((k) => verdicts[k] === "broken" && drift[k] !== null);
  const title = (text) => ({ text, standoff: 8, font: { size: 12, color: colour("muted") } });
  Plotly.react(box, [
    { type: "scatter", mode: "lines", hoverinfo: "skip", x: [...known, ...[...known].reverse()].map((k) => steps[k]), y: [...known.map((k) => band[k][0]), ...[...known].reverse().map((k) => band[k][1])], fill: "toself", fillcolor: colour("wash"), line: { width: 0 } },
    { type: "scatter", mode: "lines", hoverinfo: "skip", x: steps, y: explained, line: { color: colour("c1"), width: 4 } },
    { type: "scatter", mode: "lines+markers", x: steps, y: drift, hoverinfo: "text", hovertext, line: { color: colour("accent"), width: 1.6 }, marker: { size: 4 } },
    { type: "scatter", mode: "markers", x: broken.map((k) => steps[k]), y: broken.map((k) => drift[k]), hoverinfo: "skip", marker: { symbol: "x", size: 9, color: colour("warn") } },
  ], {
    ...layout, hovermode: "closest", xaxis: { ...axis, title: title("step") },
    yaxis: { ...axis, title: title("drift of the law"), zeroline: true, zerolinecolor: colour("rule"), exponentformat: "power", ...(numbers.length ? {} : { range: [-1, 1] }) },
  }, MODEBAR);
  byId("law-caption").textContent = numbers.length
    ? `${name}: thin, how far the law moved; thick behind it, how far the steps taken move it; the band is what rounding may add${broken.length ? "; a cross: broken" : ""}. Of the entry that the table names, which may change from step to step.`
    : `${name}: no numbers. ${reasons.at(-1) ?? ""}`;
}
function drawLaws() {
  drawLawGrid();
  drawLawCourse();
}
function chooseLaw(at) {
  LAW.chosen = at;
  byId("law").value = String(at);
  drawLaws();
}

function wireLaws() {
  const table = byId("law-table");
  sortMade(table);
  const rows = [...table.tBodies[0].rows];
  const text = rows.map((row) => row.textContent.toLowerCase());
  const [filter, wanted] = [byId("law-filter"), byId("law-verdict")];
  const draw = () => {
    const parts = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const [i, row] of rows.entries()) {
      row.hidden = !((!wanted?.value || row.dataset.verdict === wanted.value) && parts.every((word) => text[i].includes(word)));
    }
    byId("laws-shown").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} families`;
  };
  filter.addEventListener("input", draw);
  wanted?.addEventListener("change", draw);
  byId("law-controls").hidden = false;
  draw();
  if (!byId("law-grid")) return;
  byId("law").append(...LAWS.families.map(({ name }, at) => element("option", { value: at }, name)));
  const broken = LAWS.families.findIndex(({ verdicts }) => verdicts.includes("broken"));
  LAW.chosen = Math.max(0, broken);
  byId("law").value = String(LAW.chosen);
  byId("law").addEventListener("change", (event) => chooseLaw(Number(event.target.value)));
  drawLaws();
  byId("law-grid").on("plotly_click", (event) => chooseLaw(event.points[0].y));
}
