// What the page shows of several runs or steps: one slice at a time, or all.
const SLICES = DATA.slices;
const COURSE = DATA.course;
const SLICE_OF = DATA.slice_of;
const THING_OF = DATA.thing_of;
const VIEW = { metric: null, log: false, perSize: false, colourBy: "role", normal: "rank", selected: 0, slice: DATA.slice, shown: [], place: new Map() };

// Matrices of one (subject, view), in the order of the slices.
const COURSES = [];
for (const [i, thing] of THING_OF.entries()) (COURSES[thing] ??= []).push(i);
for (const members of COURSES) members.sort((a, b) => SLICE_OF[a] - SLICE_OF[b]);

function showSlice(slice) {
  VIEW.slice = slice;
  VIEW.shown = MATRICES.map((_, i) => i).filter((i) => slice === null || SLICE_OF[i] === slice);
  VIEW.place = new Map(VIEW.shown.map((i, place) => [i, place]));
  const columns = shownColumns();
  const preferred = columns.find((column) => METRICS[column].metric === "stable_rank");
  if (!columns.includes(VIEW.metric)) VIEW.metric = preferred ?? columns[0] ?? 0;
}
const placeOf = (i) => VIEW.place.get(i) ?? -9;
const shortName = (i) => (VIEW.slice === null && MATRICES[i].at ? `${MATRICES[i].short} · ${MATRICES[i].at}` : MATRICES[i].short);
const shownColumns = () => METRICS.slice(0, NUM_PLAIN).map((_, column) => column)
  .filter((column) => VIEW.shown.some((i) => CELLS[column][i]));
const sliceRemark = () => (SLICES.length > 1 && VIEW.slice !== null ? ` (${SLICES[VIEW.slice].label})` : "");
// The same matrix in another slice.
const sibling = (i, slice) => COURSES[THING_OF[i]].find((k) => SLICE_OF[k] === slice) ?? null;
const inRun = (i, run) => COURSES[THING_OF[i]].find((k) => MATRICES[k].run === run) ?? null;
const columnOf = (metric, variant = null) => METRICS.findIndex((entry, column) =>
  column < NUM_PLAIN && entry.metric === metric && (variant === "any" || entry.variant === variant));
const valueAt = (column, i) => (column < 0 || i === null ? null : CELLS[column][i]?.value ?? null);
// One matrix for each thing: that of the slice on view where it has one.
const things = () => COURSES.map((members) => members.find((i) => VIEW.place.has(i)) ?? members.at(-1));

// Groups in the order of the model; the rarest beyond the palette share the grey.
function groups(key) {
  const counts = new Map();
  const unnamed = MATRICES.some((matrix) => matrix[key]) ? "not known" : "all matrices";
  for (const members of COURSES) {
    const name = MATRICES[members[0]][key] ?? unnamed;
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  let names = [...counts.keys()];
  if (names.length > NUM_COLOURS + 1) {
    const repeated = names.filter((name) => counts.get(name) > 1);
    const common = (repeated.length ? repeated : names).sort((a, b) => counts.get(b) - counts.get(a)).slice(0, NUM_COLOURS);
    names = names.filter((name) => common.includes(name));
  }
  const of = MATRICES.map((matrix) => {
    const at = names.indexOf(matrix[key] ?? unnamed);
    return at < 0 ? names.length : at;
  });
  const others = counts.size > names.length;
  return { names: others ? [...names, "others"] : names, of };
}
function groupFill() {
  const fills = palette();
  return (name, group) => (name === "others" ? fills[NUM_COLOURS] : fills[group]);
}
showSlice(DATA.slice);
