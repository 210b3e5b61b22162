// The checks stand in the page already: here they are filtered, their reasons opened.
function wireChecks() {
  const rows = [...document.querySelectorAll(".checks tbody tr")];
  const text = rows.map((row) => row.textContent.toLowerCase());
  const [filter, of, verdict] = ["check-filter", "check-of", "check-verdict"].map(byId);
  const meets = (row) => {
    const cells = of?.value ? [row.cells[Number(of.value) + 1]] : [...row.cells];
    const entries = cells.flatMap((cell) => [...cell.querySelectorAll(".entry")]);
    return entries.some((entry) => !verdict.value || entry.dataset.verdict === verdict.value);
  };
  const draw = () => {
    const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const [i, row] of rows.entries()) {
      row.hidden = !(meets(row) && wanted.every((word) => text[i].includes(word)));
      // What was asked for must not stay folded.
      for (const rest of verdict.value ? row.querySelectorAll("details.rest") : []) {
        rest.open ||= rest.querySelector(`.entry[data-verdict="${CSS.escape(verdict.value)}"]`) !== null;
      }
    }
    const shown = rows.filter((row) => !row.hidden).length;
    byId("checks-shown").textContent = shown ? `${shown} of ${rows.length} matrices` : "No matrix matches.";
  };
  filter.addEventListener("input", draw);
  of?.addEventListener("change", draw);
  verdict.addEventListener("change", draw);
  byId("check-reasons").addEventListener("change", (event) => {
    for (const reason of document.querySelectorAll("details.why")) reason.open = event.target.checked;
  });
  byId("check-reasons").closest("label").hidden = !document.querySelector("details.why");
  // Without a script these would do nothing, so they are hidden until here.
  byId("check-controls").hidden = false;
  draw();
}
