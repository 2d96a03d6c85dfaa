// The record of one cell: its seeds, its settings, and the commands that make its runs again.

const drawer = { board: null, rows: new Map(), runs: null, chunks: new Map(), returnTo: null };
const SEEDS = ["seed", "status", "test_final", "val_final", "dense_top1", "delta", "test_best_val", "test_best_test", "seconds", "run_id", "reason"];
const FIGURES = ["before", "recalibrated", "final", "best_val", "val_final", "delta"];

function startDrawer(board) {
  drawer.board = board;
  for (let row = 0; row < board.rows; row++) drawer.rows.set(board.columns.get("cell").at(row), row);
  const dialog = document.getElementById("record");
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button.open");
    if (button) openRecord(button.dataset.cell, button);
  });
  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
  dialog.addEventListener("close", () => {
    if (location.hash.startsWith("#cell=")) setHash("");
    // The table may have been drawn again meanwhile: the button with the same record then.
    const again = document.querySelector(`button.open[data-cell="${CSS.escape(dialog.dataset.cell)}"]`);
    (drawer.returnTo?.isConnected ? drawer.returnTo : again)?.focus();
  });
  addEventListener("hashchange", openFromHash);
  openFromHash();
}

function openFromHash() {
  const [, cell] = /^#cell=([0-9a-f]+)$/.exec(location.hash) || [];
  if (cell && drawer.rows.has(cell)) openRecord(cell);
}

function setHash(hash) {
  try {
    history.replaceState(null, "", hash || location.pathname + location.search);
  } catch {
    // some viewers of local files forbid it; the record opens all the same
  }
}

async function openRecord(cell, button) {
  const row = drawer.rows.get(cell), dialog = document.getElementById("record");
  if (row === undefined) return;
  const text = (name) => drawer.board.columns.get(name).text(row);
  dialog.dataset.cell = cell;
  if (!dialog.open) drawer.returnTo = button || document.activeElement;
  document.getElementById("record-title").textContent = text("entry");
  document.getElementById("record-place").textContent = captionOf(drawer.board, text("table"));
  const body = document.getElementById("record-body");
  body.replaceChildren(make("p", { text: "Reading …" }));
  if (!dialog.open) dialog.showModal();
  setHash(`#cell=${cell}`);
  drawer.runs ||= frameOf("runs");
  const runs = await drawer.runs;
  if (dialog.dataset.cell !== cell) return; // another one was opened meanwhile
  body.replaceChildren(summaryOf(row), ...seedsOf(runs, cell), settingsOf(row));
  body.scrollTop = 0;
}

// ---- the cell ------------------------------------------------------------------------------------

function summaryOf(row) {
  const column = (name) => drawer.board.columns.get(name);
  const lines = FIGURES.map((name) => {
    const [mean, sd, low, high] = ["mean", "sd", "low", "high"].map((end) => column(`${name}_${end}`));
    return make("tr", {},
      make("th", { scope: "row", "data-tip": mean.meaning, text: name.replaceAll("_", " ") }),
      make("td", { class: "number", text: name === "delta" ? signed(mean.at(row), 2) : mean.text(row) }),
      make("td", { class: "number", text: sd.text(row) }),
      make("td", { class: "number", text: low.text(row) && `${low.text(row)} to ${high.text(row)}` }));
  });
  const marks = [column("marks").text(row), column("reason").text(row)].filter(Boolean).join("; ");
  return make("section", {},
    make("h3", { text: "Figures" }),
    make("p", { class: "quiet", text: "Means over the seeds below, in % of test images (delta in points). Each seed's figure is read from its record; leaderboard/runs.csv holds them all." }),
    marks ? make("p", {}, make("strong", { text: "Marks: " }), marks) : null,
    make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Figures of this cell" },
      make("table", {}, make("thead", {}, make("tr", {}, ["figure", "mean", "sd", "95 % interval"].map((head, i) => make("th", { scope: "col", class: i ? "number" : "", text: head })))), make("tbody", {}, lines))));
}

