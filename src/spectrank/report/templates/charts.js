// The bars over the layers and the heat map under them, on one x axis.
const DETAIL = HAS_SPECTRA ? "spectrum" : "numbers";

// Dividing makes sense for what counts dimensions, not for norms or ratios.
const countsDimensions = (metric) => /(^|_)(rank|ratio)$/.test(metric.metric);

// A column of few is no wider than this: its height is read, not its area.
const WIDEST = 110;
const numColumns = (room, ids) => Math.max(ids.length, Math.floor(room / WIDEST), 1);
const labelWidth = (ids) => 6.2 * Math.max(...ids.map((i) => shortName(i).length), 1);
const isFlat = (room, ids) => labelWidth(ids) + 8 < room / numColumns(room, ids);

function layerAxis(axis, width, margin, ids = VIEW.shown) {
  const room = width - margin.l - margin.r;
  const every = Math.ceil((12 * ids.length) / room);
  const at = ids.map((_, place) => place).filter((place) => place % every === 0);
  return {
    ...axis, tickvals: at, ticktext: at.map((place) => plain((ids === VIEW.shown ? shortName(ids[place]) : MATRICES[ids[place]].short))),
    range: [-0.6, numColumns(room, ids) - 0.4], tickangle: isFlat(room, ids) ? 0 : -90, showgrid: false, ticks: "",
    tickfont: { size: 10.5 }, fixedrange: false,
  };
}
function layerMargin(width, aligned, ids = VIEW.shown) {
  const metric = Math.max(...shownColumns().map((column) => METRICS[column].label.length), 1);
  // Wide pages keep bars and heat map on one left edge; narrow ones need the room.
  const labels = Math.min(metric * 6.1 + 14, width < 600 ? 142 : width < 900 ? 210 : 270);
  const l = aligned || width >= 900 ? labels : 64;
  return { l, r: 8, t: 30, b: isFlat(width - l - 8, ids) ? 26 : Math.min(labelWidth(ids), 190) + 12 };
}
const selectedFrame = () => ({
  ...selectedBand(), layer: "above", fillcolor: "rgba(0,0,0,0)", line: { width: 1.5, color: colour("ink") },
});
const selectedBand = () => ({
  type: "rect", xref: "x", yref: "paper", x0: placeOf(VIEW.selected) - 0.5, x1: placeOf(VIEW.selected) + 0.5,
  y0: 0, y1: 1, line: { width: 0 }, fillcolor: colour("wash"), layer: "below",
});

function barTrace(group, all, height, bars, fill) {
  const members = all.filter((i) => height(i) !== null);
  const y = members.map((i) => height(i));
  const shared = {
    name: group, x: members.map(placeOf), y, customdata: members, hoverinfo: "text",
    hovertext: members.map((i) =>
      hover(i, VIEW.metric, VIEW.perSize ? [`divided by ${side(MATRICES[i])}: ${format(height(i))}`] : [])),
    error_y: bars && {
      type: "data", symmetric: false, thickness: 1, width: 3, color: colour("ink"),
      array: members.map((i) => bars(i)[1]), arrayminus: members.map((i) => bars(i)[0]),
    },
  };
  // A logarithmic axis has no zero for a bar to stand on.
  if (VIEW.log) return { ...shared, type: "scatter", mode: "markers", marker: { color: fill, size: 8 } };
  return { ...shared, type: "bar", width: 0.78, marker: { color: fill, line: { width: 0 } } };
}

// The matrices whose number is missing or not to be trusted, marked on the axis.
function troubleTrace(members, column, y, axes) {
  return {
    type: "scatter", mode: "markers", x: members.map(placeOf), y, customdata: members, ...axes,
    hoverinfo: "text", hovertext: members.map((i) => hover(i, column)), cliponaxis: false,
    marker: { symbol: "x-thin", size: 7, line: { width: 1.6, color: colour("warn") } },
  };
}

