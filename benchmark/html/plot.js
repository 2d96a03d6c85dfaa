// Accuracy against FLOPs of one setting, drawn by Vega-Lite; it follows the filters of the
// leaderboard. The library is decoded and run only when the plot comes into view.

const SVG_POINTS = 400; // more are drawn on a canvas
const MOST_POINTS = 1000; // a drawing of more says nothing and takes seconds
const MOST_NAMES = 30; // in the legend; beyond it, points tell their names when pointed at
const SAME_FLOPS = 0.5; // percentage points
const plot = { board: null, hits: [], tables: [], view: null, ready: null };

function startPlot(board) {
  plot.board = board;
  const select = document.getElementById("plot-table");
  select.addEventListener("change", drawPlot);
  document.addEventListener("board-drawn", ({ detail }) => {
    plot.hits = detail.hits;
    offerTables(select, detail.tables);
    drawPlot();
  });
  const place = document.getElementById("plot");
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    plot.ready = loadVega();
    plot.ready.then(drawPlot);
  }, { rootMargin: "300px" }).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPlot);
  document.addEventListener("theme", drawPlot);
}

async function loadVega() {
  const script = document.createElement("script");
  script.textContent = await textOf("vega"); // allowed to run by its hash in the page's policy
  document.head.append(script);
}

function offerTables(select, tables) {
  const before = select.value;
  plot.tables = tables;
  select.replaceChildren(...tables.map((table) => make("option", { value: table, text: captionOf(plot.board, table) })));
  if (tables.includes(before)) select.value = before;
  select.closest("label").hidden = tables.length < 2;
}

function pointsOf(board, table, hits) {
  const at = (name, row) => board.columns.get(name).at(row);
  const text = (name, row) => board.columns.get(name).text(row);
  return hits
    .filter((row) => at("table", row) === table && at("final_mean", row) !== null && at("flops_reduction", row) !== null)
    .map((row) => {
      const [colour, first, shape] = splitLook(at("look", row));
      const sd = text("final_sd", row);
      return {
        entry: at("entry", row), cell: at("cell", row), control: at("control", row) === 1,
        colour, first: first === "1", shape,
        flops: at("flops_reduction", row), final: at("final_mean", row),
        low: at("final_low", row), high: at("final_high", row),
        Method: at("entry", row),
        "FLOPs removed": `${text("flops_reduction:1", row)} %`,
        "Params removed": `${text("params_reduction:1", row)} %`,
        Final: `${text("final_mean", row)}${sd && ` ± ${sd}`} % (n = ${text("n", row)})`,
        "95 % interval": intervalOf(board, row) || "needs three seeds",
        "Δ dense": signed(at("delta_mean", row), 2),
        Marks: at("marks", row) || "none",
      };
    });
}

function splitLook(look) {
  const [colour, first] = look.split(" ", 2);
  return [colour, first, look.slice(colour.length + first.length + 2)];
}

// Results at one target lie above each other: spread them sideways, evenly and by at most a point
// or 1.5 % of the range.
function spreadOut(points) {
  const flops = points.map((point) => point.flops);
  const low = flops.reduce((a, b) => Math.min(a, b)), span = flops.reduce((a, b) => Math.max(a, b)) - low || 10;
  const most = Math.min(1, 0.015 * span);
  const clusters = new Map();
  for (const point of points) {
    const near = Math.round(point.flops / Math.max(1, span / 20));
    if (!clusters.has(near)) clusters.set(near, []);
    clusters.get(near).push(point);
  }
  for (const cluster of clusters.values()) {
    cluster.sort((one, other) => one.control - other.control || (one.entry < other.entry ? -1 : 1));
    const step = Math.min(0.012 * span, (2 * most) / Math.max(1, cluster.length - 1));
    cluster.forEach((point, i) => (point.x = point.flops + step * (i - (cluster.length - 1) / 2)));
  }
  return { low: low - 0.06 * span, high: low + 1.06 * span, moved: points.reduce((most, p) => Math.max(most, Math.abs(p.x - p.flops)), 0) };
}

// Methods that no other method beats; controls are there to be compared with. All runs at a target
// hit it within a unit or so: differences below SAME_FLOPS count as equal.
function paretoFront(points) {
  const methods = points.filter((point) => !point.control);
  const beats = (one, other) => one.flops >= other.flops - SAME_FLOPS && one.final > other.final;
  const front = methods.filter((point) => !methods.some((other) => beats(other, point)));
  return front.sort((one, other) => one.flops - other.flops);
}

function denseLevel(board, table) {
  const levels = [];
  for (let row = 0; row < board.rows; row++) {
    const dense = board.columns.get("dense_mean").at(row);
    if (board.columns.get("table").at(row) === table && dense !== null) levels.push(dense);
  }
  // Rows that lack a seed have another mean: the level that most rows share.
  const counts = new Map();
  levels.forEach((level) => counts.set(level, (counts.get(level) || 0) + 1));
  return [...counts].sort(([a, n], [b, m]) => m - n || b - a).map(([level]) => level)[0] ?? null;
}

