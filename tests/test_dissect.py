"""Looking into finished runs: selectivity and served classes by hand, prefixes of a training to the
bit, the verb on tiny data, and figures that say what the facts say."""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from test_execute import go, make_spec

from benchmark import diagnostics, diagnosticsplot, dissect, dissection, dissectplot, looks
from benchmark.block import blocks
from benchmark.cli import BAD_INPUT, DONE, invoke
from benchmark.data import Data
from benchmark.dissection import KIND, Layer
from benchmark.options import options_from
from benchmark.schedule import Schedule
from benchmark.store import Store
from benchmark.sweep import expand
from benchmark.tasks import data_of
from methods import build, find

Facts = dict[str, Any]

# ---- by hand -------------------------------------------------------------------------------------

MEANS = np.array([[4.0, 1.0, 0.0, 5.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 4.0]])  # (K, C)


def layer(scores: list[float] | None = None) -> Layer:
    """Three classes of two images each, whose activations are those of `MEANS` exactly."""
    return Layer(
        np.array(scores or [4.0, 3.0, 2.0, 1.0]),
        np.array([True, True, False, False]),
        np.repeat(MEANS, 2, axis=0),
        MEANS,
    )


def test_selectivity_by_hand() -> None:
    index = dissection.selectivity(MEANS)
    assert index[0] == (4 - 1) / (4 + 1)
    assert index[1] == 0  # alike for all
    assert np.isnan(index[2])  # dead
    assert index[3] == (5 - 2) / (5 + 2)
    assert dissection.preferred(MEANS).tolist() == [0, 0, dissection.DEAD, 0]
    assert dissection.selectivity(np.array([[3.0], [0.0]])) == [1]


def test_served_classes_by_hand() -> None:
    """Averages are 2, 1, 0 and 3; at least 1.25 of them is 2.5, 1.25, - and 3.75."""
    facts = dissection.layer_facts(layer())
    assert facts["serves"] == [[0], [], [], [0, 2]]
    edge = np.array([[1.25], [0.75]])
    assert dissection.served(edge).tolist() == [[True], [False]]


def test_means_are_over_the_images_of_a_class() -> None:
    activations = np.array([[1.0], [3.0], [10.0]], dtype=np.float32)
    means = dissection.class_means(activations, np.array([1, 1, 0]), 3)
    assert means.tolist() == [[10.0], [2.0], [0.0]]


def test_scores_that_rank_as_selectivity_does_agree_fully() -> None:
    facts = dissection.layer_facts(layer([0.9, 0.1, 99.0, 0.5]))  # the dead channel is left out
    assert facts["score_against_selectivity"] == 1.0
    turned = dissection.layer_facts(layer([-0.9, -0.1, 99.0, -0.5]))
    assert turned["score_against_selectivity"] == -1.0
    assert dissection.layer_facts(layer([1.0] * 4))["score_against_selectivity"] is None


def test_masks_above_neutral_are_told() -> None:
    masks = np.array([[1.01, 1.0, 0.9, 2.0], [0.5, 1.0, 1.1, 0.0], [1.2, 1.0, 1.1, 0.0]])
    facts = dissection.layer_facts(dataclasses.replace(layer(), masks=masks))
    assert facts["masks_above_neutral"] == [[0, 2], [], [1, 2], [0]]
    assert "masks_above_neutral" not in dissection.layer_facts(layer())


def test_permuted_channels_permute_the_dissection() -> None:
    order = np.array([2, 0, 3, 1])
    one = dataclasses.replace(layer(), masks=MEANS)
    moved = Layer(one.scores[order], one.kept[order], one.activations[:, order],
                  one.means[:, order], MEANS[:, order])  # fmt: skip
    before, after = (dissection.layer_facts(found) for found in (one, moved))
    assert after.pop("score_against_selectivity") == before.pop("score_against_selectivity")
    assert after == {name: [values[i] for i in order] for name, values in before.items()}
    told = [(t.end, t.kept, order.tolist().index(t.channel), t.index)
            for t in dissection.telling({"a": one})]  # fmt: skip
    assert [(t.end, t.kept, t.channel, t.index) for t in dissection.telling({"a": moved})] == told


