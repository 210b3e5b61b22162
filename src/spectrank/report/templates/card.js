// The card: all numbers of the chosen matrix, what most of them share said once.
const CARD = { opened: new Set() };
// Columns of another tool, or of random twins, are a list of their own.
const OWN_LIST = 5;
const TOOLS = (() => {
  const metrics = new Map();
  for (const { metric, variant } of METRICS.slice(0, NUM_PLAIN)) {
    if (variant === null || variant.includes("=")) continue;
    if (!metrics.has(variant)) metrics.set(variant, new Set());
    metrics.get(variant).add(metric);
  }
  return [...metrics.keys()].filter((variant) => metrics.get(variant).size >= OWN_LIST);
})();

// The commonest of some texts, where there is any.
function commonest(texts) {
  const tally = new Map();
  for (const text of texts.filter(Boolean)) tally.set(text, (tally.get(text) ?? 0) + 1);
  return [...tally.entries()].sort((a, b) => b[1] - a[1])[0]?.[0] ?? null;
}
const routeOf = (cell) => (cell.route ? `route ${cell.route}` : null);

// One row for the number, one under it for what stands behind it.
function cardRows(label, cell, usual) {
  const known = isKnown(cell);
  const half = margin(cell);
  const value = element("td", { class: "num", colspan: half ? null : 2 }, known ? element("b", {}, shownValue(cell)) : null);
  if (cell.status !== "ok") value.append(known ? " " : "", element("span", { class: "badge", title: cell.reason }, words(cell.status)));
  const error = half ? element("td", { class: "num margin", title: enclosure(cell) }, half) : null;
  const rows = [element("tr", {}, ...[element("th", { scope: "row" }, label), value, error].filter(Boolean))];
  const reason = cell.reason === STATUS[VIEW.selected].reason ? null : cell.reason;
  const odd = [routeOf(cell), backing(cell)].filter((text) => text && !usual.includes(text)).join(" · ");
  const details = [half ? null : enclosure(cell), odd, reason].filter(Boolean);
  if (details.length) {
    rows.push(element("tr", { class: "detail" }, element("td", { colspan: 3 }, ...details.map((text) => element("small", {}, text)))));
  }
  return rows;
}
const usualOf = (cells) => [commonest(cells.map(routeOf)), commonest(cells.map(backing))].filter(Boolean);
function cardTable(rows, usual) {
  return element("table", {}, element("tbody", {}, ...rows.flatMap(([label, cell]) => cardRows(label, cell, usual))));
}
const usualRemark = (usual) => (usual.length ? element("p", { class: "remark" }, `Unless a line says otherwise: ${usual.join(" · ")}.`) : null);

function toolList(i, variant) {
  const rows = METRICS.slice(0, NUM_PLAIN).map((metric, column) => [metric, CELLS[column][i]])
    .filter(([metric, cell]) => cell && metric.variant === variant)
    .map(([metric, cell]) => [metric.label.replace(` (${variant})`, ""), cell]);
  if (!rows.length) return null;
  const usual = usualOf(rows.map(([, cell]) => cell));
  const bare = rows.some(([, cell]) => backing(cell)) ? null : element("p", { class: "remark" }, "No error is given.");
  const list = element("details", {}, element("summary", {}, variant, " ", element("span", { class: "count" }, rows.length)), usualRemark(usual), bare, cardTable(rows, usual));
  list.open = CARD.opened.has(variant) || document.documentElement.hasAttribute("data-print");
  list.addEventListener("toggle", () => {
    if (document.documentElement.hasAttribute("data-print")) return;
    if (list.open) CARD.opened.add(variant);
    else CARD.opened.delete(variant);
  });
  return list;
}

function drawCard() {
  const i = VIEW.selected;
  const matrix = MATRICES[i];
  const facts = [matrix.at, shape(matrix), matrix.view, matrix.dtype, matrix.layer_type];
  const nodes = [element("h3", {}, ...breakable(matrix.name))];
  nodes.push(element("p", { class: "remark" }, facts.filter(Boolean).join(" · ")));
  if (matrix.inferred) nodes.push(element("p", { class: "remark" }, "Type and view inferred from name and shape."));
  if (matrix.tied_to) nodes.push(element("p", { class: "remark" }, `Tied to ${matrix.tied_to}.`));
  if (STATUS[i].status !== "ok") {
    nodes.push(element("p", {}, element("span", { class: "badge" }, words(STATUS[i].status)), ` ${STATUS[i].reason ?? ""}`));
  }
  const own = METRICS.slice(0, NUM_PLAIN).map((metric, column) => ({ metric, column })).filter(({ metric }) => !TOOLS.includes(metric.variant));
  const numbers = (k, suffix = "") => own.map(({ metric, column }) => [`${metric.label}${suffix}`, CELLS[column][k]]).filter(([, cell]) => cell);
  const rows = numbers(i);
  const spectrum = SPECTRA[i]?.cell;
  const usual = usualOf(rows.map(([, cell]) => cell));
  nodes.push(usualRemark(usual));
  const odd = spectrum ? [routeOf(spectrum), backing(spectrum)].filter((text) => text && !usual.includes(text)) : [];
  if (odd.length) nodes.push(element("p", { class: "remark" }, `Spectrum: ${odd.join(" · ")}.`));
  const moved = COURSE === "comparison" ? inRun(i, "difference") : null;
  if (moved !== null && moved !== i) rows.push(...numbers(moved, ", of the difference"));
  nodes.push(cardTable(rows, usual), ...TOOLS.map((variant) => toolList(i, variant)));
  byId("card").replaceChildren(...nodes.filter(Boolean));
}
