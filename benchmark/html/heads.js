// What further tables show at first, in this order: [column, heading, column of the upper end].
// All other columns are one tick away and in the file. A name that ends in * stands for all columns
// that begin so. A column that says the same in every row is said once, above the table.

const PLACE = [["data", "Data"], ["arch", "Network"], ["track", "Track"], ["table", "Table"]];
const GAINS = [
  ["test_over_last_mean", "Best test minus last"], ["test_over_last_low", "95 % interval", "test_over_last_high"],
  ["test_over_val_mean", "Best test minus best validation"], ["test_over_val_low", "95 % interval", "test_over_val_high"],
  ["val_over_last_mean", "Best validation minus last"], ["val_over_last_low", "95 % interval", "val_over_last_high"],
];
const COMPARED = [
  ["entry", "Method"], ...PLACE, ["target", "Target"], ["reference", "Compared with"], ["verdict", "Verdict"],
  ["mean", "Mean difference"], ["low_95", "95 % interval", "high_95"], ["low_90", "90 % interval", "high_90"],
  ["n", "Seeds"], ["p_value", "p value"], ["withheld", "Withheld because"], ["note", "Note"],
];
const LAYOUTS = {
  comparisons: COMPARED,
  exploratory: COMPARED,
  published: [
    ["label", "Method"], ["arch", "Network"], ["published_data", "Data"], ["variant", "Variant"],
    ["published_figure", "What they report"], ["published_reduction", "Published FLOPs removed"],
    ["published_top1", "Published top-1"], ["verdict", "Verdict"], ["reasons", "Because"],
    ["figure", "Our figure"], ["mean", "Ours"], ["low", "95 % interval", "high"], ["n", "Seeds"],
    ["physical", "Our FLOPs removed"], ["outputs_only", "By their counter"], ["gap", "Ours minus published"],
    ["published_delta", "Published Δ"], ["delta", "Our Δ"], ["note", "Note"], ["claim", "Claim"],
  ],
  optimism: [
    ["entry", "Method"], ...PLACE, ["target", "Target"], ["n", "Seeds"], ["epochs", "Epochs"],
    ["last_mean", "Last epoch"], ["best_val_mean", "Best validation epoch"], ["best_test_mean", "Best test epoch"], ...GAINS,
  ],
  selection: [["entry", "Method"], ...PLACE, ["cells", "Cells"], ["epochs", "Epochs"], ...GAINS],
  budget: [
    ["entry", "Method"], ...PLACE, ["target", "Target"], ["preparation", "Preparation"], ["n", "Seeds"],
    ["final_mean", "Final"], ["final_low", "95 % interval", "final_high"], ["dense_epochs", "Dense epochs"],
    ["prepare_epochs", "Preparation epochs"], ["recovery_epochs", "Recovery epochs"],
    ["spent_epochs", "All epochs"], ["spent_gmacs", "All GMACs"], ["over_*", ""],
  ],
  robustness: [
    ["entry", "Method"], ...PLACE, ["target", "Target"], ["set", "Set"], ["corruption", "Corruption"], ["n", "Seeds"],
    ["dense_mean", "Dense"], ["accuracy_mean", "Pruned"], ["drop_mean", "Drop"], ["paired_low", "95 % interval", "paired_high"],
    ["test_drop_mean", "Drop on the test set"], ["excess_mean", "Lost more here"],
  ],
  classes: [
    ["entry", "Method"], ...PLACE, ["target", "Target"], ["class", "Class"], ["images", "Images"],
    ["unrevealed", "Unrevealed"], ["n", "Seeds"], ["dense", "Dense"], ["before", "Before"],
    ["recalibrated", "BN recal."], ["final", "Final"], ["drop", "Lost since dense"],
  ],
  ladder: [
    ["entry", "Method"], ...PLACE, ["target", "Target"], ["reduction_mean", "FLOPs removed"], ["n", "Seeds"],
    ["recalibrated_mean", "BN recal."], ["before_mean", "Before"], ["inverse_mean", "Inverse"],
    ["dense_mean", "Dense"], ["reason", "Reason"],
  ],
  early: [
    ["entry", "Method"], ...PLACE, ["target", "Target"], ["step", "Step"], ["n", "Seeds"],
    ["val_mean", "Validation"], ["val_sd", "SD"],
  ],
  pooled: [
    ["title", "Method"], ["allocation", "Allocation"], ["reference_method", "Compared with"], ["verdict", "Verdict"],
    ["blocks", "Boards"], ["mean", "Mean difference"], ["low_95", "95 % interval", "high_95"],
    ["p_better", "P better"], ["p_equivalent", "P equivalent"], ["p_worse", "P worse"],
    ["per_block", "By board"], ["note", "Note"],
  ],
};
const ALWAYS = ["verdict"]; // shown even where all rows agree

function inWords(name) {
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

// The columns of a layout that a frame has, as [column, heading, upper end or undefined]; all of
// them, under their own names, for a frame that has no layout or where all are asked for.
function laidOut(frame, name, whole) {
  const columns = [...frame.columns.values()];
  const layout = LAYOUTS[name] || [];
  const shown = layout.flatMap(([key, head, upper]) => columns
    .filter((column) => (key.endsWith("*") ? column.name.startsWith(key.slice(0, -1)) : column.name === key))
    .map((column) => [column, head || inWords(column.name), frame.columns.get(upper)]));
  const there = new Set(shown.flatMap(([column, , upper]) => [column, upper]));
  const others = columns.filter((column) => !there.has(column)).map((column) => [column, inWords(column.name)]);
  return { shown: whole || !shown.length ? [...shown, ...others] : shown, hasMore: shown.length > 0 && others.length > 0 };
}