function barData() {
  const cells = CELLS[VIEW.metric];
  const divisor = (i) => (VIEW.perSize ? side(MATRICES[i]) : 1);
  const drawn = (x) => x !== null && (!VIEW.log || x > 0);
  const height = (i) => {
    const value = cells[i]?.value ?? null;
    return value === null || !divisor(i) || !drawn(value) ? null : value / divisor(i);
  };
  const span = Math.max(...VIEW.shown.map((i) => Math.abs(height(i) ?? 0)));
  const bounds = (i) => {
    const { lower, upper } = cells[i] ?? {};
    const y = height(i);
    if (y === null || !Number.isFinite(lower) || !Number.isFinite(upper)) return [0, 0];
    return [y - lower / divisor(i), upper / divisor(i) - y];
  };
  // On a logarithmic axis an end at or below zero leaves the picture.
  const ends = VIEW.shown.filter((i) => height(i) !== null).flatMap((i) => [height(i), height(i) - bounds(i)[0], height(i) + bounds(i)[1]]);
  const [low, high] = extremes(ends.filter((x) => !VIEW.log || x > 0)).map((x) => (VIEW.log ? Math.log10(x) : x));
  const open = VIEW.shown.filter((i) => VIEW.log && height(i) !== null && bounds(i)[0] >= height(i)).length;
  const drawnBounds = (i) => [VIEW.log ? Math.min(bounds(i)[0], height(i) - 10 ** (low - 1)) : bounds(i)[0], bounds(i)[1]];
  const range = VIEW.log && low <= high ? [low - 0.06 * (high - low || 1), high + 0.06 * (high - low || 1)] : undefined;
  const widths = VIEW.shown.map((i) => (bounds(i)[0] + bounds(i)[1]) / Math.abs(height(i) || 1));
  const visible = VIEW.shown.some((i) => bounds(i)[0] + bounds(i)[1] > 0.004 * span);
  return { cells, height, bounds: visible ? drawnBounds : null, widest: Math.max(0, ...widths), range, open: visible ? open : 0 };
}

function drawBars() {
  const box = byId("bars");
  const width = box.clientWidth;
  const margin = layerMargin(width, false);
  const { axis, layout } = baseLayout(box, 330 + margin.b, margin);
  const { cells, height, bounds, widest, range, open } = barData();
  const { names, of } = groups(VIEW.colourBy);
  const fill = groupFill();
  const traces = names.map((name, group) => {
    const members = VIEW.shown.filter((i) => of[i] === group);
    return barTrace(name, members, height, bounds, fill(name, group));
  });
  const bad = VIEW.shown.filter((i) => cells[i] && (cells[i].status !== "ok" || height(i) === null));
  traces.push(troubleTrace(bad, VIEW.metric, bad.map(() => 0.015), { yaxis: "y2" }));
  const label = METRICS[VIEW.metric].label + (VIEW.perSize ? " / min(m, n)" : "");
  const ticks = VIEW.log ? logTicks(VIEW.shown.map(height)) : {};
  const title = { text: plain(label), standoff: 12, font: { size: 12, color: colour("muted") } };
  Plotly.react(box, traces, {
    ...layout, barmode: "overlay", hovermode: "x", shapes: [selectedBand()],
    xaxis: layerAxis(axis, width, margin),
    yaxis: { ...axis, title, type: VIEW.log ? "log" : "linear", rangemode: "tozero", ...(range ? { range } : {}), fixedrange: true, ...ticks },
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
  }, MODEBAR);
  drawLegend(byId("legend"), names, names.map(fill), 2);
  const missing = bad.length ? ` A cross marks ${bad.length === 1 ? "a matrix" : `${bad.length} matrices`} without a sound number.` : "";
  const error = bounds ? `Bars of error show the enclosures${open ? "; one that leaves the axis below reaches zero" : ""}.` :
    widest > 0 ? `The enclosures are too narrow to draw: the widest is ${format(widest, 2)} of its value.` : "No enclosure is given.";
  byId("bars-caption").textContent = `${label} of each matrix${sliceRemark()} in model order${VIEW.log ? ", as points: a logarithmic axis has no zero for a bar to stand on" : ""}. ${error}${missing} Click a column for its ${DETAIL}.`;
}

