// The scan unpacked: matrices, cells, spectra, and texts of their numbers.
const MATRICES = DATA.matrices;
const METRICS = DATA.metrics;
// The first columns were measured; those behind them are references, for the table alone.
const NUM_PLAIN = DATA.plain;

function unpack(cell) {
  if (!cell) return null;
  const text = (at) => (cell[at] < 0 ? null : DATA.strings[cell[at]]);
  return {
    value: cell[0], lower: cell[1], upper: cell[2], failure: cell[3],
    errorKind: text(4), status: text(5), reason: text(6), route: text(7), source: text(8),
    special: cell[9] ?? null, deviation: cell[10] ?? null, z: cell[11] ?? null,
  };
}
const CELLS = DATA.cells.map((column) => column.map(unpack));
const SPECTRA = DATA.spectra.map((spectrum) => spectrum && {
  size: spectrum.size, resolved: spectrum.resolved, values: spectrum.values, index: DATA.grids[spectrum.grid],
  histogram: spectrum.histogram,
  cell: unpack(spectrum.cell),
});

const NULLS = DATA.nulls;
const HAS_SPECTRA = SPECTRA.some(Boolean);

const STATUS = MATRICES.map((_, i) => {
  const cells = [...CELLS.map((column) => column[i]), SPECTRA[i]?.cell];
  const bad = cells.find((cell) => cell && cell.status !== "ok");
  return bad ? { status: bad.status, reason: bad.reason } : { status: "ok", reason: null };
});
// To so many digits, never inward: what is printed holds what was computed.
function outward(x, digits, up) {
  if (!Number.isFinite(x) || x === 0) return x;
  const near = Number(x.toPrecision(digits));
  if (up ? near >= x : near <= x) return near;
  const unit = 10 ** (Math.floor(Math.log10(Math.abs(x))) - digits + 1);
  return Number((near + (up ? unit : -unit)).toPrecision(digits));
}
// As many digits as it takes to tell the two ends apart.
function enclosure(cell) {
  const { lower, upper } = cell;
  if (lower === null && upper === null) return null;
  const relative = (upper - lower) / Math.max(Math.abs(lower), Math.abs(upper));
  const bounded = Number.isFinite(lower) && Number.isFinite(upper);
  const digits = relative > 0 ? Math.ceil(-Math.log10(relative)) + 2 : 17;
  const shown = bounded ? Math.min(17, Math.max(4, digits)) : 4;
  return `[${format(outward(lower, shown, false), shown)}, ${format(outward(upper, shown, true), shown)}]`;
}
// Half-widths, rounded up; null where the enclosure is better read as two numbers.
function margin(cell) {
  const { value, lower, upper } = cell;
  if (![value, lower, upper].every(Number.isFinite)) return null;
  if (lower === value && upper === value) return "exact";
  const half = (x) => {
    if (!(x > 0)) return 0;
    const unit = 10 ** Math.floor(Math.log10(x));
    return Math.ceil(x / unit - 1e-9) * unit;
  };
  const [down, up] = [half(value - lower), half(upper - value)];
  if (Math.max(down, up) > 1e-3 * Math.abs(value)) return null;
  const near = Math.max(down, up) <= 1.5 * Math.min(down, up);
  return near ? `± ${format(Math.max(down, up), 1)}` : `+${format(up, 1)} −${format(down, 1)}`;
}
const shape = (matrix) => (matrix.m === null || matrix.n === null ? null : `${matrix.m} × ${matrix.n}`);
const side = (matrix) => (shape(matrix) === null ? null : Math.min(matrix.m, matrix.n));

// Value for people: a number, or the reason why there is none.
const isKnown = (cell) => cell.value !== null || (cell.special !== null && cell.special !== "nan");
const shownValue = (cell) =>
  isKnown(cell) ? format(cell.value ?? cell.special) : words(cell.status);

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

// Long dotted names may break after a dot.
const breakable = (name) => name.split(/(?<=[./])/).flatMap((part) => [part, element("wbr")]);
