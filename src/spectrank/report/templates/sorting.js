// A table whose columns sort by a click: the useful end first, the other end, as it was.
// Columns: { label, numeric, key(row), cell(row) }; rows are any values.
function sortedRows(rows, column, down) {
  const keys = new Map(rows.map((row) => [row, column.key(row)]));
  const empty = (x) => x === null || x === undefined;
  return rows.map((row, at) => ({ row, at })).sort((a, b) => {
    const [x, y] = [keys.get(a.row), keys.get(b.row)];
    // What has no value stands last in either direction.
    if (empty(x) || empty(y)) return empty(x) - empty(y) || a.at - b.at;
    const forward = typeof x === "number" ? (x > y) - (x < y) : String(x).localeCompare(String(y), undefined, { numeric: true });
    return (down ? -forward : forward) || a.at - b.at;
  }).map(({ row }) => row);
}
// Heads that are buttons; act(column or null, down) puts the rows in order.
function sortHeads(table, columns, act, start = null) {
  const state = { at: start, down: true };
  const draw = () => {
    act(state.at === null ? null : columns[state.at], state.down);
    for (const [at, head] of [...table.tHead.rows[0].cells].entries()) {
      if (at === state.at) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  };
  table.tHead.replaceChildren(element("tr", {}, ...columns.map(({ label, numeric, kind, remark }, at) => {
    const button = element("button", { type: "button", title: remark ?? "Sort: again for the other way, a third time for model order" }, label);
    button.addEventListener("click", () => {
      const first = Boolean(numeric);
      if (state.at !== at) Object.assign(state, { at, down: first });
      else if (state.down === first) state.down = !first;
      else state.at = null;
      draw();
    });
    return element("th", { scope: "col", class: kind ?? (numeric ? "num" : null) }, button);
  })));
  draw();
}
function sortable(table, columns, rows, start = null) {
  const nodes = new Map(rows.map((row) => [row, element("tr", {}, ...columns.map((column) => column.cell(row)))]));
  const order = (column, down) => {
    const ordered = column === null ? rows : sortedRows(rows, column, down);
    table.tBodies[0].replaceChildren(...ordered.map((row) => nodes.get(row)));
  };
  sortHeads(table, columns, order, start);
}
const numberCell = (value, title = null, digits = 4) => element("td", { class: "num", title }, value === null || value === undefined ? "–" : format(value, digits));
// A table that stands in the page already: its heads become buttons that sort it.
function sortMade(table) {
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies[0].rows];
  const key = (row, at) => {
    const { dataset, textContent } = row.cells[at];
    if (dataset.key === undefined) return textContent.trim() || null;
    return dataset.key === "" ? null : Number(dataset.key);
  };
  const columns = heads.map((head, at) => ({ label: head.textContent.trim(), numeric: head.classList.contains("num"), key: (row) => key(row, at) }));
  sortHeads(table, columns, (column, down) => {
    table.tBodies[0].append(...(column === null ? rows : sortedRows(rows, column, down)));
  });
}
