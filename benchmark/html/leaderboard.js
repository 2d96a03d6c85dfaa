// The leaderboard: settings that never mix stand in tables of their own, under one set of filters.

const PAGE_ROWS = 100;
const MOST_OPEN_NOTES = 2;
const NARROW = "(max-width: 40rem)"; // a phone shows these only when asked to
const NOT_NARROW = ["target:1", "flops_reduction:1", "params_reduction:1", "dense_mean", "before_mean", "recalibrated_mean"];
const OF_LOST = ["final_mean", "marks"]; // say what a row without figures is, and why
const FACETS = [
  ["method", "Method", (board, row) => board.columns.get("method").at(row)],
  ["target", "Target", (board, row) => board.columns.get("target").at(row)],
  ["data", "Data", (board, row) => board.columns.get("data").at(row)],
  ["arch", "Architecture", (board, row) => board.columns.get("arch").at(row)],
  ["track", "Track", (board, row) => board.columns.get("track").at(row)],
  ["table", "Setting", (board, row) => board.columns.get("table").at(row)],
];

function newState() {
  return { text: "", controls: true, sort: { key: null, order: null }, shown: PAGE_ROWS, picked: {} };
}

// ---- columns -------------------------------------------------------------------------------------

// The columns of the printed tables, then every other column under its own name.
function boardViews(board) {
  const column = (name) => board.columns.get(name);
  const plain = (name, label) => columnView(column(name), { key: name, label, standard: true });
  const views = [
    columnView(column("entry"), {
      label: "Method", standard: true, show: (row) => entryOf(board, row),
    }),
    plain("target:1", "Target"),
    plain("flops_reduction:1", "FLOPs removed"),
    plain("params_reduction:1", "Params removed"),
    plain("dense_mean", "Dense"),
    plain("before_mean", "Before"),
    plain("recalibrated_mean", "BN recal."),
    columnView(column("final_mean"), { label: "Final ± sd (n)", standard: true, show: (row) => finalOf(board, row) }),
    columnView(column("final_low"), { label: "95 % interval", standard: true, show: (row) => intervalOf(board, row) }),
    columnView(column("delta_mean"), {
      label: "Δ dense", standard: true, show: (row) => signed(column("delta_mean").at(row), 2),
    }),
    ...board.references.map((name) => verdictView(board, name)),
    ...(column("near_best") ? [nearBestView(column("near_best"))] : []),
    ...(column("origin") ? [columnView(column("origin"), { label: "Origin", standard: true })] : []),
    columnView(column("marks"), { label: "Marks", standard: true, wide: true, show: (row) => marksOf(board, row) }),
  ];
  if (matchMedia(NARROW).matches) leadWith(views, ["entry", "final_mean", ...board.references.map((name) => `${name}:mean`)]);
  const taken = new Set([...views.map((view) => view.key), "look"]);
  for (const other of board.columns.values()) {
    if (!taken.has(other.name) && !/:/.test(other.name)) views.push(columnView(other, { wide: other.isText }));
  }
  return views;
}

function leadWith(views, keys) {
  const place = (view) => (keys.includes(view.key) ? keys.indexOf(view.key) : keys.length);
  views.sort((one, other) => place(one) - place(other));
}

// A phone has no room for the target in a column of its own.
function entryOf(board, row) {
  const button = recordButton(board.columns.get("entry").at(row), board.columns.get("cell").at(row));
  if (!matchMedia(NARROW).matches) return button;
  return make("span", {}, button, " ", make("span", { class: "quiet", text: `${board.columns.get("target:1").text(row)} %` }));
}

function verdictView(board, name) {
  const word = board.columns.get(name), mean = board.columns.get(`${name}:mean`);
  const show = (row) => {
    if (!word.at(row)) return "";
    return make("span", {}, verdictOf(word.at(row)), " ", make("span", { class: "quiet", text: signed(mean.at(row), 2) }));
  };
  return columnView(mean, { label: name, meaning: word.meaning, standard: true, numeric: true, loose: true, show });
}

function nearBestView(column) {
  const show = (row) => ({ 1: "yes", 0: "no" })[column.at(row)] ?? "";
  return columnView(column, { label: "Near best?", standard: true, show });
}

function finalOf(board, row) {
  const text = (name) => board.columns.get(name).text(row);
  if (!board.columns.get("n").at(row)) return make("em", { text: text("status") });
  const sd = text("final_sd");
  return make("span", {}, make("strong", { text: text("final_mean") }),
    make("span", { class: "quiet", text: `${sd ? ` ± ${sd}` : ""} (${text("n")})` }));
}

function intervalOf(board, row) {
  const [low, high] = ["final_low", "final_high"].map((name) => board.columns.get(name).text(row));
  return low ? `${low} to ${high}` : "";
}

function marksOf(board, row) {
  const marks = board.columns.get("marks").at(row).split("; ").filter(Boolean);
  const reason = board.columns.get("reason").at(row);
  return make("span", { class: "marks" },
    marks.map((mark) => make("span", { class: "mark", text: mark })), reason);
}

function recordButton(label, cell) {
  return make("button", { type: "button", class: "open", "data-cell": cell, "aria-haspopup": "dialog", text: label });
}

// ---- filters -------------------------------------------------------------------------------------

function hitsOf(board, state) {
  const picked = FACETS.filter(([name]) => state.picked[name] !== undefined);
  const control = board.columns.get("control");
  const searched = ["entry", "method", "title", "marks", "reason", "status", "hardware", "cell"].map((n) => board.columns.get(n));
  const hits = [];
  for (let row = 0; row < board.rows; row++) {
    if (!state.controls && control.at(row) === 1) continue;
    if (!picked.every(([name, , get]) => String(get(board, row)) === state.picked[name])) continue;
    if (state.text && !matches(searched, row, state.text)) continue;
    hits.push(row);
  }
  return hits;
}