async function drawPlot() {
  if (!plot.board) return;
  const table = document.getElementById("plot-table").value;
  const all = table ? pointsOf(plot.board, table, plot.hits) : [];
  const points = all.slice(0, MOST_POINTS);
  const front = paretoFront(points), dense = table ? denseLevel(plot.board, table) : null;
  describePlot(points, all.length, front, dense);
  const place = document.getElementById("plot");
  place.hidden = !points.length;
  document.getElementById("plot-box").hidden = !points.length && plot.tables.length < 2;
  if (!window.vegaEmbed || !points.length) return;
  const dark = isDark();
  const options = {
    actions: false, ast: true, // read expressions instead of compiling them: the page forbids eval
    renderer: points.length > SVG_POINTS ? "canvas" : "svg",
    tooltip: { theme: dark ? "dark" : "light" },
  };
  plot.view?.finalize();
  const { view } = await window.vegaEmbed(place, plotSpec(points, front, dense, narrow(place)), options);
  plot.view = view;
  view.addEventListener("click", (event, item) => item?.datum?.cell && openRecord(item.datum.cell));
  document.documentElement.dataset.plot = "1";
}

function narrow(place) {
  return place.clientWidth < 620;
}

// The same facts in words, for whoever does not see the drawing.
function describePlot(points, all, front, dense) {
  const place = document.getElementById("plot-words");
  const names = front.map((p) => make("li", {}, `${p.Method}: `, make("span", { class: "quiet", text: `${p["FLOPs removed"]} removed, ${p.Final}` })));
  place.replaceChildren(
    make("p", {}, points.length ? `${counted(points.length, "result")} drawn${all > points.length ? `, the first of ${all.toLocaleString("en")}: filter to see others` : ""}; each is a row of the table below.` : "No result to draw."),
    dense === null ? "" : make("p", { text: `Dense network: ${fixed(dense, 2)} %.` }),
    front.length ? make("p", { text: "Pareto front of the methods, the controls left out: no other method removes as much and is more accurate; less than 0.5 points of FLOPs count as equal. It is drawn from means; neighbours on it need not differ significantly." }) : "",
    make("ul", {}, names),
  );
}

function themeColour(name) {
  const probe = make("span", { hidden: true });
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

function plotSpec(points, front, dense, small) {
  const ink = themeColour("--ink"), quiet = themeColour("--quiet"), rule = themeColour("--rule");
  const names = [...new Set([...points].sort((a, b) => a.control - b.control || (a.entry < b.entry ? -1 : 1)).map((p) => p.entry))];
  const of = (entry) => points.find((point) => point.entry === entry);
  const colours = names.map((entry) => (of(entry).control ? quiet : of(entry).colour));
  const fills = names.map((entry, i) => (of(entry).control || !of(entry).first ? "transparent" : colours[i]));
  const legend = names.length > MOST_NAMES ? null : small
    ? { orient: "bottom", columns: 1, title: null, labelLimit: 280 }
    : { orient: "right", title: null, labelLimit: 260, rowPadding: 4 };
  const place = spreadOut(points);
  const moved = place.moved ? `, points moved sideways by up to ${place.moved.toFixed(1)} points to be seen` : "";
  const x = { field: "x", type: "quantitative", title: `FLOPs removed (%)${small ? "" : moved}`, scale: { domain: [place.low, place.high], nice: false } };
  const y = { type: "quantitative", title: "Test top-1 (%)", scale: { zero: false, nice: true, padding: 8 } };
  const byEntry = (range, more) => ({ field: "entry", type: "nominal", scale: { domain: names, range }, legend, ...more });
  const faded = { condition: { param: "picked", value: 1 }, value: 0.15 };
  const tooltip = ["Method", "FLOPs removed", "Params removed", "Final", "95 % interval", "Δ dense", "Marks"].map((field) => ({ field, type: "nominal" }));
  const layers = [
    { data: { values: front }, mark: { type: "line", clip: true, interpolate: "step-before", color: quiet, strokeDash: [5, 4], strokeWidth: 1.5, tooltip: false },
      encoding: { x: { ...x, field: "flops" }, y: { ...y, field: "final" } } }, // where they are
    { data: { values: points.filter((point) => point.low !== null) }, mark: { type: "rule", strokeWidth: 1.5 },
      encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, stroke: byEntry(colours), opacity: faded } },
    { data: { values: points }, mark: { type: "point", size: 110, strokeWidth: 1.8, opacity: 1, cursor: "pointer" },
      params: [{ name: "picked", select: { type: "point", fields: ["entry"] }, ...(legend ? { bind: "legend" } : {}) }],
      encoding: { x, y: { ...y, field: "final" }, stroke: byEntry(colours), fill: byEntry(fills), shape: byEntry(names.map((e) => of(e).shape)), opacity: faded, tooltip } },
  ];
  if (dense !== null) {
    const level = { data: { values: [{ dense }] }, encoding: { y: { ...y, field: "dense" } } };
    layers.unshift({ ...level, mark: { type: "rule", color: ink, strokeDash: [2, 3] } });
    layers.push({ ...level, mark: { type: "text", align: "left", baseline: "bottom", x: { expr: "width / 5" }, dy: -3, color: ink, text: `dense ${fixed(dense, 2)}` } });
  }
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json", // a name, never fetched
    description: "Test accuracy against removed FLOPs; the same facts stand in words beside it.",
    width: "container", height: 330, autosize: { type: "fit-x", contains: "padding" },
    layer: layers.filter((layer) => layer.data.values.length), // an empty one has no extent
    config: {
      background: "transparent", font: getComputedStyle(document.body).fontFamily, view: { stroke: null },
      axis: { labelColor: quiet, titleColor: ink, titleFontWeight: 500, gridColor: rule, domainColor: rule, tickColor: rule, labelFontSize: 12, titleFontSize: 12.5 },
      legend: { labelColor: ink, labelFontSize: 12.5, symbolSize: 90, symbolStrokeWidth: 1.8 },
    },
  };
}
