// The singular values of one matrix and a card with all its numbers.
const SIGMA = { indexLog: true, peers: true, courses: true, histogram: false };
const HAS_FITS = ["mp_sigma", "alpha"].some((metric) => columnOf(metric) >= 0);
const MAX_PEERS = 60;

// Zeros have no logarithm: they are counted in the caption instead.
const positive = (values) => values.map((value) => (value > 0 ? value : null));

// What the route of another matrix cannot tell from zero is no course to compare with.
const resolvedOnly = ({ index, values, size, resolved }) => positive(values).map((value, at) => (index[at] <= (resolved ?? size) ? value : null));

function peerTrace(i) {
  const peers = MATRICES.map((_, k) => k)
    .filter((k) => k !== i && SLICE_OF[k] === SLICE_OF[i] && MATRICES[k].role === MATRICES[i].role && SPECTRA[k]);
  const x = [];
  const y = [];
  // What is only a background needs fewer points.
  const few = (values) => values.filter((_, at) => at % Math.ceil(values.length / 100) === 0 || at === values.length - 1);
  for (const k of peers.slice(0, MAX_PEERS)) {
    x.push(...few(SPECTRA[k].index), null);
    y.push(...few(resolvedOnly(SPECTRA[k])), null);
  }
  const trace = { type: "scatter", mode: "lines", x, y, hoverinfo: "skip", line: { color: colour("ghost"), width: 1 } };
  return { trace, count: Math.min(peers.length, MAX_PEERS) };
}

// The same matrix in the other slices: before and after, or from early to late.
const COURSE_LOOKS = { before: ["c1", "dash"], after: ["accent", "solid"], difference: ["c3", "dot"] };
const MAX_COURSES = 12;
// A colour between two of the page, for what has an order.
function mixed(from, to, share) {
  const parts = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const [a, b] = [parts(from), parts(to)];
  return `rgb(${a.map((x, at) => Math.round(x + share * (b[at] - x))).join(",")})`;
}
// The random twins of a matrix, where the scan made some.
const TWINS = { permuted: "the same entries in other places", gaussian: "Gaussian entries of the same size" };
function nullTrace(i) {
  const twin = NULLS[i];
  if (!twin) return null;
  return {
    type: "scatter", mode: "lines", x: DATA.grids[twin.grid], y: positive(twin.values), hoverinfo: "text", line: { color: colour("c2"), width: 1.6, dash: "dot" },
    hovertext: DATA.grids[twin.grid].map((k, at) => `random twin: σ<sub>${k}</sub> = ${format(twin.values[at], 4)}`),
  };
}
const nullRemark = (i) => (NULLS[i] ? `Dotted in green: the values of random twins, ${TWINS[NULLS[i].variant] ?? NULLS[i].variant ?? "see the numbers"}.` : "");
// From the least to the largest of what is known, with a little room for what is not.
function sigmaRange(lists, unknown) {
  const [low, high] = extremes(lists.flat().filter((x) => x > 0)).map(Math.log10);
  const bottom = unknown ? low - 1 : low;
  const pad = 0.05 * (high - bottom || 1);
  return { range: [bottom - pad, high + 2 * pad], values: [10 ** bottom, 10 ** high] };
}
function courseTraces(i) {
  const others = COURSES[THING_OF[i]].filter((k) => k !== i && SPECTRA[k]?.values.length);
  const step = Math.max(1, Math.ceil(others.length / MAX_COURSES));
  const chosen = others.filter((_, at) => at % step === 0);
  const fade = (at) => mixed(colour("c5"), colour("accent"), at / Math.max(1, chosen.length));
  return chosen.map((k, at) => {
    const [tone, dash] = COURSE_LOOKS[MATRICES[k].run] ?? [null, "solid"];
    return {
      type: "scatter", mode: "lines", x: SPECTRA[k].index, y: resolvedOnly(SPECTRA[k]), name: MATRICES[k].at,
      hoverinfo: "text", hovertext: SPECTRA[k].index.map((j, place) => `${plain(MATRICES[k].at)}: σ<sub>${j}</sub> = ${format(SPECTRA[k].values[place], 6)}`),
      line: { color: tone ? colour(tone) : fade(at), width: 1.4, dash },
    };
  });
}
function drawCourseLegend(i, traces) {
  const own = MATRICES[i].at ? [[MATRICES[i].at, colour("accent")]] : [];
  const items = traces.length ? [...traces.map((trace) => [trace.name, trace.line.color]), ...own] : [];
  drawLegend(byId("sigma-legend"), items.map(([name]) => name), items.map(([, fill]) => fill));
}

const indexRange = (size) => (SIGMA.indexLog
  ? { dtick: "D2", tickformat: "~g", range: [Math.log10(0.9), Math.log10(size * 1.12)] }
  : { range: [1 - 0.02 * size, 1.02 * size] });