function buildFilters(board, state, redraw) {
  const holder = document.getElementById("facets");
  const searchBox = document.getElementById("search");
  const controls = document.getElementById("with-controls");
  const changed = () => {
    state.shown = PAGE_ROWS;
    redraw();
  };
  const selects = FACETS.map(([name, label]) => {
    const values = name === "table" ? tablesOf(board) : distinct(board.columns.get(name), board.rows);
    if (values.length < 2) return null; // nothing to choose
    const text = (value) => (name === "table" ? captionOf(board, value) : name === "target" ? `${value} %` : value);
    const select = make("select", { name },
      make("option", { value: "", text: "all" }),
      values.map((value) => make("option", { value: String(value), text: text(value) })));
    select.addEventListener("change", () => {
      state.picked[name] = select.value === "" ? undefined : select.value;
      changed();
    });
    holder.append(make("label", { class: `field ${name}` }, make("span", { text: label }), select));
    return select;
  }).filter(Boolean);
  searchBox.addEventListener("input", () => {
    state.text = searchBox.value;
    changed();
  });
  controls.addEventListener("change", () => {
    state.controls = controls.checked;
    changed();
  });
  document.getElementById("reset").addEventListener("click", () => {
    Object.assign(state, newState());
    searchBox.value = "";
    controls.checked = true;
    selects.forEach((select) => (select.value = ""));
    redraw();
  });
}

function buildChooser(board, views, redraw) {
  const list = document.getElementById("columns");
  const rows = [...Array(board.rows).keys()];
  const lost = rows.some((row) => board.columns.get("status").at(row) !== "done");
  for (const view of views) {
    const says = rows.some((row) => view.value(row) !== null && view.value(row) !== "");
    view.standard = view.standard && (says || (lost && OF_LOST.includes(view.key)));
    const box = make("input", { type: "checkbox" });
    view.visible = Boolean(view.standard) && !(matchMedia(NARROW).matches && NOT_NARROW.includes(view.key));
    box.checked = view.visible;
    box.addEventListener("change", () => {
      view.visible = box.checked;
      redraw();
    });
    list.append(make("label", { "data-tip": view.meaning }, box, ` ${view.label}`));
  }
}

function tablesOf(board) {
  const seen = new Set();
  for (let row = 0; row < board.rows; row++) seen.add(board.columns.get("table").at(row));
  return [...seen];
}

function captionOf(board, table) {
  return board.captions[table] || `Table ${table}`;
}

// ---- drawing -------------------------------------------------------------------------------------

function drawBoard(board, views, state, focusOn) {
  const hits = hitsOf(board, state);
  const tables = new Map();
  for (const row of hits) {
    const table = board.columns.get("table").at(row);
    if (!tables.has(table)) tables.set(table, []);
    tables.get(table).push(row);
  }
  const many = tables.size > 1 ? ` in ${counted(tables.size, "setting")}` : "";
  document.getElementById("count").textContent = hits.length
    ? `${counted(hits.length, "result")}${many}${hits.length < board.rows ? ` of ${board.rows.toLocaleString("en")}` : ""}`
    : "No result matches these filters.";
  const visible = views.filter((view) => view.visible);
  const parts = [];
  let room = state.shown;
  for (const [table, rows] of tables) {
    if (room <= 0) break;
    const shown = sorted(rows, visible, state.sort).slice(0, room);
    room -= shown.length;
    parts.push(boardTable(board, visible, state, table, shown, tables.size <= MOST_OPEN_NOTES));
  }
  const draw = () => drawBoard(board, views, state);
  document.getElementById("tables").replaceChildren(...parts, ...moreButton(hits.length, state, draw));
  if (focusOn) {
    const place = document.getElementById(`table-${focusOn.table}`);
    place?.querySelector(`[data-key="${CSS.escape(focusOn.key)}"]`)?.focus();
  }
  document.dispatchEvent(new CustomEvent("board-drawn", { detail: { hits, tables: [...tables.keys()] } }));
}

function boardTable(board, visible, state, table, rows, open) {
  const [control, status, target] = ["control", "status", "target"].map((name) => board.columns.get(name));
  let before; // target of the row above: a line parts targets while they are in order
  const scroller = tableOf({
    caption: captionOf(board, table),
    views: visible,
    rows,
    sort: state.sort,
    onSort: (sort, key) => {
      state.sort = sort;
      drawBoard(board, board.views, state, { table, key });
    },
    rowClass: (row) => {
      const step = state.sort.key === null && before !== undefined && target.at(row) !== before;
      before = target.at(row);
      return [control.at(row) === 1 && "control", status.at(row) !== "done" && "lost", step && "step"].filter(Boolean).join(" ");
    },
  });
  const [head, rest] = captionOf(board, table).split(/: (.*)/s);
  return make("section", { class: "setting", id: `table-${table}`, "aria-label": captionOf(board, table) },
    make("h3", {}, head, rest ? make("small", { text: rest }) : null), scroller, notesOf(board, table, open));
}

function notesOf(board, table, open) {
  const notes = board.notes[table] || [];
  if (!notes.length) return null;
  return make("details", { class: "notes", open },
    make("summary", { text: "How to read this table" }),
    make("ul", {}, notes.map((note) => make("li", { text: note }))));
}