def test_the_most_telling_channels_are_chosen_apart() -> None:
    found = dissection.telling({"a": layer()}, count=1)
    assert [(t.end, t.kept, t.channel) for t in found] == [
        ("specific", False, 3), ("general", False, 3),  # the other removed channel is dead
        ("specific", True, 0), ("general", True, 1),
    ]  # fmt: skip


def test_a_channel_that_hardly_fires_is_not_shown() -> None:
    rare = layer()
    activations = np.zeros((100, 4))
    activations[:4, 0] = 1.0  # 4 % of the images
    activations[:5, 1] = 1.0
    found = dissection.telling({"a": dataclasses.replace(rare, activations=activations)})
    assert {t.channel for t in found} == {1}


def test_the_strongest_images_come_first_and_ties_keep_their_order() -> None:
    assert dissection.strongest(np.array([0.0, 2.0, 5.0, 2.0]), 3).tolist() == [2, 1, 3]


def test_counts_of_removed_channels() -> None:
    facts = {"classes": ["a", "b", "c"], "layers": {"x": dissection.layer_facts(layer())}}
    assert dissection.removed_per_class(facts).tolist() == [[1, 0, 1]]  # channel 3
    assert dissection.removed_per_class(facts, "prefers").tolist() == [[1, 0, 0]]
    assert dissection.removed_channels(facts).tolist() == [2]


# ---- a shorter training is the beginning of the longer one ---------------------------------------


def sizes(epochs: float, images: int, batch: int) -> list[int]:
    return [size for epoch in Schedule.of(epochs, images, batch).sizes for size in epoch]


@pytest.mark.parametrize("images", [200, 1294, 45_000, 997])
@pytest.mark.parametrize("batch", [25, 32, 128, 256])
@pytest.mark.parametrize("epochs", [0.3, 1.0, 1.5, 5.0, 6.25])
def test_batches_of_a_prefix_are_those_of_the_whole(epochs: float, images: int, batch: int) -> None:
    whole = sizes(epochs, images, batch)
    for cut in diagnostics.prefixes(epochs, images, batch):
        part = sizes(cut, images, batch)
        assert part == whole[: len(part)]


def test_prefixes_are_near_the_quarters() -> None:
    cuts = diagnostics.prefixes(1.5, 200, 25)
    assert cuts == pytest.approx([0.375, 0.75, 1.125], abs=25 / 200)
    assert cuts == sorted(set(cuts))


def test_a_shorter_mask_training_is_the_beginning_of_the_longer() -> None:
    """Masks after half of the phase equal those that the whole phase passes through, to the bit."""
    cut = diagnostics.prefixes(1.5, tiny.TRAIN, tiny.RECIPE.batch_size)[1]
    seen: dict[float, list[torch.Tensor]] = {}
    for epochs in (cut, 1.5):
        net, run = tiny.network(), tiny.trainer()
        run.use(net)
        steps: list[torch.Tensor] = []
        method = build(find("whitebox"), find("whitebox").params() | {"mask_epochs": epochs})
        original = type(run)._step

        def spy(
            own: Any, objective: Any, phase: Any, *rest: Any, to: Any = steps, do: Any = original
        ) -> None:
            do(own, objective, phase, *rest)
            found = [p.detach().flatten() for p in phase.net.parameters() if p.requires_grad]
            to.append(torch.cat(found))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(run), "_step", spy)
            method.score(net, run)
        seen[epochs] = steps
    short, long = seen[cut], seen[1.5]
    assert 0 < len(short) < len(long)
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=False))
    assert not torch.equal(long[0], long[-1])


