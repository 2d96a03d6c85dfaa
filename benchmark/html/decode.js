// Reads what benchmark/embed.py packs, and makes elements. Texts only ever become text nodes.

function make(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "text") node.textContent = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

async function bytesOf(id) {
  const text = document.getElementById(`blob-${id}`).textContent;
  const packed = Uint8Array.fromBase64
    ? Uint8Array.fromBase64(text)
    : Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function textOf(id) {
  return new TextDecoder().decode(await bytesOf(id));
}

const ARRAYS = {
  i1: [Int8Array, -(2 ** 7)],
  i2: [Int16Array, -(2 ** 15)],
  i4: [Int32Array, -(2 ** 31)],
  f8: [Float64Array, NaN],
};

// A frame: {rows, columns: Map of name -> column, ...what else the header says}.
// A column: {name, meaning, unit, decimals, isText, at(row), text(row)}; `at` gives a text, or a
// number or null where there is no figure.
async function frameOf(id) {
  const buffer = await bytesOf(id);
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const columns = header.columns.map((head) => columnOf(head, buffer, 4 + length, header.rows));
  return { ...header, columns: new Map(columns.map((column) => [column.name, column])) };
}

function columnOf(head, buffer, start, rows) {
  const isText = head.decimals === undefined;
  const [kind, none] = ARRAYS[head.type] || [];
  const array = kind ? new kind(buffer, start + head.at, rows) : null;
  const at = isText ? textReader(head, array) : numberReader(head, array, none);
  const text = isText ? at : (row) => fixed(at(row), head.decimals);
  return { ...head, isText, at, text };
}

function textReader(head, array) {
  if (head.list) return (row) => head.list[row];
  if (array) return (row) => head.words[array[row]];
  return () => head.words[0] ?? "";
}

function numberReader(head, array, none) {
  const scale = 10 ** head.decimals;
  const value = (whole) => (whole === null || whole === none || whole !== whole ? null : whole / scale);
  if (!array) {
    const same = value(head.same);
    return () => same;
  }
  return (row) => value(array[row]);
}

// Fixed decimals, no negative zero, empty where there is no figure: as in the printed tables.
function fixed(value, decimals) {
  if (value === null) return "";
  const text = value.toFixed(decimals);
  return /^-[0.]+$/.test(text) ? text.slice(1) : text;
}

function signed(value, decimals) {
  const text = fixed(value, decimals);
  return value > 0 && /[1-9]/.test(text) ? "+" + text : text;
}

function distinct(column, rows) {
  const seen = new Set();
  for (let row = 0; row < rows; row++) seen.add(column.at(row));
  seen.delete(null);
  return [...seen].sort(compare);
}

function compare(one, other) {
  return typeof one === "string" ? one.localeCompare(other, "en") : one - other;
}

function counted(number, word) {
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}
