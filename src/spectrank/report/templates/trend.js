// A trend: a metric of every matrix over the steps, and who changed.
const TREND = { metric: 0, log: false, lines: [] };
// One line for each matrix and run, its points by rising step.
const LINES = COURSE !== "trend" ? [] : COURSES.flatMap((members) => {
  const runs = new Map();
  for (const i of members) {
    if (MATRICES[i].step === null) continue;
    if (!runs.has(MATRICES[i].run)) runs.set(MATRICES[i].run, []);
    runs.get(MATRICES[i].run).push(i);
  }
  return [...runs.values()].map((points) => points.sort((a, b) => MATRICES[a].step - MATRICES[b].step));
});
const STEPS = [...new Set(LINES.flat().map((i) => MATRICES[i].step))].sort((a, b) => a - b);
const TRENDING = METRICS.slice(0, NUM_PLAIN).map((_, column) => column)
  .filter((column) => LINES.some((line) => line.filter((i) => CELLS[column][i]).length > 1));
TREND.metric = TRENDING.find((column) => METRICS[column].metric === "stable_rank") ?? TRENDING[0] ?? 0;
const trendValue = (i) => {
  const x = valueAt(TREND.metric, i);
  return x === null || (TREND.log && !(x > 0)) ? null : x;
};
const lineName = (line) => [MATRICES[line[0]].short, MATRICES[line[0]].run].filter((part) => part !== null).join(" · ");

function drawTrendLines() {
  const box = byId("trend-lines");
  const { names, of } = groups(VIEW.colourBy);
  const fill = groupFill();
  const { axis, layout } = baseLayout(box, Math.min(460, Math.max(320, box.clientWidth * 0.42)), { l: 70, r: 14, t: 26, b: 48 });
  const marks = STEPS.length <= 40;
  const trace = (lines, style) => {
    const points = lines.flatMap((line) => [...line, null]);
    return {
      type: "scatter", mode: marks ? "lines+markers" : "lines", x: points.map((i) => (i === null ? null : MATRICES[i].step)), y: points.map((i) => (i === null ? null : trendValue(i))),
      customdata: points, hoverinfo: "text", hovertext: points.map((i) => (i === null ? "" : hover(i, TREND.metric, [`step ${MATRICES[i].step}`]))), connectgaps: false, ...style,
    };
  };
  const traces = names.map((name, group) => trace(LINES.filter((line) => of[line[0]] === group), {
    opacity: 0.75, line: { color: fill(name, group), width: 1.3 }, marker: { size: 3.5, color: fill(name, group) },
  }));
  const chosen = LINES.filter((line) => line.includes(VIEW.selected));
  traces.push(trace(chosen, { line: { color: colour("ink"), width: 3 }, marker: { size: 6, color: colour("ink") } }));
  const { label } = METRICS[TREND.metric];
  const title = (text) => ({ text, standoff: 8, font: { size: 12, color: colour("muted") } });
  Plotly.react(box, traces, {
    ...layout, hovermode: "closest", xaxis: { ...axis, title: title("step") },
    yaxis: { ...axis, title: title(plain(label)), type: TREND.log ? "log" : "linear", rangemode: "tozero", ...(TREND.log ? logTicks(LINES.flat().map(trendValue)) : {}) },
  }, MODEBAR);
  drawLegend(byId("trend-legend"), names, names.map(fill), 2);
  byId("trend-caption").textContent = `${label} of each matrix over the steps${chosen.length ? `; black: ${lineName(chosen[0])}` : ""}. Click a line for its ${DETAIL} at that step.`;
}

