// Wiring: controls, the address, the colour scheme, the width, the printer.
function drawAll() {
  if (NUM_PLAIN) {
    drawBars();
    drawHeat();
    drawDepth();
  }
  if (COURSE === "comparison") drawComparison();
  if (COURSE === "trend") drawTrend();
  if (byId("law-grid")) drawLaws();
  if (!MATRICES.length) return;
  drawSigma();
  drawCard();
  drawRows();
}

function select(i) {
  // A link may name a matrix of another slice than the one on view.
  if (!VIEW.place.has(i)) changeSlice(SLICE_OF[i], i);
  const moved = VIEW.selected !== i;
  VIEW.selected = i;
  byId("matrix").value = String(i);
  for (const [k, row] of ROWS.entries()) {
    if (k === i) row?.setAttribute("aria-current", "true");
    else row?.removeAttribute("aria-current");
  }
  for (const box of document.querySelectorAll("#wiring .graph a")) {
    const chosen = new URLSearchParams(box.getAttribute("href").slice(1)).get("layer") === MATRICES[i].name;
    if (chosen) box.setAttribute("aria-current", "true");
    else box.removeAttribute("aria-current");
  }
  drawCard();
  drawSigma();
  if (!moved) return;
  markSelected();
  if (COURSE === "trend") drawTrendLines();
}
const address = (i) => new URLSearchParams({ layer: MATRICES[i].name, view: MATRICES[i].view ?? "", ...(MATRICES[i].at ? { at: MATRICES[i].at } : {}) });

