// What theory says of a spectrum: the noise of Marchenko and Pastur, a power-law tail.
const sound = (metric, i, variant = null) => {
  const cell = CELLS[columnOf(metric, variant)]?.[i];
  return cell && cell.status === "ok" && cell.value > 0 ? cell.value : null;
};
function noiseOf(i) {
  const matrix = MATRICES[i];
  const scale = sound("mp_sigma", i);
  if (scale === null || shape(matrix) === null) return null;
  const [k, N] = [Math.min(matrix.m, matrix.n), Math.max(matrix.m, matrix.n)];
  const ratio = Math.sqrt(k / N);
  const spikes = CELLS[columnOf("num_spikes", "any")]?.[i]?.value ?? null;
  // Density of sigma / (scale sqrt N), from the law of its square.
  const density = (s) => {
    const [low, high] = [(1 - ratio) ** 2, (1 + ratio) ** 2];
    const inside = (high - s * s) * (s * s - low);
    return inside > 0 && s > 0 ? Math.sqrt(inside) / (Math.PI * ratio * ratio * s) : 0;
  };
  const unit = scale * Math.sqrt(N);
  return { edge: sound("mp_edge", i) ?? unit * (1 + ratio), lower: unit * (1 - ratio), spikes, unit, density };
}
function tailOf(i) {
  const [alpha, start] = [sound("alpha", i), sound("xmin", i)];
  const spectrum = SPECTRA[i];
  if (alpha === null || start === null || alpha <= 1 || !spectrum) return null;
  const lowest = Math.sqrt(start);
  // Without the row, the count is that of the points drawn: exact where all are.
  const counted = spectrum.index.filter((_, at) => spectrum.values[at] >= lowest * (1 - 1e-9)).at(-1) ?? 0;
  const count = sound("num_tail", i) ?? counted;
  return count < 2 ? null : { alpha, lowest, count };
}
function mean(f, a, b) {
  const steps = 24;
  let sum = 0;
  for (let j = 0; j < steps; j += 1) sum += f(a + ((j + 0.5) * (b - a)) / steps);
  return sum / steps;
}
// Number of values that the noise puts between two singular values.
const noiseCount = (noise, total, a, b) => total * ((b - a) / noise.unit) * mean(noise.density, a / noise.unit, b / noise.unit);
const tailCount = (tail, a, b) => {
  const above = (x) => (Math.max(x, tail.lowest) / tail.lowest) ** (-2 * (tail.alpha - 1));
  return tail.count * (above(a) - above(b));
};

// The edge as a line across the curve of singular values.
function edgeMark(noise) {
  return {
    shape: { type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: noise.edge, y1: noise.edge, line: { color: colour("c1"), width: 1.4, dash: "dash" } },
    annotation: {
      xref: "paper", x: 1, xanchor: "right", yref: "y", y: Math.log10(noise.edge), yanchor: "bottom", showarrow: false,
      text: `edge of the noise ${format(noise.edge)}${noise.spikes === null ? "" : `, ${noise.spikes} above`}`, font: { size: 11, color: colour("c1") }, bgcolor: colour("paper"),
    },
  };
}
function tailTrace(tail, size) {
  const last = Math.min(tail.count, size);
  const index = Array.from({ length: 40 }, (_, j) => last ** (j / 39));
  return {
    type: "scatter", mode: "lines", hoverinfo: "skip", x: index,
    y: index.map((k) => tail.lowest * (k / tail.count) ** (-1 / (2 * (tail.alpha - 1)))),
    line: { color: colour("c3"), width: 2, dash: "dashdot" },
  };
}
const tailRemark = (tail) => (tail ? `Dash-dotted: a power law of exponent ${format(tail.alpha, 3)} through the largest ${tail.count} eigenvalues.` : "");

// The histogram of the singular values with both laws.
function drawHistogram(box, i, caption) {
  const { histogram, size } = SPECTRA[i];
  const { low, high, counts, below } = histogram;
  const ratio = (high / low) ** (1 / counts.length);
  const edges = Array.from({ length: counts.length + 1 }, (_, j) => low * ratio ** j);
  const centres = counts.map((_, j) => Math.sqrt(edges[j] * edges[j + 1]));
  const [noise, tail] = [noiseOf(i), tailOf(i)];
  const { axis, layout } = baseLayout(box, Math.min(460, Math.max(320, box.clientWidth * 0.6)), { l: 68, r: 14, t: 26, b: 50 });
  const curve = (f, style) => ({ type: "scatter", mode: "lines", hoverinfo: "skip", x: centres, y: counts.map((_, j) => f(edges[j], edges[j + 1]) || null), line: { width: 2, ...style } });
  const traces = [{
    type: "bar", x: centres, y: counts, width: counts.map((_, j) => edges[j + 1] - edges[j]), hoverinfo: "text", marker: { color: colour("mid-low"), line: { width: 0 } },
    hovertext: counts.map((count, j) => `${count} in [${format(edges[j])}, ${format(edges[j + 1])})`),
  }];
  if (noise) traces.push(curve((a, b) => noiseCount(noise, size - (noise.spikes ?? 0), a, b), { color: colour("c1"), dash: "dash" }));
  if (tail) traces.push(curve((a, b) => tailCount(tail, a, b), { color: colour("c3"), dash: "dashdot" }));
  const title = (text) => ({ text, standoff: 8, font: { size: 12, color: colour("muted") } });
  const top = Math.max(...counts, ...(noise ? traces[1].y.map((y) => y ?? 0) : [0]));
  Plotly.react(box, traces, {
    ...layout, hovermode: "closest", barmode: "overlay", bargap: 0, shapes: [], annotations: [],
    xaxis: { ...axis, type: "log", title: title("singular value σ"), ...logTicks([low, high]), range: [Math.log10(low / ratio), Math.log10(high * ratio)] },
    yaxis: { ...axis, title: title("number of values"), range: [0, 1.06 * top], fixedrange: true },
  }, MODEBAR);
  caption.textContent = [
    `Histogram of the ${size} singular values of ${MATRICES[i].name}, bins of equal ratio.`,
    noise ? `Dashed: what noise would show, by Marchenko and Pastur’s law${noise.spikes ? ` (${noise.spikes} values stand above it)` : ""}.` : "",
    tailRemark(tail),
    below ? `${below} ${below === 1 ? "value is" : "values are"} too small for the picture.` : "",
  ].filter(Boolean).join(" ");
}
