// One sortable table, as text and numbers: for the leaderboard and for every other frame.
//
// A view of a column: {key, label, meaning, numeric, value(row), show(row) -> text or node}.

function nextSort(sort, view) {
  // The better end of a number is seldom its smallest: numbers start descending. A third press
  // gives the table's own order back.
  const first = view.numeric ? "descending" : "ascending";
  if (sort.key !== view.key) return { key: view.key, order: first };
  if (sort.order === first) {
    return { key: view.key, order: first === "ascending" ? "descending" : "ascending" };
  }
  return { key: null, order: null };
}

function sorted(rows, views, sort) {
  const view = views.find((candidate) => candidate.key === sort.key);
  if (!view) return rows;
  const sign = sort.order === "ascending" ? 1 : -1;
  const missing = (value) => value === null || value === "";
  return rows
    .map((row) => [view.value(row), row])
    .sort(([one], [other]) => {
      if (missing(one) || missing(other)) return missing(one) - missing(other); // always last
      return sign * compare(one, other);
    })
    .map(([, row]) => row);
}

function tableOf({ caption, views, rows, sort, onSort, rowClass }) {
  const heads = views.map((view) => headOf(view, sort, onSort));
  const body = make("tbody");
  for (const row of rows) body.append(rowOf(views, row, rowClass ? rowClass(row) : ""));
  const table = make(
    "table",
    {},
    make("caption", { class: "hidden", text: caption }),
    make("thead", {}, make("tr", {}, heads)),
    body,
  );
  // A region of its own that can be scrolled by keyboard: the page itself never scrolls sideways.
  return make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption }, table);
}

function headOf(view, sort, onSort) {
  const active = sort.key === view.key;
  const arrow = make("span", { class: "arrow", "aria-hidden": "true" });
  arrow.textContent = active ? (sort.order === "ascending" ? "▲" : "▼") : "↕";
  const button = make(
    "button",
    { type: "button", class: "sort", "data-key": view.key, "data-tip": view.meaning },
    make("span", { text: view.label }),
    arrow,
  );
  button.addEventListener("click", () => onSort(nextSort(sort, view), view.key));
  return make(
    "th",
    { scope: "col", class: view.numeric ? "number" : "", "aria-sort": active ? sort.order : "none" },
    button,
  );
}

function rowOf(views, row, className) {
  const line = make("tr", { class: className });
  views.forEach((view, place) => {
    const shown = view.show(row);
    const cell = place ? make("td") : make("th", { scope: "row" });
    cell.className = [view.numeric ? "number" : "", view.wide ? "wide" : "", view.loose ? "loose" : ""].join(" ").trim();
    cell.append(shown instanceof Node ? shown : document.createTextNode(shown));
    line.append(cell);
  });
  return line;
}

function columnView(column, changes) {
  const unit = column.unit ? ` [${column.unit}]` : "";
  return {
    key: column.name,
    label: column.name.replaceAll("_", " "),
    meaning: `${column.meaning}${unit}`,
    numeric: !column.isText,
    value: column.at,
    show: column.text,
    ...changes,
  };
}

function verdictOf(word) {
  const kind = ["better", "worse"].find((known) => word.startsWith(known)) || "";
  return make("span", { class: `verdict ${kind}`, text: word });
}

// ---- a frame that explains itself ----------------------------------------------------------------

const FRAME_PAGE = 100;
const LONG_TEXT = 36; // letters: such a column may wrap
const CLAMPED = 70; // letters: more are cut to two lines

async function drawFrame(place) {
  const frame = await frameOf(place.dataset.frame);
  const all = [...Array(frame.rows).keys()];
  const kinds = new Map([...frame.columns.values()].map((column) => [column, new Set(all.map(column.text))]));
  const used = [...kinds].filter(([, texts]) => texts.size > 1 || !texts.has("")).map(([column]) => column);
  const state = { sort: { key: null, order: null }, text: "", shown: FRAME_PAGE, whole: false };
  const count = make("p", { class: "count", role: "status" });
  const same = make("p", { class: "quiet" }), holder = make("div");
  const name = place.dataset.frame.replace(/^frame-/, "");
  const draw = (focusKey) => {
    const hits = all.filter((row) => matches(used, row, state.text));
    const { views, shared } = frameViews(frame, name, kinds, state.whole);
    const rows = sorted(hits, views, state.sort);
    count.textContent = `${counted(hits.length, "row")}`;
    same.textContent = shared.length ? `In all rows: ${shared.join("; ")}.` : "";
    const table = tableOf({
      caption: place.dataset.caption,
      views,
      rows: rows.slice(0, state.shown),
      sort: state.sort,
      onSort: (sort, key) => {
        state.sort = sort;
        draw(key);
      },
    });
    holder.replaceChildren(table, ...moreButton(hits.length, state, draw));
    if (focusKey) holder.querySelector(`[data-key="${CSS.escape(focusKey)}"]`)?.focus();
  };
  place.replaceChildren(make("div", { class: "controls slim" }, frameControls(frame, name, state, draw), count), same, holder);
  draw();
}

