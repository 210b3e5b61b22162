// What all pages share: the data, elements, formats, colours, the frame of a chart.
const DATA = JSON.parse(document.getElementById("data").textContent);
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

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const palette = () => Array.from({ length: NUM_COLOURS + 1 }, (_, i) => colour(`c${i}`));

const MODEBAR = {
  displaylogo: false, responsive: false, doubleClick: "reset",
  modeBarButtons: [["toImage", "resetScale2d"]],
};
// Least and largest; a spread into arguments would overflow the stack.
const extremes = (values) => values.reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], [Infinity, -Infinity]);
// Ticks of a logarithmic axis: 1, 2, 5 over few decades, powers of ten over many.
function logTicks(values) {
  const known = values.filter((value) => value > 0);
  const [low, high] = extremes(known);
  const decades = known.length ? Math.log10(high / low) : 0;
  // Without a format a tick at 0.5 reads 5.
  return decades < 2 ? { dtick: "D2", tickformat: "~g" } : { exponentformat: "power", dtick: Math.ceil(decades / 8) };
}
// The height is set before anything is drawn, so that a link scrolls to the right place.
function baseLayout(box, height, margin) {
  const width = box.clientWidth;
  box.style.height = `${height}px`;
  const axis = {
    gridcolor: colour("rule"), linecolor: colour("muted"), zeroline: false,
    tickcolor: colour("muted"), tickfont: { size: 11 }, title: { standoff: 8 },
    // Measuring every label takes longer than drawing the chart.
    ticklabeloverflow: "allow",
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

// Draws anew when the colours, the width or the medium change.
function watchPage(drawAll) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let width = document.body.clientWidth;
  new ResizeObserver(() => {
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    requestAnimationFrame(drawAll);
  }).observe(document.body);
  // Paper is white and narrow whatever the screen is, and nobody can unfold it.
  let closed = [];
  const paper = (printing) => {
    document.documentElement.toggleAttribute("data-print", printing);
    if (printing) closed = [...document.querySelectorAll("details.rest:not([open])")];
    for (const rest of closed) rest.open = printing;
    drawAll();
  };
  addEventListener("beforeprint", () => paper(true));
  addEventListener("afterprint", () => paper(false));
}
