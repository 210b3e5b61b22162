// The table of all numbers: sorting, filtering, a CSV file made here.
const TABLE = { sort: null, down: true, filter: "", troubled: false, most: 500 };
const FIELDS = MATRICES.map((matrix, i) => [matrix.name, matrix.short, matrix.at, matrix.view, matrix.role, matrix.dtype, matrix.layer_type, words(STATUS[i].status)].filter(Boolean).join(" ").toLowerCase());

function cellTitle(cell) {
  return [cell.status === "ok" ? null : [words(cell.status), cell.reason].filter(Boolean).join(": "),
    enclosure(cell), backing(cell), cell.route && `route ${cell.route}`].filter(Boolean).join("\n");
}
function statusBadge({ status, reason }) {
  return status === "ok" ? "ok" : element("span", { class: "badge", title: reason }, words(status));
}
const columnClass = (column) => (column < NUM_PLAIN ? "num" : "num reference");
function metricCell(cell, column) {
  if (!cell) return element("td", { class: columnClass(column) }, "–");
  const known = isKnown(cell);
  const badge = cell.status === "ok" ? null : statusBadge(cell);
  const text = known ? format(cell.value ?? cell.special) : null;
  const z = cell.z === null ? null : element("small", {}, `z ${format(cell.z, 3)}`);
  return element("td", { class: columnClass(column), title: cellTitle(cell) }, text, text && badge ? " " : null, badge, z);
}
function nameCell(i) {
  const button = element("button", { type: "button", title: MATRICES[i].name },
    element("span", { class: "full" }, MATRICES[i].name), element("span", { class: "short" }, MATRICES[i].short));
  button.addEventListener("click", () => choose(i));
  return element("th", { scope: "row" }, button);
}
const factColumn = (label, fact, numeric = false) => ({
  label, numeric, key: (i) => MATRICES[i][fact],
  cell: (i) => element("td", { class: numeric ? "num" : null }, MATRICES[i][fact] ?? "–"),
});
// References sort by z, where they have it: what is far from one stands on top.
function sortKey(cells) {
  if (cells.some((cell) => cell && cell.z !== null)) return (i) => cells[i]?.z ?? null;
  return (i) => cells[i]?.value ?? (cells[i]?.special === "inf" ? Infinity : null);
}
// In the table each reference stands behind what it is a reference of.
const home = (column) => (column < NUM_PLAIN ? column : METRICS.findIndex((metric) => metric.metric === METRICS[column].metric));
const ORDER = METRICS.map((_, column) => column).sort((a, b) => home(a) - home(b) || a - b);
const COLUMNS = [
  { label: "matrix", key: (i) => MATRICES[i].name, cell: nameCell },
  ...(SLICES.length > 1 ? [factColumn("at", "at")] : []),
  factColumn("view", "view"), factColumn("m", "m", true), factColumn("n", "n", true),
  { label: "status", key: (i) => STATUS[i].status, cell: (i) => element("td", {}, statusBadge(STATUS[i])) },
  ...ORDER.map((column) => ({
    label: METRICS[column].label, numeric: true, kind: columnClass(column),
    key: sortKey(CELLS[column]),
    cell: (i) => metricCell(CELLS[column][i], column),
  })),
  factColumn("type", "layer_type"), factColumn("dtype", "dtype"),
];
// Rows are made when they are first shown: a run has many.
const ROWS = [];
function rowOf(i) {
  ROWS[i] ??= element("tr", { "aria-current": i === VIEW.selected ? "true" : null }, ...COLUMNS.map((column) => column.cell(i)));
  return ROWS[i];
}

function visibleRows() {
  const wanted = TABLE.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = VIEW.shown.filter((i) =>
    (!TABLE.troubled || STATUS[i].status !== "ok") && wanted.every((word) => FIELDS[i].includes(word)));
  return TABLE.sort === null ? rows : sortedRows(rows, TABLE.sort, TABLE.down);
}
function drawRows() {
  const rows = visibleRows();
  const body = byId("table").tBodies[0];
  // Thousands of rows take seconds to lay out; paper shows them all.
  const printing = document.documentElement.hasAttribute("data-print");
  const most = printing ? rows.length : TABLE.most;
  const parts = printing ? paperTables(rows) : [];
  byId("paper").replaceChildren(...parts);
  byId("table").closest(".box").classList.toggle("screen", parts.length > 0);
  body.replaceChildren(...rows.slice(0, most).map(rowOf));
  if (rows.length > most) {
    const more = element("button", { type: "button" }, `Show ${rows.length - most} more`);
    more.addEventListener("click", () => { TABLE.most = rows.length; drawRows(); });
    body.append(element("tr", {}, element("td", { colspan: COLUMNS.length }, more)));
  }
  if (!rows.length) {
    body.append(element("tr", {}, element("td", { colspan: COLUMNS.length }, "No matrix matches.")));
  }
  byId("shown").textContent = `${rows.length} of ${VIEW.shown.length} matrices${sliceRemark()}`;
}
// Paper is no wider than this many columns: the others stand in tables of their own.
const ON_PAPER = 12;
function paperTables(rows) {
  const full = byId("table").classList.contains("full-width");
  const columns = COLUMNS.slice(1).filter(({ kind }) => full || !kind?.includes("reference"));
  if (columns.length < ON_PAPER) return [];
  const parts = Array.from({ length: Math.ceil(columns.length / ON_PAPER) }, (_, at) => columns.slice(at * ON_PAPER, (at + 1) * ON_PAPER));
  return parts.map((part) => element("table", { class: "grid" },
    element("thead", {}, element("tr", {}, ...[COLUMNS[0], ...part].map(({ label, numeric }) => element("th", { scope: "col", class: numeric ? "num" : null }, label)))),
    element("tbody", {}, ...rows.map((i) => element("tr", {}, element("th", { scope: "row" }, MATRICES[i].short), ...part.map((column) => column.cell(i)))))));
}
const drawHead = () => sortHeads(byId("table"), COLUMNS, (column, down) => {
  Object.assign(TABLE, { sort: column, down });
  drawRows();
});

// A name that begins like a formula must stay a text in a spreadsheet.
function csvField(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) && !Number.isFinite(Number(value)) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}
function csv(rows) {
  const names = ["name", "view", "run", "step", "m", "n", "dtype", "layer_type", "tied_to", "inferred"];
  const parts = ["value", "lower", "upper", "errorKind", "failure", "status", "reason", "route", "source",
    ...(NUM_PLAIN < METRICS.length ? ["deviation", "z"] : [])];
  const extra = ["of", "cells"].filter((name) => METRICS.some((metric) => metric[name] !== null));
  const head = ["subject", ...names.slice(1), "metric", "variant", "index",
    "value", "lower", "upper", "error_kind", "failure_probability", ...parts.slice(5).map((part) => (part === "z" ? "z_score" : part)), ...extra];
  const lines = [head.join(",")];
  for (const i of rows) {
    for (const [column, metric] of METRICS.entries()) {
      const cell = CELLS[column][i];
      if (!cell) continue;
      const numbers = parts.map((part) => (part === "value" ? cell.value ?? cell.special : cell[part]));
      const fields = [...names.map((name) => MATRICES[i][name]), metric.metric, metric.variant, metric.index, ...numbers, ...extra.map((name) => metric[name])];
      lines.push(fields.map(csvField).join(","));
    }
  }
  return `${lines.join("\n")}\n`;
}
function download() {
  const url = URL.createObjectURL(new Blob([csv(visibleRows())], { type: "text/csv" }));
  const name = `${document.title.split(" · ")[0].replace(/[^\w.-]+/g, "_")}.csv`;
  const link = element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