function marker(metric, i, size, place) {
  const at = METRICS.findIndex((entry) => entry.metric === metric && entry.variant === null);
  const value = at < 0 ? null : CELLS[at][i]?.value ?? null;
  if (value === null || value < 1 || value > size) return null;
  const x = SIGMA.indexLog ? Math.log10(value) : value;
  return {
    shape: {
      type: "line", xref: "x", yref: "paper", x0: value, x1: value, y0: 0, y1: 1,
      line: { color: colour("muted"), width: 1, dash: "dot" },
    },
    annotation: {
      x, xref: "x", y: place, yref: "paper", text: `${words(metric)} ${format(value)}`, showarrow: false,
      xanchor: value > size / 2 || (SIGMA.indexLog && value > Math.sqrt(size)) ? "right" : "left",
      xshift: value > size / 2 || (SIGMA.indexLog && value > Math.sqrt(size)) ? -5 : 5,
      font: { size: 11, color: colour("muted") }, bgcolor: colour("paper"),
    },
  };
}

function drawSigma() {
  if (!HAS_SPECTRA) return;
  const box = byId("sigma");
  const i = VIEW.selected;
  const spectrum = SPECTRA[i];
  const caption = byId("sigma-caption");
  if (!spectrum || !spectrum.values.length) {
    Plotly.purge(box);
    const why = STATUS[i].status === "ok" ? "Only norms were computed for this matrix, so there is no spectrum to draw."
      : `No spectrum: ${[words(STATUS[i].status), STATUS[i].reason].filter(Boolean).join(": ")}.`;
    box.style.height = "";
    box.replaceChildren(element("p", { class: `notice ${STATUS[i].status === "ok" ? "calm" : ""}` }, why));
    caption.textContent = "";
    drawCourseLegend(i, []);
    return;
  }
  if (box.querySelector(".notice")) box.replaceChildren();
  if (SIGMA.histogram && spectrum.histogram) {
    drawCourseLegend(i, []);
    drawHistogram(box, i, caption);
    return;
  }
  const width = box.clientWidth;
  const { axis, layout } = baseLayout(box, Math.min(460, Math.max(320, width * 0.6)), { l: 68, r: 14, t: 26, b: 50 });
  const { index, size } = spectrum;
  const mode = index.length <= 60 ? "lines+markers" : "lines";
  // What the route cannot tell from zero is drawn, but not as if it were known.
  const resolved = spectrum.resolved ?? size;
  const part = (keep, line, note) => ({
    type: "scatter", mode, x: index, hoverinfo: "text", line, marker: { size: 5 },
    y: positive(spectrum.values).map((value, at) => (keep(index[at]) ? value : null)),
    hovertext: index.map((k, at) => `σ<sub>${k}</sub> = ${format(spectrum.values[at], 6)}${note}`),
  });
  const main = part((k) => k <= resolved, { color: colour("accent"), width: 2 }, "");
  const floor = part((k) => k > resolved, { color: colour("muted"), width: 1, dash: "dot" }, " (below the floor)");
  const peers = SIGMA.peers ? peerTrace(i) : { trace: null, count: 0 };
  const courses = SIGMA.courses && COURSE ? courseTraces(i) : [];
  const [noise, tail] = [noiseOf(i), tailOf(i)];
  const marks = [marker("stable_rank", i, size, 0.06), marker("effective_rank", i, size, 0.13), noise && edgeMark(noise)].filter(Boolean);
  const twin = nullTrace(i);
  const known = resolvedOnly(spectrum);
  const behind = [...(peers.trace ? [peers.trace] : []), ...courses, ...(twin ? [twin] : []), ...(resolved < size ? [floor] : [])];
  const law = tail ? tailTrace(tail, size) : null;
  const seen = sigmaRange([known.some(Boolean) ? known : spectrum.values, ...[twin, law, ...courses].filter(Boolean).map(({ y }) => y), noise ? [noise.edge] : []], resolved < size);
  const title = (text) => ({ text, standoff: 8, font: { size: 12, color: colour("muted") } });
  Plotly.react(box, [...behind, main, ...(law ? [law] : [])], {
    ...layout, hovermode: "closest", shapes: marks.map((mark) => mark.shape),
    annotations: marks.map((mark) => mark.annotation),
    xaxis: { ...axis, type: SIGMA.indexLog ? "log" : "linear", title: title("index k"), ...indexRange(size) },
    yaxis: { ...axis, type: "log", title: title("singular value σₖ"), ...logTicks(seen.values), range: seen.range },
  }, MODEBAR);
  drawCourseLegend(i, courses);
  const zeros = spectrum.values.filter((value) => value === 0).length;
  caption.textContent = [
    `Singular values of ${MATRICES[i].name}, largest first, ${SIGMA.indexLog ? "both axes" : "values"} logarithmic.`,
    index.length < size ? `${index.length} log-spaced of ${size} values, both ends exact.` : `All ${size} values.`,
    peers.count ? `In grey: ${peers.count} other ${peers.count === 1 ? "matrix" : "matrices"} of the role “${MATRICES[i].role}”.` : "",
    noise ? `Dashed: the edge of Marchenko and Pastur’s law for noise of standard deviation ${format(valueAt(columnOf("mp_sigma"), i))}.` : "",
    tailRemark(tail), nullRemark(i),
    resolved < size ? `Dotted: ${words(spectrum.cell.reason ?? "known only to be small")}.` : "",
    zeros ? `${zeros} of these ${zeros === 1 ? "is" : "are"} zero, which a logarithmic axis cannot show.` : "",
  ].filter(Boolean).join(" ");
}
