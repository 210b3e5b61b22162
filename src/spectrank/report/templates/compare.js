// A comparison: how far each matrix moved, both sides of a metric, who moved most.
const COMPARE = { quantity: 0, metric: 0, log: false };
const MOVERS = COURSE === "comparison" ? COURSES.map((members) => members[0]) : [];
const moverGroups = () => groups(VIEW.colourBy);

// A number of the difference, whatever variant this matrix has of it (k may differ).
function ofDifference(i, metric, side, run = "difference") {
  const k = inRun(i, run);
  if (k === null) return null;
  const column = METRICS.findIndex((entry, at) => entry.metric === metric && (side === null || String(entry.variant).startsWith(side)) && CELLS[at][k]);
  return column < 0 ? null : CELLS[column][k];
}
const cellIn = (run, column) => (i) => {
  const k = inRun(i, run);
  return k === null ? null : CELLS[column][k];
};
function quantities() {
  const named = [
    ["how far: ‖after − before‖ / ‖before‖", "relative_change", null],
    ["cosine of before and after", "cosine", null],
    ["overlap of the leading left directions", "subspace_overlap", "left"],
    ["overlap of the leading right directions", "subspace_overlap", "right"],
    ["largest angle of the left directions (radians)", "largest_angle", "left"],
    ["largest angle of the right directions (radians)", "largest_angle", "right"],
  ].map(([label, metric, side]) => ({ label, metric, cell: (i) => ofDifference(i, metric, side), chance: metric === "subspace_overlap" ? (i) => ofDifference(i, metric, side, "random") : null }));
  const columns = METRICS.slice(0, NUM_PLAIN).map((_, column) => column);
  const each = (run, text) => columns.filter((column) => MOVERS.some((i) => cellIn(run, column)(i)) && MOVERS.some((i) => cellIn("before", column)(i)))
    .map((column) => ({ label: text(METRICS[column].label), cell: cellIn(run, column), chance: null }));
  return [...named, ...each("change", (label) => `change of the ${label}`), ...each("difference", (label) => `${label} of the difference`)]
    .filter(({ cell }) => MOVERS.some((i) => cell(i)));
}
const QUANTITIES = quantities();
const SIDES = METRICS.slice(0, NUM_PLAIN).map((_, column) => column)
  .filter((column) => ["before", "after"].every((run) => MOVERS.some((i) => cellIn(run, column)(i))));
COMPARE.metric = SIDES.find((column) => METRICS[column].metric === "stable_rank") ?? SIDES[0] ?? 0;
// Where a reader would look first.
const mostMoved = () => MOVERS.reduce((best, i) => ((ofDifference(i, "relative_change", null)?.value ?? -1) > (ofDifference(best, "relative_change", null)?.value ?? -1) ? i : best), MOVERS[0]);
const moverLink = (i) => inRun(i, "after") ?? i;

function moverHover(i, label, cell) {
  const matrix = MATRICES[i];
  const lines = [`<b>${plain(matrix.name)}</b>`, plain([matrix.view, shape(matrix)].filter(Boolean).join(" · ")), `${plain(label)}: <b>${cell ? plain(shownValue(cell)) : "–"}</b>`];
  if (cell && enclosure(cell)) lines.push(plain(enclosure(cell)));
  if (cell?.reason) lines.push(plain(cell.reason));
  return lines.join("<br>");
}
function moverAxes(box, height) {
  const width = box.clientWidth;
  const margin = { ...layerMargin(width, false, MOVERS), l: 70 };
  const { axis, layout } = baseLayout(box, height + margin.b, margin);
  const band = { ...selectedBand(), x0: MOVERS.indexOf(COURSES[THING_OF[VIEW.selected]][0]) - 0.5 };
  return { axis, layout: { ...layout, hovermode: "x", shapes: [{ ...band, x1: band.x0 + 1 }], xaxis: layerAxis(axis, width, margin, MOVERS) } };
}