def test_only_what_trains_and_draws_is_followed_over_training() -> None:
    found = {}
    for label in ("whitebox", "l1norm", "slimming"):
        spec = make_spec(label)
        method = build(find(label), spec.method.params)
        found[label] = diagnostics.lengths(spec, method, tiny.TRAIN)
    assert [s.method.params["mask_epochs"] for s in found["whitebox"]] == [
        pytest.approx(e) for e in (0.25, 0.5, 0.75, 1.0)
    ]
    assert found["whitebox"][-1] == make_spec("whitebox")
    assert [len(found[label]) for label in ("l1norm", "slimming")] == [1, 1]


# ---- the verb ------------------------------------------------------------------------------------


def dissect_all(root: Path, *labels: str, data: Data | None = None) -> int:
    """Exit code of the verb for the runs of these methods."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dissect, "read_data", lambda *_: data or tiny.data())
        ids = [make_spec(label).run_id for label in labels]
        return invoke(dissect.main, [*ids, "--results", str(root)])


def facts_of(root: Path, label: str) -> Facts:
    (found,) = Store(root).measurements(make_spec(label), KIND)
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished runs; two of them looked into."""
    before, root = torch.get_num_threads(), tmp_path_factory.mktemp("results")
    torch.set_num_threads(1)
    for label in ("whitebox", "l1norm", "cpli"):
        go(make_spec(label), root)
    assert dissect_all(root, "whitebox", "l1norm") == DONE
    torch.set_num_threads(before)
    return root


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_facts_are_those_of_the_record(results: Path) -> None:
    spec = make_spec("whitebox")
    record, facts = Store(results).read(spec), facts_of(results, "whitebox")
    assert (facts["same_dense"], facts["kept_again"]) == (True, 1.0)
    assert (facts["split"], facts["images"], facts["classes"]) == ("val", tiny.VAL, list("abcd"))
    assert list(facts["layers"]) == record.groups
    plan = json.loads((Store(results).run_folder(spec) / "plan.json").read_text())["keep"]
    for name, found in facts["layers"].items():
        assert np.flatnonzero(found["kept"]).tolist() == plan[name]
        assert len(found["masks_above_neutral"]) == len(found["scores"])
        kept = {s for s, k in zip(found["scores"], found["kept"], strict=True) if k}
        lost = {s for s, k in zip(found["scores"], found["kept"], strict=True) if not k}
        assert not lost or min(kept) >= max(lost)
    last = facts["training"][-1]
    assert record.selection is not None
    assert record.seed_agreement is not None
    assert last["epochs"] == spec.method.params["mask_epochs"]
    assert last["vote"] == pytest.approx(record.selection.score, rel=1e-5)
    assert last["inverse"] == pytest.approx(record.selection.inverse, rel=1e-5)
    assert last["random"] == pytest.approx(record.selection.random, rel=1e-5)
    assert last["rank_correlation"] == pytest.approx(
        record.seed_agreement.rank_correlation, rel=1e-5
    )
    assert last["leakage"] == record.method_facts["leakage"]
    assert [p["constant_rate"] for p in facts["training"]] == [True] * 4


def test_activations_are_those_after_the_activation_function() -> None:
    net, data = tiny.network(), tiny.data()
    seen = dissect.images_of(data)
    source = data.val.source(data.identity)
    found = dissect.activations(net, source, seen.rows)
    name = net.layers[0]
    with torch.no_grad(), net.tapped("act", (name,)) as maps:
        net(source.batch(seen.rows)[0])
        by_hand = maps[name].mean((2, 3)).numpy()
    assert np.allclose(found[name], by_hand, atol=1e-6)
    assert found[name].shape == (tiny.VAL, len(net.weight(name)))