// Change since the first step: doublings where all is positive, else the difference.
function changes() {
  const first = LINES.map((line) => line.map((i) => valueAt(TREND.metric, i)).find((x) => x !== null) ?? null);
  const all = LINES.flat().map((i) => valueAt(TREND.metric, i)).filter((x) => x !== null);
  const doublings = all.every((x) => x > 0);
  const change = (x, from) => (x === null || from === null ? null : doublings ? Math.log2(x / from) : x - from);
  return { doublings, rows: LINES.map((line, at) => {
    const of = new Map(line.map((i) => [MATRICES[i].step, i]));
    return STEPS.map((step) => ({ i: of.get(step), change: of.has(step) ? change(valueAt(TREND.metric, of.get(step)), first[at]) : null }));
  }) };
}
function drawTrendGrid() {
  const box = byId("trend-grid");
  const { doublings, rows } = changes();
  const width = box.clientWidth;
  const names = LINES.map(lineName);
  const margin = { l: Math.min(Math.max(...names.map((name) => name.length), 1) * 6.2 + 14, width * 0.36), r: 8, t: 26, b: 46 };
  const cell = Math.max(3, Math.min(18, 900 / LINES.length));
  const { axis, layout } = baseLayout(box, LINES.length * cell + margin.t + margin.b, margin);
  const most = Math.max(...rows.flat().map(({ change }) => Math.abs(change ?? 0)), 1e-12);
  const every = Math.ceil(13 / cell);
  const at = names.map((_, row) => row).filter((row) => row % every === 0);
  const limit = Math.floor((margin.l - 12) / 6);
  const short = (text) => (text.length > limit ? `…${text.slice(1 - limit)}` : text);
  Plotly.react(box, [{
    type: "heatmap", z: rows.map((row) => row.map(({ change }) => change)), x: STEPS.map(String), y: names.map((_, row) => row),
    zmin: -most, zmax: most, showscale: false, xgap: (width - margin.l) / STEPS.length > 7 ? 1 : 0, ygap: cell > 7 ? 1 : 0, hoverinfo: "text", hoverongaps: false,
    colorscale: [[0, colour("fell")], [0.5, colour("paper-mid")], [1, colour("rose")]],
    text: rows.map((row) => row.map(({ i, change }) => (i === undefined ? "" : hover(i, TREND.metric, [change === null ? "" : `since the first step: ${doublings ? `× ${format(2 ** change, 3)}` : format(change, 3)}`])))),
    customdata: rows.map((row) => row.map(({ i }) => i)),
  }], {
    ...layout, hovermode: "closest",
    xaxis: { ...axis, type: "category", showgrid: false, ticks: "", nticks: Math.max(2, Math.floor((width - margin.l) / 52)), title: { text: "step", standoff: 6, font: { size: 12, color: colour("muted") } } },
    yaxis: { ...axis, tickvals: at, ticktext: at.map((row) => plain(short(names[row]))), range: [LINES.length - 0.5, -0.5], showgrid: false, ticks: "", fixedrange: true },
  }, MODEBAR);
  const end = doublings ? [`× ${format(2 ** -most, 2)}`, `× ${format(2 ** most, 3)}`] : [format(-most, 2), format(most, 2)];
  byId("trend-low").textContent = end[0];
  byId("trend-high").textContent = end[1];
  byId("trend-grid-caption").textContent = `${METRICS[TREND.metric].label}: change since the first step of each matrix (rows), ${doublings ? "on a logarithmic scale" : "as a difference"}; blank: no number.`;
}
function drawTrend() {
  drawTrendLines();
  drawTrendGrid();
}

function spark(line) {
  const values = line.map((i) => valueAt(TREND.metric, i));
  const known = values.filter((x) => x !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const points = values.flatMap((x, at) => (x === null ? [] : [`${((92 * at) / Math.max(1, values.length - 1) + 2).toFixed(1)},${(high > low ? 18 - (16 * (x - low)) / (high - low) : 10).toFixed(1)}`]));
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 96 20");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  path.setAttribute("points", points.join(" "));
  svg.append(path);
  return svg;
}
function trendColumns() {
  const known = (line) => line.filter((i) => valueAt(TREND.metric, i) !== null);
  const end = (line, at) => valueAt(TREND.metric, known(line).at(at) ?? null);
  const extreme = (line, better) => known(line).reduce((best, i) => (best === null || better(valueAt(TREND.metric, i), valueAt(TREND.metric, best)) ? i : best), null);
  const number = (label, key) => ({ label, numeric: true, key, cell: (line) => numberCell(key(line)) });
  const ends = (label, better) => {
    const at = (line) => extreme(line, better);
    return {
      label, numeric: true, key: (line) => valueAt(TREND.metric, at(line)),
      cell: (line) => element("td", { class: "num" }, format(valueAt(TREND.metric, at(line))), element("small", {}, at(line) === null ? "" : `step ${MATRICES[at(line)].step}`)),
    };
  };
  const percent = (line) => (end(line, 0) ? 100 * (end(line, -1) / end(line, 0) - 1) : null);
  return [
    {
      label: "matrix", key: lineName, cell: (line) => {
        const button = element("button", { type: "button", title: MATRICES[line[0]].name }, lineName(line));
        button.addEventListener("click", () => choose(line.at(-1)));
        return element("th", { scope: "row" }, button);
      },
    },
    { label: "course", key: percent, cell: (line) => element("td", {}, spark(line)) },
    number("first", (line) => end(line, 0)), number("last", (line) => end(line, -1)),
    { label: "change", numeric: true, key: percent, cell: (line) => element("td", { class: "num" }, percent(line) === null ? "–" : `${format(percent(line), 3)} %`) },
    ends("lowest", (x, y) => x < y), ends("highest", (x, y) => x > y),
  ];
}
function wireTrend() {
  const table = () => sortable(byId("trend-table"), trendColumns(), LINES);
  byId("trend-metric").append(...metricOptions(TRENDING));
  byId("trend-metric").value = String(TREND.metric);
  byId("trend-metric").addEventListener("change", (event) => { TREND.metric = Number(event.target.value); drawTrend(); table(); });
  radios("trend-scale", (value) => { TREND.log = value === "log"; drawTrendLines(); });
  table();
  drawTrend();
  for (const id of ["trend-lines", "trend-grid"]) clicks(id, (point) => choose(point.customdata));
}
