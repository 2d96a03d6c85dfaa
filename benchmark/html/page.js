// Starts everything. The leaderboard comes first; plot, records and further tables are decoded when
// they are looked at.

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function startTheme() {
  const button = document.getElementById("theme");
  const show = () => {
    button.textContent = isDark() ? "Light theme" : "Dark theme"; // what pressing gives
  };
  try {
    const kept = localStorage.getItem("theme");
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  } catch {
    // no storage for local files in some browsers: the choice lasts as long as the page
  }
  show();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // as above
    }
    show();
    document.dispatchEvent(new CustomEvent("theme"));
  });
}

function whenNear(nodes, act) {
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((candidate) => candidate.isIntersecting)) {
      observer.unobserve(entry.target);
      act(entry.target);
    }
  }, { rootMargin: "600px" });
  nodes.forEach((node) => observer.observe(node));
}

// As an image a drawing can neither run scripts nor meet the names of another one.
async function drawFigure(details) {
  const svg = new Uint8Array(await bytesOf(details.dataset.figure));
  const image = details.querySelector("img");
  const letters = [];
  for (let start = 0; start < svg.length; start += 8192) {
    letters.push(String.fromCharCode(...svg.subarray(start, start + 8192)));
  }
  image.src = `data:image/svg+xml;base64,${btoa(letters.join(""))}`;
}

function startFigures() {
  for (const details of document.querySelectorAll("details[data-figure]")) {
    if (details.open) whenNear([details], drawFigure);
    else details.addEventListener("toggle", () => drawFigure(details), { once: true });
  }
}

async function start() {
  startTheme();
  explainHeads();
  const board = await frameOf("board");
  performance.mark("decoded");
  const state = newState();
  board.state = state;
  board.views = boardViews(board);
  const redraw = () => drawBoard(board, board.views, state);
  buildFilters(board, state, redraw);
  buildChooser(board, board.views, redraw);
  startPlot(board);
  redraw();
  document.documentElement.dataset.ready = "1"; // sorts, filters and opens records from here on
  performance.mark("ready");
  startDrawer(board);
  whenNear(document.querySelectorAll("[data-frame]"), drawFrame);
  startFigures();
}

start().catch((error) => {
  const said = document.getElementById("count");
  said.textContent = `This page could not be drawn by this browser (${error.message}). The same figures are in leaderboard.csv.`;
  throw error;
});