function drawMoved() {
  const box = byId("moved");
  const { label, cell, chance } = QUANTITIES[COMPARE.quantity];
  const { axis, layout } = moverAxes(box, 250);
  const { names, of } = moverGroups();
  const fill = groupFill();
  const value = (i) => {
    const x = cell(i)?.value ?? null;
    return x === null || (COMPARE.log && !(x > 0)) ? null : x;
  };
  const traces = names.map((name, group) => {
    const members = MOVERS.map((i, at) => ({ i, at })).filter(({ i }) => of[i] === group && value(i) !== null);
    const shared = {
      x: members.map(({ at }) => at), y: members.map(({ i }) => value(i)), customdata: members.map(({ i }) => moverLink(i)), hoverinfo: "text",
      hovertext: members.map(({ i }) => moverHover(i, label, cell(i))),
    };
    if (COMPARE.log) return { ...shared, type: "scatter", mode: "markers", marker: { color: fill(name, group), size: 8 } };
    return { ...shared, type: "bar", width: 0.78, marker: { color: fill(name, group), line: { width: 0 } } };
  });
  if (chance) {
    const known = MOVERS.map((i, at) => [at, chance(i)?.value ?? null]);
    traces.push({ type: "scatter", mode: "markers", x: known.map(([at]) => at), y: known.map(([, y]) => y), hoverinfo: "skip", marker: { symbol: "line-ew-open", size: 9, color: colour("ink"), line: { width: 1.4 } } });
  }
  const numbers = MOVERS.map(value).filter((x) => x !== null);
  const title = { text: plain(label), standoff: 12, font: { size: 12, color: colour("muted") } };
  Plotly.react(box, traces, {
    ...layout, barmode: "overlay",
    yaxis: { ...axis, title, type: COMPARE.log ? "log" : "linear", rangemode: "tozero", zeroline: true, zerolinecolor: colour("muted"), fixedrange: true, ...(COMPARE.log ? logTicks(numbers) : {}) },
  }, MODEBAR);
  const named = names.map((name, group) => [name, fill(name, group)]).filter((_, group) => traces[group].y.some((y) => y !== 0));
  drawLegend(byId("moved-legend"), named.map(([name]) => name), named.map(([, tone]) => tone), 2);
  const still = MOVERS.filter((i) => ofDifference(i, "relative_change", null)?.value === 0).length;
  byId("moved-caption").textContent = [
    `${label[0].toUpperCase()}${label.slice(1)}, in model order.`,
    chance ? "The dash is what two random subspaces have on average." : "",
    still ? `${still} of ${MOVERS.length} matrices are the same to the last bit${COMPARE.log ? ", and have no place on a logarithmic axis" : ""}.` : "",
    `Click a column for its ${DETAIL}.`,
  ].filter(Boolean).join(" ");
}

function drawSides() {
  const box = byId("sides");
  const { axis, layout } = moverAxes(box, 230);
  const column = COMPARE.metric;
  const { label } = METRICS[column];
  const [before, after] = ["before", "after"].map((run) => MOVERS.map((i) => cellIn(run, column)(i)?.value ?? null));
  const gaps = (ys) => MOVERS.flatMap((_, at) => (before[at] === null || after[at] === null ? [] : [ys(at)[0], ys(at)[1], null]));
  const point = (run, values, marker) => ({
    type: "scatter", mode: "markers", name: run, x: MOVERS.map((_, at) => at), y: values, customdata: MOVERS.map(moverLink), marker, hoverinfo: "text",
    hovertext: MOVERS.map((i) => moverHover(i, `${label} ${run}`, cellIn(run, column)(i))),
  });
  Plotly.react(box, [
    { type: "scatter", mode: "lines", hoverinfo: "skip", x: gaps((at) => [at, at]), y: gaps((at) => [before[at], after[at]]), line: { color: colour("edge"), width: 2 } },
    point("before", before, { size: 8, symbol: "circle-open", color: colour("c1"), line: { width: 2 } }),
    point("after", after, { size: 8, color: colour("accent") }),
  ], {
    ...layout,
    yaxis: { ...axis, rangemode: "tozero", title: { text: plain(label), standoff: 12, font: { size: 12, color: colour("muted") } }, fixedrange: true },
  }, MODEBAR);
  byId("sides-caption").textContent = `${label} before (rings) and after (dots) of each matrix in model order.`;
}
function drawComparison() {
  drawMoved();
  if (SIDES.length) drawSides();
}

function moverColumns() {
  const number = (label, cell, remark) => ({
    label, numeric: true, remark, key: (i) => cell(i)?.value ?? null,
    cell: (i) => numberCell(cell(i)?.value ?? cell(i)?.special, [cell(i) && enclosure(cell(i)), cell(i)?.reason].filter(Boolean).join("\n")),
  });
  const difference = (label, metric, side) => number(label, (i) => ofDifference(i, metric, side), null);
  const name = {
    label: "matrix", key: (i) => MATRICES[i].name,
    cell: (i) => {
      const button = element("button", { type: "button", title: MATRICES[i].name }, MATRICES[i].short);
      button.addEventListener("click", () => choose(moverLink(i)));
      const same = ofDifference(i, "relative_change", null)?.value === 0;
      return element("th", { scope: "row" }, button, same ? element("span", { class: "badge calm" }, "identical") : null);
    },
  };
  const sides = columnOf("stable_rank") < 0 ? [] : ["before", "after"].map((run) => number(`stable rank ${run}`, cellIn(run, columnOf("stable_rank")), null));
  return [
    name, difference("moved", "relative_change", null), difference("cosine", "cosine", null),
    difference("overlap left", "subspace_overlap", "left"), difference("overlap right", "subspace_overlap", "right"),
    ...sides, difference("stable rank of the difference", "stable_rank", null),
  ].filter((column) => column === name || MOVERS.some((i) => column.key(i) !== null));
}
function wireComparison() {
  byId("quantity").append(...QUANTITIES.map(({ label }, at) => element("option", { value: at }, label)));
  byId("quantity").addEventListener("change", (event) => { COMPARE.quantity = Number(event.target.value); drawMoved(); });
  radios("moved-scale", (value) => { COMPARE.log = value === "log"; drawMoved(); });
  byId("side").append(...metricOptions(SIDES));
  byId("side").value = String(COMPARE.metric);
  byId("side").addEventListener("change", (event) => { COMPARE.metric = Number(event.target.value); drawSides(); });
  sortable(byId("movers"), moverColumns(), MOVERS, 1);
  drawComparison();
  for (const id of ["moved", "sides"]) clicks(id, (point) => choose(point.customdata));
}