function settingsOf(row) {
  const pairs = drawer.board.settings
    .map((name) => [name, drawer.board.columns.get(name)])
    .filter(([, column]) => column.text(row) !== "")
    .map(([name, column]) => [name.replaceAll("_", " "), column.text(row), column.meaning]);
  return make("section", {}, make("h3", { text: "Settings" }), pairsOf(pairs));
}

function pairsOf(pairs) {
  return make("dl", {}, pairs.map(([name, value, meaning]) =>
    make("div", {}, make("dt", { "data-tip": meaning, text: name }), make("dd", { text: String(value) }))));
}

// ---- its seeds -----------------------------------------------------------------------------------

function seedsOf(runs, cell) {
  const cells = runs.columns.get("cell"), rows = [];
  for (let row = 0; row < runs.rows; row++) if (cells.at(row) === cell) rows.push(row);
  const title = make("h3", { text: "Seeds" });
  if (!rows.length) {
    return [make("section", {}, title, make("p", { text: `This page lists the first ${counted(runs.rows, "run")} of ${runs.all}; those of this cell are in leaderboard/runs.csv.` }))];
  }
  const views = SEEDS.map((name) => runs.columns.get(name))
    .filter((column) => rows.some((row) => column.text(row) !== ""))
    .map((column) => columnView(column, { numeric: !column.isText }));
  const table = make("div");
  let sort = { key: null, order: null };
  const draw = (focusKey) => {
    const onSort = (next, key) => {
      sort = next;
      draw(key);
    };
    table.replaceChildren(tableOf({ caption: "Seeds of this cell", views, rows: sorted(rows, views, sort), sort, onSort }));
    if (focusKey) table.querySelector(`[data-key="${focusKey}"]`)?.focus();
  };
  draw();
  const done = rows.filter((row) => runs.columns.get("status").at(row) === "done");
  return [make("section", {}, title, table), ...(done.length ? [runOf(runs, done)] : [])];
}

function runOf(runs, rows) {
  const seed = (row) => `seed ${runs.columns.get("seed").text(row)} · ${runs.columns.get("run_id").at(row)}`;
  const select = make("select", {}, rows.map((row) => make("option", { value: String(row), text: seed(row) })));
  const place = make("div");
  const draw = async () => place.replaceChildren(...(await recordOf(runs, Number(select.value))));
  select.addEventListener("change", draw);
  draw();
  return make("section", {}, make("h3", { text: "Record of one run" }), make("label", { class: "field" }, make("span", { text: "Run" }), select), place);
}

async function recordOf(runs, row) {
  const run = runs.columns.get("run_id").at(row), chunk = runs.columns.get("chunk").at(row);
  const again = [
    make("h4", { text: "Make it again and compare" }), commandOf(`python -m benchmark.reproduce ${run} --results DIR`),
    make("p", { class: "quiet" }, "DIR is the results folder, the one that holds runs/: this page is ", make("code", { text: "DIR/report/index.html" }), "."),
  ];
  if (chunk === null) {
    return [...again, make("p", { text: `This page holds the records of ${counted(runs.details, "run")} out of ${runs.all}. This one is in the folder of the run, ${run}, under runs/.` })];
  }
  if (!drawer.chunks.has(chunk)) drawer.chunks.set(chunk, textOf(`details-${chunk}`).then(JSON.parse));
  const found = (await drawer.chunks.get(chunk))[run];
  return [
    ...again,
    ...(found.command ? [make("h4", { text: "The command that made it" }), commandOf(found.command)] : []),
    ...(found.folder ? [make("p", {}, "Its files: ", make("code", { text: found.folder }))] : []),
    ...spentOf(found.spent), ...checkOf(found), ...widthsOf(found.widths), ...environmentOf(found.environment),
    make("details", {}, make("summary", { text: "Excerpt of the record, as JSON" }), make("pre", { tabindex: "0", text: JSON.stringify(found, null, 1) })),
  ];
}