// One colour alone needs no key, unless it says a verdict.
function drawLegend(list, names, fills, least = 1) {
  list.hidden = names.length < least;
  list.replaceChildren(...names.map((name, i) => {
    const key = element("i");
    key.style.background = fills[i];
    return element("li", {}, key, name);
  }));
}

// Numbers of one metric to 0..1: by rank (ties share their mean) or along the logarithm.
function normalised(column) {
  const known = VIEW.shown.map((i) => CELLS[column][i]?.value ?? null);
  const usable = known.filter((x) => x !== null && (VIEW.normal === "rank" || x > 0));
  if (VIEW.normal === "rank") {
    const sorted = [...usable].sort((a, b) => a - b);
    const [first, last] = [new Map(), new Map()];
    for (const [at, x] of sorted.entries()) {
      if (!first.has(x)) first.set(x, at);
      last.set(x, at);
    }
    const place = (x) => (first.get(x) + last.get(x)) / 2 / Math.max(1, sorted.length - 1);
    return known.map((x) => (x === null ? null : sorted.length === 1 ? 0.5 : place(x)));
  }
  const low = Math.log(Math.min(...usable));
  const range = Math.log(Math.max(...usable)) - low;
  return known.map((x) => (x === null || x <= 0 ? null : range > 0 ? (Math.log(x) - low) / range : 0.5));
}

function drawHeat() {
  const box = byId("heat");
  const width = box.clientWidth;
  const margin = layerMargin(width, true);
  const columns = shownColumns();
  const { axis, layout } = baseLayout(box, columns.length * 20 + margin.b + margin.t, margin);
  const gap = (width - margin.l - margin.r) / VIEW.shown.length > 7 ? 1 : 0;
  const rows = columns.map((_, row) => row);
  const heat = {
    type: "heatmap", z: columns.map(normalised), y: rows, xgap: gap, ygap: 1, zmin: 0, zmax: 1,
    showscale: false, hoverinfo: "text", hoverongaps: false,
    text: columns.map((column) => VIEW.shown.map((i) => hover(i, column))),
    customdata: columns.map(() => VIEW.shown),
    colorscale: ["low", "mid-low", "mid-high", "high"].map((name, i) => [i / 3, colour(name)]),
  };
  const marks = columns.map((column, row) => {
    const members = VIEW.shown.filter((i) => CELLS[column][i] && CELLS[column][i].status !== "ok");
    return troubleTrace(members, column, members.map(() => row), {});
  });
  const limit = width < 600 ? 24 : width < 900 ? 36 : 46;
  const short = (text) => (text.length > limit ? `${text.slice(0, limit - 1)}…` : text);
  Plotly.react(box, [heat, ...marks], {
    ...layout, hovermode: "closest", shapes: [selectedFrame()],
    xaxis: layerAxis(axis, width, margin),
    yaxis: {
      ...axis, tickvals: rows, ticktext: columns.map((column) => plain(short(METRICS[column].label))),
      range: [columns.length - 0.5, -0.5], showgrid: false, ticks: "", fixedrange: true, tickfont: { size: width < 600 ? 9.5 : 11 },
    },
  }, MODEBAR);
  const how = VIEW.normal === "rank" ? "by its rank among the matrices (lowest 0, highest 1, ties share their mean)"
    : "by its logarithm between the metric’s smallest and largest value (zeros stay blank)";
  byId("heat-caption").textContent = `Every metric (rows) of every matrix${sliceRemark()} (columns). Each metric is coloured on its own, ${how}; hover shows the number itself. Blank: not measured; a cross marks a status other than ok. Click a cell for the ${DETAIL}.`;
}

function markSelected() {
  if (!NUM_PLAIN) return;
  Plotly.relayout(byId("bars"), { shapes: [selectedBand()] });
  Plotly.relayout(byId("heat"), { shapes: [selectedFrame()] });
}
