// The figures of the claims: points with error bars, and lines of what was predicted.
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x"];
const GLYPHS = ["●", "■", "◆", "▲", "▼", "✚", "✖"];

// Plotly breaks no line by itself.
function wrapped(text, limit) {
  const lines = [""];
  for (const word of text.split(/\s+/)) {
    const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
    if (longer.length > limit && lines.at(-1)) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines.map(plain).join("<br>");
}

// What has no logarithm is left out of a logarithmic axis; the caption counts it.
const onAxis = (scale) => (value) => (scale === "log" && !(value > 0) ? null : value);
const half = (x) => (x === null || x < 0 ? 0 : x);

function pointTrace(figure, at) {
  const series = figure.series[at];
  // One point for each seed: many, and none of them the result.
  const single = new Set(series.seed.filter((seed) => seed !== null)).size > 1;
  const fill = palette()[at % palette().length];
  const gap = (end, k, sign) => half(end === null ? null : sign * (end - series.value[k]));
  const bars = [...series.lower, ...series.upper].some((end) => end !== null);
  return {
    type: "scatter", mode: "markers", name: plain(series.name), hoverinfo: "text",
    x: series.x.map(onAxis(figure.x_scale)), y: series.value.map(onAxis(figure.y_scale)),
    marker: { color: fill, symbol: SYMBOLS[at % SYMBOLS.length], size: single ? 6 : 8, opacity: single ? 0.6 : 1 },
    error_y: bars ? {
      type: "data", symmetric: false, thickness: 1.3, width: 4, color: fill,
      array: series.upper.map((end, k) => gap(end, k, 1)), arrayminus: series.lower.map((end, k) => gap(end, k, -1)),
    } : undefined,
    hovertext: series.x.map((x, k) => [
      `<b>${plain(series.name)}</b>`, `${plain(figure.x)}: ${format(x)}`, `${plain(figure.y)}: <b>${format(series.value[k])}</b>`,
      series.lower[k] === null && series.upper[k] === null ? "" : `[${format(series.lower[k])}, ${format(series.upper[k])}]`,
      series.predicted[k] === null ? "" : `predicted ${format(series.predicted[k])}`,
      series.seed[k] === null ? "" : `seed ${series.seed[k]}`,
    ].filter(Boolean).join("<br>")),
  };
}

function lineTrace(figure, line) {
  const fill = line.series === null ? colour("ink") : palette()[line.series % palette().length];
  return {
    type: "scatter", mode: line.x.length > 1 ? "lines" : "markers", hoverinfo: "skip",
    x: line.x.map(onAxis(figure.x_scale)), y: line.y.map(onAxis(figure.y_scale)),
    line: { color: fill, width: 1.6, dash: "dash" },
    marker: { symbol: "line-ew-open", size: 22, color: fill, line: { width: 1.6 } },
  };
}

function figureCaption(figure) {
  const { series, lines } = figure;
  const bars = series.some((entry) => [...entry.lower, ...entry.upper].some((end) => end !== null));
  const several = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
  const logs = ["x", "y"].filter((axis) => figure[`${axis}_scale`] === "log");
  return [
    bars ? "Points with bars of error: measured, with the intervals of the table below." : "Points: measured.",
    lines.length === 0 ? "" : lines[0].series === null ? "Dashed: predicted." : "Dashed, in the colour of its series: predicted.",
    logs.length === 2 ? "Both axes are logarithmic." : logs.length ? `The ${logs[0] === "x" ? "horizontal" : "vertical"} axis is logarithmic.` : "",
    figure.num_hidden ? `${several(figure.num_hidden, "point")} not positive cannot stand on a logarithmic axis.` : "",
    figure.num_thinned ? `${several(figure.num_thinned, "point")} left out evenly, to keep the page light.` : "",
    figure.num_unsound ? `${several(figure.num_unsound, "row")} without a sound number ${figure.num_unsound === 1 ? "is" : "are"} in the table only.` : "",
  ].filter(Boolean).join(" ");
}

function drawLegend(list, figure) {
  const items = figure.series.map((series, at) => {
    const key = element("i", {}, GLYPHS[at % GLYPHS.length]);
    key.style.color = palette()[at % palette().length];
    return element("li", {}, key, series.name);
  });
  if (figure.lines.length) items.push(element("li", {}, element("i", {}, "- -"), "predicted"));
  list.replaceChildren(...items);
}

// Few decades: round numbers of each, in full. Many: powers of ten.
function ticks(values) {
  const known = values.filter((value) => value > 0);
  const [low, high] = [Math.min(...known), Math.max(...known)].map(Math.log10);
  if (!known.length || high - low > 2) return logTicks(values);
  const digits = high - low > 1 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
  const decades = Array.from({ length: Math.floor(high) - Math.floor(low) + 2 }, (_, k) => Math.floor(low) + k);
  const tickvals = decades.flatMap((exponent) => digits.map((digit) => Number(`${digit}e${exponent}`)));
  return { tickvals, ticktext: tickvals.map((value) => format(value, 2)) };
}

function drawFigure(box) {
  const figure = DATA.figures[Number(box.dataset.figure)];
  const width = box.clientWidth;
  const height = Math.round(Math.min(400, Math.max(290, width * 0.62)));
  const yTitle = wrapped(figure.y, (height - 80) / 6.4);
  const xTitle = wrapped(figure.x, (width - 80) / 6.4);
  const count = (text) => text.split("<br>").length;
  const margin = { l: 58 + 16 * count(yTitle), r: 14, t: 24, b: 36 + 16 * count(xTitle) };
  const { axis, layout } = baseLayout(box, height, margin);
  const all = (key, other) => [...figure.series.flatMap((entry) => entry[key]), ...figure.lines.flatMap((line) => line[other])];
  const scaled = (scale, values, text) => ({
    ...axis, type: scale, showline: true, ...(scale === "log" ? ticks(values) : {}),
    title: { text, standoff: 10, font: { size: 12, color: colour("muted") } },
  });
  const traces = [
    ...figure.lines.map((line) => lineTrace(figure, line)),
    ...figure.series.map((_, at) => pointTrace(figure, at)),
  ];
  Plotly.react(box, traces, {
    ...layout, hovermode: "closest",
    xaxis: scaled(figure.x_scale, all("x", "x"), xTitle),
    yaxis: scaled(figure.y_scale, all("value", "y"), yTitle),
  }, MODEBAR);
  const frame = box.closest("figure");
  drawLegend(frame.querySelector(".legend"), figure);
  frame.querySelector("figcaption").textContent = figureCaption(figure);
}

const FIGURES = [...document.querySelectorAll("[data-figure]")];
const drawFigures = () => FIGURES.forEach(drawFigure);
drawFigures();
watchPage(drawFigures);
document.documentElement.dataset.ready = "true";
