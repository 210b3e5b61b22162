// Wiring: controls, the address, the colour scheme, the width, the printer.
function drawAll() {
  if (NUM_PLAIN) {
    drawBars();
    drawHeat();
  }
  if (MATRICES.length) drawSigma();
}

function select(i) {
  VIEW.selected = i;
  byId("matrix").value = String(i);
  for (const [k, row] of ROWS.entries()) {
    if (k === i) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
  for (const box of document.querySelectorAll("#wiring .graph a")) {
    const chosen = new URLSearchParams(box.getAttribute("href").slice(1)).get("layer") === MATRICES[i].name;
    if (chosen) box.setAttribute("aria-current", "true");
    else box.removeAttribute("aria-current");
  }
  drawCard();
  drawSigma();
  markSelected();
}
const address = (i) => new URLSearchParams({ layer: MATRICES[i].name, view: MATRICES[i].view ?? "", ...(MATRICES[i].at ? { at: MATRICES[i].at } : {}) });

// The matrix that the address names, or -1. A link without a view finds the first.
function addressed() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (!wanted.has("layer")) return -1;
  const fits = (key, text) => !wanted.get(key) || wanted.get(key) === (text ?? "");
  return MATRICES.findIndex((matrix) => matrix.name === wanted.get("layer") && fits("view", matrix.view) && fits("at", matrix.at));
}
function follow(behavior = "auto") {
  const i = addressed();
  if (i < 0) return;
  select(i);
  byId("spectrum").scrollIntoView({ behavior });
}
// Choosing goes through the address, so that Back returns and a link can be sent.
function choose(i) {
  const hash = `#${address(i)}`;
  if (location.hash === hash) follow();
  else location.hash = hash;
}
function browse(i) {
  history.replaceState(null, "", `#${address(i)}`);
  select(i);
}

const radios = (name, act) => {
  for (const input of document.querySelectorAll(`input[name="${name}"]`)) {
    input.addEventListener("change", () => act(input.value));
  }
};
function wireLayers() {
  byId("metric").append(...METRICS.slice(0, NUM_PLAIN).map((metric, at) => element("option", { value: at }, metric.label)));
  byId("metric").value = String(VIEW.metric);
  const allowDivision = () => {
    const allowed = countsDimensions(METRICS[VIEW.metric]);
    byId("per-size").disabled = !allowed;
    if (!allowed) byId("per-size").checked = VIEW.perSize = false;
  };
  allowDivision();
  // Where hardly a role repeats, the types of the layers say more.
  const { names, of } = groups("role");
  const rest = names.at(-1) === "others" ? of.filter((group) => group === names.length - 1).length : 0;
  if (rest > MATRICES.length / 2) VIEW.colourBy = "layer_type";
  byId("colour").value = VIEW.colourBy;
  byId("metric").addEventListener("change", (event) => { VIEW.metric = Number(event.target.value); allowDivision(); drawBars(); });
  byId("colour").addEventListener("change", (event) => { VIEW.colourBy = event.target.value; drawBars(); });
  byId("per-size").addEventListener("change", (event) => { VIEW.perSize = event.target.checked; drawBars(); });
  radios("scale", (value) => { VIEW.log = value === "log"; drawBars(); });
  radios("normal", (value) => { VIEW.normal = value; drawHeat(); });
  drawBars();
  drawHeat();
  for (const id of ["bars", "heat"]) byId(id).on("plotly_click", (event) => choose(event.points[0].customdata));
}
function wireSpectrum() {
  byId("matrix").append(...MATRICES.map((matrix, i) => element("option", { value: i }, matrix.name === matrix.short ? matrix.name : `${matrix.name}${matrix.view ? ` (${matrix.view})` : ""}`)));
  byId("matrix").addEventListener("change", (event) => browse(Number(event.target.value)));
  const step = (by) => browse((VIEW.selected + by + MATRICES.length) % MATRICES.length);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  if (!HAS_SPECTRA) return;
  byId("peers").addEventListener("change", (event) => { SIGMA.peers = event.target.checked; drawSigma(); });
  radios("index", (value) => { SIGMA.indexLog = value === "log"; drawSigma(); });
}
function wireTable() {
  byId("filter").addEventListener("input", (event) => { TABLE.filter = event.target.value; drawRows(); });
  byId("troubled").addEventListener("change", (event) => { TABLE.troubled = event.target.checked; drawRows(); });
  byId("download").addEventListener("click", download);
  byId("references")?.addEventListener("change", (event) => byId("table").classList.toggle("full-width", event.target.checked));
  drawHead();
  drawRows();
}

// A drawing wider than its frame begins where the model begins.
const first = document.querySelector(".graph .node");
if (first) {
  const frame = document.querySelector(".wires");
  const [box, around] = [first, frame].map((node) => node.getBoundingClientRect());
  frame.scrollLeft = box.left + box.width / 2 - around.left - around.width / 2;
}

if (byId("checks")) wireChecks();
if (NUM_PLAIN) wireLayers();
if (MATRICES.length) {
  wireSpectrum();
  wireTable();
  select(Math.max(0, addressed(), addressed() < 0 ? SPECTRA.findIndex(Boolean) : 0));
  watchPage(drawAll);
  addEventListener("hashchange", () => follow());
  follow("instant");
}
document.documentElement.dataset.ready = "true";