// The matrix that the address names, or -1. A link without a view finds the first.
function addressed() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (!wanted.has("layer")) return -1;
  const fits = (key, text) => !wanted.get(key) || wanted.get(key) === (text ?? "");
  const found = MATRICES.map((_, i) => i).filter((i) =>
    MATRICES[i].name === wanted.get("layer") && fits("view", MATRICES[i].view) && fits("at", MATRICES[i].at));
  return found.find((i) => VIEW.place.has(i)) ?? found[0] ?? -1;
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
function allowDivision() {
  const allowed = countsDimensions(METRICS[VIEW.metric]);
  byId("per-size").disabled = !allowed;
  if (!allowed) byId("per-size").checked = VIEW.perSize = false;
}
const metricOptions = (columns) => columns.map((column) => element("option", { value: column }, METRICS[column].label));
function offerMetrics() {
  byId("metric").replaceChildren(...metricOptions(shownColumns()));
  byId("metric").value = String(VIEW.metric);
  allowDivision();
}
// What another slice changes: all but the views that show the slices side by side.
function changeSlice(slice, selected = null) {
  showSlice(slice);
  const kept = VIEW.place.has(VIEW.selected) ? VIEW.selected : sibling(VIEW.selected, slice);
  VIEW.selected = selected ?? kept ?? VIEW.shown[0];
  for (const choice of document.querySelectorAll("select.slice")) choice.value = slice === null ? "" : String(slice);
  offerMatrices();
  drawRows();
  if (!NUM_PLAIN) return;
  offerMetrics();
  drawBars();
  drawHeat();
  drawDepth();
}
function wireSlices() {
  for (const choice of document.querySelectorAll("select.slice")) {
    choice.append(...SLICES.map(({ label }, at) => element("option", { value: at }, label)), element("option", { value: "" }, "all at once"));
    choice.value = VIEW.slice === null ? "" : String(VIEW.slice);
    choice.addEventListener("change", () => {
      changeSlice(choice.value === "" ? null : Number(choice.value));
      select(VIEW.selected);
    });
  }
}
function wireLayers() {
  offerMetrics();
  // Where hardly a role repeats, the types of the layers say more.
  const { names, of } = groups("role");
  const rest = names.at(-1) === "others" ? VIEW.shown.filter((i) => of[i] === names.length - 1).length : 0;
  if (rest > VIEW.shown.length / 2) VIEW.colourBy = "layer_type";
  byId("colour").value = VIEW.colourBy;
  byId("metric").addEventListener("change", (event) => { VIEW.metric = Number(event.target.value); allowDivision(); drawBars(); drawDepth(); });
  byId("colour").addEventListener("change", (event) => { VIEW.colourBy = event.target.value; drawBars(); drawDepth(); });
  byId("per-size").addEventListener("change", (event) => { VIEW.perSize = event.target.checked; drawBars(); drawDepth(); });
  radios("scale", (value) => { VIEW.log = value === "log"; drawBars(); drawDepth(); });
  radios("normal", (value) => { VIEW.normal = value; drawHeat(); });
  drawBars();
  drawHeat();
  drawDepth();
  for (const id of ["bars", "heat", "depth"]) clicks(id, (point) => choose(point.customdata));
}
// A chart that was never drawn, for want of data, listens to nothing.
function clicks(id, act) {
  byId(id).on?.("plotly_click", (event) => {
    if (event.points[0].customdata !== undefined) act(event.points[0]);
  });
}
function offerMatrices() {
  const text = ({ name, short, view, at }) => [name, name === short ? null : view && `(${view})`, VIEW.slice === null && at ? `· ${at}` : null];
  byId("matrix").replaceChildren(...VIEW.shown.map((i) => element("option", { value: i }, text(MATRICES[i]).filter(Boolean).join(" "))));
  byId("matrix").value = String(VIEW.selected);
}
function wireSpectrum() {
  offerMatrices();
  byId("matrix").addEventListener("change", (event) => browse(Number(event.target.value)));
  const step = (by) => browse(VIEW.shown[(placeOf(VIEW.selected) + by + VIEW.shown.length) % VIEW.shown.length]);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  if (!HAS_SPECTRA) return;
  byId("peers").addEventListener("change", (event) => { SIGMA.peers = event.target.checked; drawSigma(); });
  byId("courses")?.addEventListener("change", (event) => { SIGMA.courses = event.target.checked; drawSigma(); });
  radios("picture", (value) => { SIGMA.histogram = value === "histogram"; drawSigma(); });
  radios("index", (value) => { SIGMA.indexLog = value === "log"; drawSigma(); });
}
function wireTable() {
  byId("filter").addEventListener("input", (event) => { TABLE.filter = event.target.value; drawRows(); });
  byId("troubled").addEventListener("change", (event) => { TABLE.troubled = event.target.checked; drawRows(); });
  byId("download").addEventListener("click", download);
  byId("references")?.addEventListener("change", (event) => byId("table").classList.toggle("full-width", event.target.checked));
  drawHead();
}

// A drawing wider than its frame begins where the model begins.
const first = document.querySelector(".graph .node");
if (first) {
  const frame = document.querySelector(".wires");
  const [box, around] = [first, frame].map((node) => node.getBoundingClientRect());
  frame.scrollLeft = box.left + box.width / 2 - around.left - around.width / 2;
}

if (byId("checks")) wireChecks();
if (byId("laws")) wireLaws();
// Known before anything is drawn, so that nothing is drawn twice.
if (MATRICES.length) {
  const chosen = addressed();
  if (chosen >= 0 && !VIEW.place.has(chosen)) showSlice(SLICE_OF[chosen]);
  const first = COURSE === "comparison" ? moverLink(mostMoved()) : VIEW.shown.find((i) => SPECTRA[i]);
  VIEW.selected = chosen >= 0 ? chosen : first ?? VIEW.shown[0];
}
if (NUM_PLAIN) wireLayers();
if (MATRICES.length) {
  wireSlices();
  wireSpectrum();
  if (COURSE === "comparison") wireComparison();
  if (COURSE === "trend") wireTrend();
  select(VIEW.selected);
  // Behind the charts, each of which asks for its width: the table is laid out once.
  wireTable();
  addEventListener("hashchange", () => follow());
  follow("instant");
}
watchPage(drawAll);
document.documentElement.dataset.ready = "true";