function commandOf(command) {
  const text = String(command);
  const button = make("button", { type: "button", class: "copy", "aria-label": `Copy: ${text.slice(0, 60)}`, text: "Copy" });
  // Options break between words, never at their hyphens.
  const code = make("code", {}, text.split(/( )/).map((word) => (word === " " ? word : make("span", { text: word }))));
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // ready for the keyboard
    }
  });
  return make("div", { class: "command" }, make("pre", { tabindex: "0" }, code), button);
}

function spentOf(spent) {
  if (!spent?.rows?.length) return [];
  const heads = ["phase", "kind", "images", "epochs", "GMACs", "seconds"];
  const number = (value, decimals) => (typeof value === "number" ? value.toFixed(decimals) : "");
  const lines = spent.rows.map((r) => [r.phase, r.kind, number(r.images, 0), number(r.epochs, 2), number(r.macs / 1e9, 1), number(r.seconds, 1)]);
  return [
    make("h4", { text: "What it spent" }),
    make("p", { class: "quiet", text: `${spent.charged} of ${spent.allowed} images for gradient steps charged, ${spent.free} free.` }),
    make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "What the run spent" },
      make("table", {}, make("thead", {}, make("tr", {}, heads.map((head, i) => make("th", { scope: "col", class: i > 1 ? "number" : "", text: head })))),
        make("tbody", {}, lines.map((line) => make("tr", {}, line.map((text, i) => make("td", { class: i > 1 ? "number" : "", text: String(text) }))))))),
  ];
}

function checkOf({ selection, seed_agreement: agreement }) {
  const percent = (share) => (typeof share === "number" ? `${(100 * share).toFixed(2)} %` : "–");
  const pairs = [];
  if (selection) {
    pairs.push(["chosen channels", percent(selection.score), "validation top-1 after BN recalibration, without recovery"]);
    pairs.push(["inverted choice", percent(selection.inverse), "the same with the score negated"]);
    if (selection.random?.length) pairs.push(["random draws", selection.random.map(percent).join(", "), "the same for random channels at these widths"]);
  }
  if (agreement) {
    pairs.push(["rank correlation of two seeds", String(agreement.rank_correlation), "Spearman, mean over layers"]);
    pairs.push(["kept units both keep", percent(agreement.kept_overlap), "of two method seeds"]);
  }
  return pairs.length ? [make("h4", { text: "Is the choice informative?" }), pairsOf(pairs)] : [];
}

function widthsOf(widths) {
  const groups = Object.entries(widths || {});
  if (!groups.length) return [];
  const lines = groups.map(([group, [kept, dense]]) => {
    const bar = make("span", { class: "bar", "aria-hidden": "true" }, make("span"));
    bar.firstChild.style.width = dense ? `${Math.min(100, (100 * kept) / dense)}%` : "0";
    return make("li", {}, make("code", { text: group }), bar, make("span", { class: "number", text: dense ? `${kept} of ${dense}` : String(kept) }));
  });
  return [make("details", {}, make("summary", { text: `Channels kept in ${counted(groups.length, "group")}` }), make("ul", { class: "widths" }, lines))];
}

function environmentOf(environment) {
  const pairs = Object.entries(environment || {}).map(([name, value]) => [name.replaceAll("_", " "), plainly(value)]).filter(([, text]) => text);
  return pairs.length ? [make("details", {}, make("summary", { text: "Environment" }), pairsOf(pairs))] : [];
}

// Nested facts as words: "numpy 2.4.6, torch 2.15.0". What is null or empty says nothing.
function plainly(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.map(plainly).join(", ");
  if (typeof value === "object") return Object.entries(value).map(([name, inner]) => `${name} ${plainly(inner)}`).join(", ");
  return String(value);
}