function frameControls(frame, name, state, draw) {
  const search = make("input", { type: "search", autocomplete: "off", spellcheck: "false" });
  search.addEventListener("input", () => {
    state.text = search.value;
    state.shown = FRAME_PAGE;
    draw();
  });
  const whole = make("input", { type: "checkbox" });
  whole.addEventListener("change", () => {
    state.whole = whole.checked;
    draw();
  });
  return [
    make("label", { class: "field" }, make("span", { text: "Search in this table" }), search),
    laidOut(frame, name, false).hasMore ? make("label", { class: "tick" }, whole, " All columns") : null,
  ];
}

// What varies is a column; what is the same in all rows is said once; what is empty is left out.
function frameViews(frame, name, kinds, whole) {
  const { shown } = laidOut(frame, name, whole);
  const empty = ([column]) => kinds.get(column).size === 1 && kinds.get(column).has("");
  const varying = ([column]) => frame.rows === 1 || kinds.get(column).size > 1 || ALWAYS.includes(column.name);
  const there = shown.filter((entry) => !empty(entry));
  const views = there.filter(varying).map(([column, label, upper]) => frameView(column, label, upper, kinds.get(column)));
  // Rows are named by their first text: it leads, whatever the order of the file.
  const first = views.findIndex((view) => !view.numeric);
  if (first > 0) views.unshift(...views.splice(first, 1));
  const shared = there.filter((entry) => !varying(entry))
    .map(([column, label, upper]) => `${label} ${column.text(0)}${upper ? ` to ${upper.text(0)}` : ""}`);
  return { views, shared };
}

function frameView(column, label, upper, texts) {
  const wide = column.isText && Math.max(...[...texts].map((text) => text.length)) > LONG_TEXT;
  const view = columnView(column, { label, wide });
  if (wide) view.show = (row) => clamped(column.text(row));
  if (upper) view.show = (row) => column.text(row) && `${column.text(row)} to ${upper.text(row)}`;
  if (column.name === "verdict") view.show = (row) => verdictOf(column.at(row));
  if (column.name === "cell") view.show = (row) => recordButton(column.at(row), column.at(row));
  return view;
}

// Two lines of a long text; pressing it, or pointing at it, gives the rest.
function clamped(text) {
  if (text.length <= CLAMPED) return text;
  return make("details", { class: "long" }, make("summary", { title: text }, make("span", { text })));
}

function matches(columns, row, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return true;
  const held = columns.map((column) => column.text(row)).join(" ").toLowerCase();
  return words.every((word) => held.includes(word));
}

function moreButton(total, state, draw) {
  const left = total - state.shown;
  if (left <= 0) return [];
  const button = make("button", { type: "button", class: "more" });
  const last = left === 1 ? "Show the last one" : `Show the last ${left}`;
  button.textContent = left > FRAME_PAGE ? `Show ${FRAME_PAGE} more of ${left.toLocaleString("en")} not shown` : last;
  button.addEventListener("click", () => {
    const holder = button.parentElement;
    state.shown += FRAME_PAGE;
    draw();
    holder.querySelector("button.more")?.focus();
  });
  return [button];
}

// ---- what a heading means, on hover and focus ------------------------------------------------------

function explainHeads() {
  const tip = make("div", { id: "tip", role: "tooltip", hidden: true });
  document.body.append(tip);
  let target = null;
  const hide = () => {
    tip.hidden = true;
    target?.removeAttribute("aria-describedby");
    target = null;
  };
  const place = () => {
    const box = target.getBoundingClientRect();
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${box.bottom + 6}px`;
  };
  const show = (event) => {
    hide();
    const found = event.target.closest?.("[data-tip]");
    if (!found?.dataset.tip) return;
    target = found;
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    (target.closest("dialog") || document.body).append(tip); // nothing outside shows above a dialog
    target.setAttribute("aria-describedby", "tip");
    place();
  };
  // Focus itself may scroll: what has it keeps its words.
  const moved = () => target && (target === document.activeElement ? place() : hide());
  document.addEventListener("mouseover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("scroll", moved, { capture: true, passive: true });
}
