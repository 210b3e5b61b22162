// Depth profiles: a panel for each role or type, the others in grey behind it.
function depthGroups() {
  const { names, of } = groups(VIEW.colourBy);
  const fill = groupFill();
  return names.map((name, group) => ({
    name, fill: fill(name, group), members: VIEW.shown.filter((i) => of[i] === group),
  // What shares the grey has no depth in common.
  })).filter(({ name, members }) => members.length > 1 && name !== "others");
}
// Short profiles in few panels keep the slope that they have in many.
function depthColumns(width, panels) {
  const few = panels.every(({ members }) => members.length <= 24) ? Math.min(3, Math.floor(width / 420)) : 1;
  return Math.max(1, few, Math.min(panels.length, Math.floor(width / 210), 4));
}

function depthPanel(panels, at, columns, value, axis) {
  const suffix = at ? String(at + 1) : "";
  const [column, row] = [at % columns, Math.floor(at / columns)];
  const rows = Math.ceil(panels.length / columns);
  const gap = { x: 0.05, y: 0.3 / rows };
  const span = { x: (1 - gap.x * (columns - 1)) / columns, y: (1 - gap.y * (rows - 1)) / rows };
  const left = column * (span.x + gap.x);
  const top = 1 - row * (span.y + gap.y);
  const line = (members, style) => ({
    type: "scatter", x: members.map(placeOf), y: members.map(value), xaxis: `x${suffix}`, yaxis: `y${suffix}`, connectgaps: false, ...style,
  });
  // One trace with gaps: a trace for each costs more than its points.
  const others = panels.filter((_, other) => other !== at).flatMap(({ members }) => [...members, null]);
  const grey = {
    ...line([], { mode: "lines", hoverinfo: "skip", line: { color: colour("ghost"), width: 1 } }),
    x: others.map((i) => (i === null ? null : placeOf(i))), y: others.map((i) => (i === null ? null : value(i))),
  };
  const { members, fill, name } = panels[at];
  const own = line(members, {
    mode: "lines+markers", line: { color: fill, width: 2 }, marker: { color: fill, size: members.length > 40 ? 3 : 5 },
    customdata: members, hoverinfo: "text", hovertext: members.map((i) => hover(i, VIEW.metric)),
  });
  return {
    traces: [...(others.length ? [grey] : []), own],
    axes: {
      [`xaxis${suffix}`]: {
        ...axis, domain: [left, left + span.x], anchor: `y${suffix}`, range: [-0.03 * VIEW.shown.length - 0.5, 1.03 * VIEW.shown.length - 0.5],
        showticklabels: false, showgrid: false, ticks: "", fixedrange: true, showline: true,
      },
      [`yaxis${suffix}`]: {
        ...axis, domain: [top - span.y, top], anchor: `x${suffix}`, matches: at ? "y" : undefined, type: VIEW.log ? "log" : "linear",
        showticklabels: column === 0, fixedrange: true, nticks: 4, rangemode: "tozero", ...(VIEW.log ? logTicks(panels.flatMap((panel) => panel.members.map(value))) : {}),
      },
    },
    title: {
      x: left, xref: "paper", y: top, yref: "paper", yanchor: "bottom", xanchor: "left", showarrow: false,
      text: `<b>${plain(name)}</b> · ${members.length}`, font: { size: 12, color: fill },
    },
  };
}

function drawDepth() {
  const box = byId("depth");
  const panels = depthGroups();
  box.closest("figure").hidden = panels.length === 0;
  if (!panels.length) return;
  const width = box.clientWidth;
  const columns = depthColumns(width, panels);
  const rows = Math.ceil(panels.length / columns);
  const { axis, layout } = baseLayout(box, rows * 165 + 58, { l: 48, r: 8, t: 44, b: 10 });
  const divisor = (i) => (VIEW.perSize ? side(MATRICES[i]) : 1);
  const value = (i) => {
    const x = valueAt(VIEW.metric, i);
    return x === null || !divisor(i) || (VIEW.log && !(x > 0)) ? null : x / divisor(i);
  };
  const drawn = panels.map((_, at) => depthPanel(panels, at, columns, value, axis));
  Plotly.react(box, drawn.flatMap(({ traces }) => traces), {
    ...layout, hovermode: "closest", annotations: drawn.map(({ title }) => title), ...Object.assign({}, ...drawn.map(({ axes }) => axes)),
  }, MODEBAR);
  const label = METRICS[VIEW.metric].label + (VIEW.perSize ? " / min(m, n)" : "");
  byId("depth-caption").textContent = `${label} through the depth of the model, a panel for each ${VIEW.colourBy === "role" ? "role" : "layer type"} that occurs more than once, the others in grey: from the first matrix (left) to the last (right), all on one scale. Click a point for its ${DETAIL}.`;
}
