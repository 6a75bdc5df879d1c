"""k-NN and linear classification: exact votes, an independent reference, a miniature dataset."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from eval.probes import classification, datasets
from eval.probes import classification as probe
from eval.probes.feature_store import FeatureStore
from eval.probes.settings import CentreSettings, KnnSettings, LinearSettings
from store.errors import InvalidInput
from tests.eval.probes.probing import calls_of, colour_encoder, colour_folders, save

CENTRE = CentreSettings(resize=12, crop=12)


def unit(cosine: float) -> list[float]:
    return [cosine, float(np.sqrt(1 - cosine**2))]


def test_two_near_neighbours_outvote_the_nearest() -> None:
    train = torch.tensor([unit(1.0), unit(0.96), unit(0.95)])
    labels = torch.tensor([0, 1, 1])
    predicted = classification.predict(train, labels, torch.tensor([[3.0, 0.0]]), neighbours=(3, 1, 100), classes=2)
    assert [int(predicted[k]) for k in (3, 1, 100)] == [1, 0, 1]  # 100 of 3: all of them


def test_votes_equal_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    train, test = random.normal(size=(30, 5)), random.normal(size=(7, 5)) * 9
    labels = random.integers(0, 4, 30)
    by_k = classification.predict(
        torch.tensor(train), torch.tensor(labels), torch.tensor(test), neighbours=(1, 5, 20), classes=4, temperature=0.2
    )
    for k in (1, 5, 20):
        for query, predicted in zip(test, by_k[k].tolist(), strict=True):
            similarity = train @ query / np.linalg.norm(train, axis=1) / np.linalg.norm(query)
            votes = np.zeros(4)
            for place in np.argsort(-similarity)[:k]:
                votes[labels[place]] += np.exp(similarity[place] / 0.2)
            assert predicted == votes.argmax()


def test_linear_probe_is_logistic_regression_on_standardised_features() -> None:
    random = np.random.default_rng(1)
    labels = np.arange(90) % 3
    vectors = random.normal(size=(90, 4)) + np.eye(3)[labels] @ random.normal(size=(3, 4)) * 2
    vectors = vectors * (1, 100, 0.01, 1)
    settings = LinearSettings(strengths=(0.1,))
    scores = classification.score_linear(vectors[:60], labels[:60], vectors[60:], labels[60:], settings=settings)
    scaler = StandardScaler().fit(vectors[:60])
    model = LogisticRegression(C=0.1).fit(scaler.transform(vectors[:60]), labels[:60])
    assert scores["top1"] == pytest.approx(100 * model.score(scaler.transform(vectors[60:]), labels[60:]))


def test_the_strength_is_chosen_on_training_data_alone() -> None:
    random = np.random.default_rng(2)
    labels = np.arange(200) % 2
    vectors = random.normal(size=(200, 80))
    vectors[:, 0] += 2 * labels
    labels[:6] = 0  # with next to no strength the majority wins
    settings = LinearSettings(strengths=(1e-9, 0.01))
    scores = classification.score_linear(vectors[:80], labels[:80], vectors[80:], labels[80:], settings=settings)
    assert scores["strength"] == 0.01
    swapped = classification.score_linear(vectors[:80], labels[:80], vectors[80:], 1 - labels[80:], settings=settings)
    assert swapped["strength"] == 0.01
    assert swapped["top1"] == pytest.approx(100 - scores["top1"])
    with pytest.raises(InvalidInput, match="two training images each"):
        classification.score_linear(vectors[:3], labels[:3], vectors[80:], labels[80:], settings=settings)


def test_both_probes_on_a_dataset_share_features_extracted_once(tmp_path: Path) -> None:
    root = colour_folders(tmp_path / "colours")
    train, test = (datasets.folders(root, split) for split in ("train", "test"))
    feature_store = FeatureStore(root=tmp_path / "features", dataset="colours")
    encoder = colour_encoder()
    data = {"train": train, "test": test, "feature_store": feature_store}
    knn_figures = probe.run_knn(encoder, **data, settings=KnnSettings(centre=CENTRE, neighbours=(1, 20)))
    assert knn_figures == {"top1_k1": 100, "top1_k20": 100, "train_images": 18, "test_images": 12}
    calls = calls_of(encoder)
    assert calls == 2
    for pooling in ("cls", "mean", "cls+mean"):
        linear_figures = probe.run_linear(
            encoder, **data, settings=LinearSettings(centre=CENTRE, pooling=pooling, strengths=(1.0,))
        )
        assert linear_figures["top1"] == 100
    assert calls_of(encoder) == calls
    probe.run_knn(colour_encoder(name="other"), **data, settings=KnnSettings(centre=CENTRE))
    assert len(list((tmp_path / "features").iterdir())) == 4


def without_test_class(root: Path) -> None:
    shutil.rmtree(root / "test" / "apple")  # the first, so that positions shift


def with_empty_folders(root: Path) -> None:
    for folder in ("train/aaa", "test/aab", "test/zzz", "train/.ipynb_checkpoints"):
        (root / folder).mkdir()
    (root / "test" / "aab" / "notes.txt").write_text("no image")


def with_a_hidden_copy(root: Path) -> None:
    shutil.copytree(root / "train" / "sky", root / "train" / ".trash")


def with_a_training_class_more(root: Path) -> None:
    for number in range(6):
        save(root / "train" / "aaa" / f"{number}.png", np.full((12, 16, 3), 250, dtype=np.uint8))


@pytest.mark.parametrize(
    "change", [without_test_class, with_empty_folders, with_a_hidden_copy, with_a_training_class_more]
)
def test_classes_of_both_splits_are_matched_by_name(tmp_path: Path, change: Callable[[Path], None]) -> None:
    root = colour_folders(tmp_path / "colours")
    change(root)
    train, test = (datasets.folders(root, split) for split in ("train", "test"))
    data = {"train": train, "test": test, "feature_store": FeatureStore(root=tmp_path / "features", dataset="colours")}
    encoder = colour_encoder()
    assert probe.run_knn(encoder, **data, settings=KnnSettings(centre=CENTRE, neighbours=(1,)))["top1_k1"] == 100
    assert probe.run_linear(encoder, **data, settings=LinearSettings(centre=CENTRE, strengths=(1.0,)))["top1"] == 100


def test_accuracy_is_that_of_class_names_for_any_choice_of_folders(tmp_path: Path) -> None:
    names = np.array(["ant", "Bee", "cat", "dog", "é", "10", "9"])
    random = np.random.default_rng(0)
    for _ in range(30):
        trained = random.permutation(names)[: random.integers(2, 7)]
        tested = random.permutation(trained)[: random.integers(1, len(trained) + 1)]
        folders = [
            datasets.Folders(
                root=tmp_path,
                images=tuple(Path(f"{split}/{number}") for number in range(12)),
                labels=tuple(random.integers(len(classes), size=12).tolist()),
                classes=tuple(classes.tolist()),
            )
            for split, classes in (("train", trained), ("test", tested))
        ]
        aligned = datasets.with_classes_of(*folders)
        assert [folders[0].classes[label] for label in aligned.labels] == [tested[label] for label in folders[1].labels]
        assert datasets.with_classes_of(folders[0], aligned) == aligned


@pytest.mark.parametrize("run", [probe.run_knn, probe.run_linear])
def test_classes_without_training_images_are_refused_before_any_work(
    tmp_path: Path, run: Callable[..., object]
) -> None:
    root = colour_folders(tmp_path / "colours", train=2, test=1)
    (root / "train" / "leaf").rename(root / "train" / "Leaf")
    for image in (root / "train" / "sky").iterdir():
        image.unlink()
    shutil.copytree(root / "train" / "apple", root / "train" / "bark")
    train, test = (datasets.folders(root, split) for split in ("train", "test"))
    encoder, feature_store = colour_encoder(), FeatureStore(root=tmp_path / "features", dataset="colours")
    settings = KnnSettings(centre=CENTRE) if run is probe.run_knn else LinearSettings(centre=CENTRE)
    message = r"2 of 3 classes have no training image: 'leaf', 'sky'\. Expected .*: 'Leaf', 'apple', 'bark'"
    with pytest.raises(InvalidInput, match=message):
        run(encoder, train=train, test=test, feature_store=feature_store, settings=settings)
    assert calls_of(encoder) == 0


def test_refusals_do_not_wait_for_the_features(tmp_path: Path) -> None:
    root = colour_folders(tmp_path / "colours", train=1, test=1)
    train, test = (datasets.folders(root, split) for split in ("train", "test"))
    data = {"train": train, "test": test, "feature_store": FeatureStore(root=tmp_path / "features", dataset="colours")}
    encoder = colour_encoder(cls=False)
    with pytest.raises(InvalidInput, match="two training images each"):
        probe.run_linear(encoder, **data, settings=LinearSettings(centre=CENTRE))
    assert calls_of(encoder) == 0
    with pytest.raises(InvalidInput, match="no CLS token"):
        probe.run_knn(encoder, **data, settings=KnnSettings(centre=CENTRE, pooling="cls"))
    assert calls_of(encoder) == 1


def test_an_encoder_without_cls_is_pooled_by_its_mean(tmp_path: Path) -> None:
    root = colour_folders(tmp_path / "colours", train=2, test=1)
    train, test = (datasets.folders(root, split) for split in ("train", "test"))
    data = {"train": train, "test": test, "feature_store": FeatureStore(root=tmp_path / "features", dataset="colours")}
    encoder = colour_encoder(cls=False)
    assert probe.run_knn(encoder, **data, settings=KnnSettings(centre=CENTRE))["top1_k10"] == 100
    with pytest.raises(InvalidInput, match="no CLS token"):
        probe.run_knn(encoder, **data, settings=KnnSettings(centre=CENTRE, pooling="cls"))


def test_images_are_shown_by_their_centre() -> None:
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    image[:, 13:27] = 255
    shown = probe.centre(image, CentreSettings(resize=10, crop=5))
    assert shown.shape == (5, 5, 3)
    assert shown.min() > 200  # half the size, then columns 7 to 12 of 20: inside the bright part
