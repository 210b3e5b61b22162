// What all parts of the page share: the data unpacked, formats, colours.
const DATA = JSON.parse(document.getElementById("data").textContent);
const MATRICES = DATA.matrices;
const METRICS = DATA.metrics;
const NUM_COLOURS = 7; // One more, grey, is for all other groups.

const byId = (id) => document.getElementById(id);

// Texts go in as text nodes, never as markup: names come from files of strangers.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Plotly reads a little markup in texts, so the three characters are spelled out.
const plain = (text) =>
  String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function unpack(cell) {
  if (!cell) return null;
  const text = (at) => (cell[at] < 0 ? null : DATA.strings[cell[at]]);
  return {
    value: cell[0], lower: cell[1], upper: cell[2], failure: cell[3],
    errorKind: text(4), status: text(5), reason: text(6), route: text(7), source: text(8),
    special: cell[9] ?? null,
  };
}
const CELLS = DATA.cells.map((column) => column.map(unpack));
const SPECTRA = DATA.spectra.map((spectrum) => spectrum && {
  size: spectrum.size, resolved: spectrum.resolved, values: spectrum.values, index: DATA.grids[spectrum.grid],
  cell: unpack(spectrum.cell),
});

const STATUS = MATRICES.map((_, i) => {
  const cells = [...CELLS.map((column) => column[i]), SPECTRA[i]?.cell];
  const bad = cells.find((cell) => cell && cell.status !== "ok");
  return bad ? { status: bad.status, reason: bad.reason } : { status: "ok", reason: null };
});
const words = (text) => String(text).replace(/_/g, " ");

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
function format(x, digits = 4) {
  if (x === null || x === undefined) return "–";
  if (x === "inf") return "∞";
  if (x === "-inf") return "−∞";
  if (x === "nan") return "NaN";
  const size = Math.abs(x);
  if (Number.isInteger(x) && size < 1e6) return String(x).replace("-", "−");
  if (size >= 1e-3 && size < 1e6) {
    const places = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
    return x.toFixed(Math.min(places, 20)).replace("-", "−");
  }
  const [mantissa, exponent] = x.toExponential(digits - 1).split("e");
  const short = digits <= 2 ? mantissa.replace(/\.0$/, "") : mantissa;
  const raised = [...exponent.replace("+", "")].map((c) => SUPERSCRIPT[c]).join("");
  return `${short.replace("-", "−")}×10${raised}`;
}

// As many digits as it takes to tell the two ends apart.
function enclosure(cell) {
  const { lower, upper } = cell;
  if (lower === null && upper === null) return null;
  const relative = (upper - lower) / Math.max(Math.abs(lower), Math.abs(upper));
  const bounded = Number.isFinite(lower) && Number.isFinite(upper);
  const digits = relative > 0 ? Math.ceil(-Math.log10(relative)) + 2 : 17;
  const shown = bounded ? Math.min(17, Math.max(4, digits)) : 4;
  return `[${format(lower, shown)}, ${format(upper, shown)}]`;
}
// Half-widths, rounded up; null where the enclosure is better read as two numbers.
function margin(cell) {
  const { value, lower, upper } = cell;
  if (![value, lower, upper].every(Number.isFinite)) return null;
  if (lower === value && upper === value) return "exact";
  const outward = (x) => {
    if (!(x > 0)) return 0;
    const unit = 10 ** Math.floor(Math.log10(x));
    return Math.ceil(x / unit - 1e-9) * unit;
  };
  const [down, up] = [outward(value - lower), outward(upper - value)];
  if (Math.max(down, up) > 1e-3 * Math.abs(value)) return null;
  const near = Math.max(down, up) <= 1.5 * Math.min(down, up);
  return near ? `± ${format(Math.max(down, up), 1)}` : `+${format(up, 1)} −${format(down, 1)}`;
}
const shape = (matrix) => (matrix.m === null || matrix.n === null ? null : `${matrix.m} × ${matrix.n}`);
const side = (matrix) => (shape(matrix) === null ? null : Math.min(matrix.m, matrix.n));

// Value for people: a number, or the reason why there is none.
const shownValue = (cell) =>
  cell.value !== null || cell.special ? format(cell.value ?? cell.special) : words(cell.status);

function backing(cell) {
  const parts = [cell.errorKind, cell.failure ? `fails with probability ≤ ${format(cell.failure, 2)}` : null];
  return parts.filter(Boolean).join(", ");
}
function hover(i, column, extra = []) {
  const matrix = MATRICES[i];
  const cell = CELLS[column][i];
  const lines = [`<b>${plain(matrix.name)}</b>`];
  lines.push(plain([matrix.view, shape(matrix), matrix.layer_type].filter(Boolean).join(" · ")));
  if (!cell) return [...lines, `${plain(METRICS[column].label)}: not measured`].join("<br>");
  lines.push(`${plain(METRICS[column].label)}: <b>${plain(shownValue(cell))}</b>`, ...extra.map(plain));
  const range = enclosure(cell);
  if (range) lines.push(plain(range));
  if (backing(cell)) lines.push(plain(backing(cell)));
  if (cell.status !== "ok") {
    lines.push(plain([words(cell.status), cell.reason].filter(Boolean).join(": ")));
  }
  return lines.join("<br>");
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const palette = () => Array.from({ length: NUM_COLOURS + 1 }, (_, i) => colour(`c${i}`));

// Groups in the order of the model; the rarest beyond the palette share the grey.
function groups(key) {
  const counts = new Map();
  for (const matrix of MATRICES) {
    const name = matrix[key] ?? "not known";
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  let names = [...counts.keys()];
  if (names.length > NUM_COLOURS + 1) {
    const repeated = names.filter((name) => counts.get(name) > 1);
    const common = (repeated.length ? repeated : names).sort((a, b) => counts.get(b) - counts.get(a)).slice(0, NUM_COLOURS);
    names = names.filter((name) => common.includes(name));
  }
  const of = MATRICES.map((matrix) => {
    const at = names.indexOf(matrix[key] ?? "not known");
    return at < 0 ? names.length : at;
  });
  const others = counts.size > names.length;
  return { names: others ? [...names, "others"] : names, of };
}

// Long dotted names may break after a dot.
const breakable = (name) => name.split(/(?<=[./])/).flatMap((part) => [part, element("wbr")]);

const MODEBAR = {
  displaylogo: false, responsive: false, doubleClick: "reset",
  modeBarButtons: [["toImage", "resetScale2d"]],
};
// Ticks of a logarithmic axis: 1, 2, 5 over few decades, powers of ten over many.
function logTicks(values) {
  const known = values.filter((value) => value > 0);
  const decades = known.length ? Math.log10(Math.max(...known) / Math.min(...known)) : 0;
  return { exponentformat: "power", dtick: decades < 2 ? "D2" : Math.ceil(decades / 8) };
}
// The height is set before anything is drawn, so that a link scrolls to the right place.
function baseLayout(box, height, margin) {
  const width = box.clientWidth;
  box.style.height = `${height}px`;
  const axis = {
    gridcolor: colour("rule"), linecolor: colour("muted"), zeroline: false,
    tickcolor: colour("muted"), tickfont: { size: 11 }, title: { standoff: 8 },
  };
  return {
    axis,
    layout: {
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: colour("ink") },
      width, height, margin, autosize: false, showlegend: false, dragmode: "zoom",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: colour("sans"), size: 12, color: colour("ink") },
      hoverlabel: {
        align: "left", bgcolor: colour("panel"), bordercolor: colour("rule"),
        font: { family: colour("sans"), size: 12, color: colour("ink") },
      },
    },
  };
}