def test_images_shown_are_the_ones_that_excite_most(results: Path) -> None:
    facts, data = facts_of(results, "l1norm"), tiny.data()
    for channel in facts["gallery"]["channels"]:
        assert len(set(channel["images"])) == len(channel["images"]) == dissection.IMAGES
        assert channel["labels"] == data.val.labels[channel["images"]].tolist()
        found = facts["layers"][channel["layer"]]
        assert bool(found["kept"][channel["channel"]]) == channel["kept"]
        assert found["selectivity"][channel["channel"]] == channel["selectivity"]
    for row, stored in facts["gallery"]["thumbnails"].items():
        image = Image.open(io.BytesIO(base64.b64decode(stored)))
        wanted = data.val.pixels[int(row)].permute(1, 2, 0).numpy()
        assert np.array_equal(np.asarray(image), wanted)  # native size, no loss


def test_large_images_become_small_thumbnails() -> None:
    stored = dissect.thumbnail(torch.zeros(3, 200, 200, dtype=torch.uint8))
    assert Image.open(io.BytesIO(base64.b64decode(stored))).size == (64, 64)


def test_a_method_without_training_has_one_point(results: Path) -> None:
    facts = facts_of(results, "l1norm")
    (point,) = facts["training"]
    assert (point["epochs"], point["rank_correlation"], point["leakage"]) == (0, None, {})
    assert point["vote"] is not None


def test_again_changes_nothing_and_from_nothing_gives_the_same_bytes(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bytes_of(results)
    assert dissect_all(results, "whitebox", "l1norm") == DONE
    assert capsys.readouterr().out.count("its dissection is there already") == 2
    assert bytes_of(results) == before
    go(make_spec("whitebox"), tmp_path)
    assert dissect_all(tmp_path, "whitebox") == DONE
    assert "written to" in capsys.readouterr().out
    place = Path("runs") / make_spec("whitebox").folder / "measurements"
    (path,) = (tmp_path / place).iterdir()
    assert path.read_bytes() == (results / place / path.name).read_bytes()


def test_the_record_is_left_alone(results: Path) -> None:
    names = sorted(p.name for p in Store(results).run_folder(make_spec("l1norm")).iterdir())
    assert names == ["curve.csv", "measurements", "plan.json", "predictions.npz", "record.json"]


def test_shuffled_test_images_change_no_fact(results: Path, tmp_path: Path) -> None:
    go(make_spec("l1norm"), tmp_path)
    data = tiny.data()
    rows = torch.arange(tiny.TEST).flip(0)
    other = dataclasses.replace(data, test=data.test.select(rows))
    assert dissect_all(tmp_path, "l1norm", data=other) == DONE
    assert facts_of(tmp_path, "l1norm") == facts_of(results, "l1norm")


def test_bad_input_is_one_line(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = make_spec("cpli").run_id
    for words, wanted in (
        (["feedfeed"], "no run under"),
        (["what?"], "neither the folder of a run nor a run id"),
        ([own], f"run {own}: cpli decides widths and channels itself"),
        ([make_spec("l1norm").run_id, own], "has no scores to look into"),
    ):
        assert invoke(dissect.main, [*words, "--results", str(results)]) == BAD_INPUT
        err = capsys.readouterr().err
        assert wanted in err
        assert err.count("\n") == 1


def test_the_page_names_the_runs_that_its_own_command_makes(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/white-box-explained.md").read_text(encoding="utf-8")
    words = next(li.split()[3:] for li in page.splitlines() if "python -m benchmark.run" in li)
    given = dict(zip(words[0:-3:2], words[1:-3:2], strict=True))
    options = options_from(
        {
            "methods": given["--methods"].split(","), "arch": given["--arch"], "seeds": [0],
            "dataset": given["--dataset"], "preset": given["--preset"], "controls": False,
            "flops_reduction": [float(given["--flops-reduction"])], "results": tmp_path,
        }
    )  # fmt: skip
    assert words[-3] == "--no-controls"
    cells = expand(options, data_of(options))
    looked_at = re.search(r"benchmark\.dissect (.*) --results", page)
    assert looked_at is not None
    assert sorted(cell.spec.run_id for cell in cells) == sorted(looked_at.group(1).split())


def test_data_that_is_not_there_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go(make_spec("l1norm"), tmp_path)  # its data is called tiny: a folder of images
    run = make_spec("l1norm").run_id
    assert invoke(dissect.main, [run, "--results", str(tmp_path)]) == BAD_INPUT
    err = capsys.readouterr().err
    assert "--data-dir" in err
    assert err.count("\n") == 1


# ---- figures and words ---------------------------------------------------------------------------


def test_figures_come_from_the_records_alone(results: Path) -> None:
    (block,) = blocks(results)
    found = list(dissectplot.figures(block))
    stems = [stem for _, stem, _, _ in found]
    assert len(set(stems)) == len(stems) == 1 + 2 * 5
    assert {table for table, *_ in found} == set(block.runs["table"])
    assert all(caption.endswith(".") for _, _, caption, _ in found)


def test_the_heat_map_holds_the_counts(results: Path) -> None:
    facts = facts_of(results, "whitebox")
    figure = dissectplot.served(facts, "x")
    counts = dissection.removed_per_class(facts)
    shown = [int(t.get_text()) for t in figure.axes[0].texts]
    assert shown == [*counts.ravel().tolist(), *counts.sum(axis=0).tolist()]


def test_the_lines_over_training_are_the_facts(results: Path) -> None:
    facts = facts_of(results, "whitebox")
    axes = diagnosticsplot.training(facts, "x").axes
    (line,) = [x for x in axes[0].lines if x.get_label() == "highest scores kept"]
    assert list(np.asarray(line.get_ydata())) == [100 * p["vote"] for p in facts["training"]]
    (line,) = [x for x in axes[1].lines if x.get_label() == "rank correlation of scores"]
    assert list(np.asarray(line.get_ydata())) == [p["rank_correlation"] for p in facts["training"]]


def test_figures_are_the_same_bytes_twice(results: Path, tmp_path: Path) -> None:
    facts = facts_of(results, "whitebox")

    def drawn(name: str) -> str:
        with looks.fixed_style():
            looks.save(dissectplot.gallery(facts, "x"), tmp_path / name)
        return (tmp_path / name).read_text(encoding="utf-8")

    assert drawn("first.svg") == drawn("second.svg")


def changed(facts: Facts, **last: Any) -> str:
    """The paragraph with other figures at the last point."""
    other = copy.deepcopy(facts) | {"images": 5000}
    other["training"][-1] |= last
    return dissection.paragraph(other)


def test_the_paragraph_follows_its_rules(results: Path) -> None:
    facts = facts_of(results, "whitebox")
    drawn = [0.3, 0.34]
    for vote, inverse, wanted in (
        (0.2, 0.3, "The scores are uninformative in this setting"),
        (0.31, 0.305, "It is not clear that the scores are informative"),
        (0.33, 0.2, "informative, but some random draw does as well"),
        (0.31, 0.2, "beat their inverse, but not random draws"),
        (
            0.5,
            0.2,
            "The scores are informative: without recovery, the channels they keep give 50.0",
        ),
    ):
        assert wanted in changed(facts, vote=vote, inverse=inverse, random=drawn), wanted
    assert "seeds of the method agree about" in changed(facts, rank_correlation=0.9)
    assert "hardly agree" in changed(facts, rank_correlation=0.1)
    none = {"mean": 0.0, "low": -0.1, "high": 0.02}
    some = {"mean": 0.25, "low": 0.2, "high": 0.3}
    names = ("noise_minus_chance", "true_minus_wrong_label", "true_label_minus_unmasked")
    assert "No sign that the masks tell" in changed(facts, leakage=dict.fromkeys(names, none))
    said = changed(facts, leakage=dict.fromkeys(names, some))
    assert "on noise images they give 25.0 points above guessing" in said
    assert "a wrong label costs 25.0 points" in said


def test_the_paragraph_says_what_was_not_judged(results: Path) -> None:
    said = changed(facts_of(results, "l1norm"), vote=None)
    assert said.startswith("The choice was not judged")
