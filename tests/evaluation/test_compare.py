import numpy as np
import pytest
from scipy import stats

from tapadl.evaluation.compare import compare, model_labels
from tapadl.metrics import bootstrap_interval


@pytest.fixture
def pair(make_benchmark, make_result):
    return [
        make_result(make_benchmark(error=0.30), model="plain"),
        make_result(make_benchmark(error=0.24, seed=1), model="tap", weights="1b" * 32),
    ]


def differences(comparison, benchmark="imagenet-c"):
    return {one.metric: one for one in comparison.by_benchmark[benchmark][0].differences}


def test_differences_are_those_of_the_metrics(pair):
    found = differences(compare(pair))
    plain, tap = (result.metrics("imagenet-c") for result in pair)
    assert found.keys() == plain.keys()
    for name, one in found.items():
        assert (one.reference, one.other) == (plain[name], tap[name])
        assert one.difference == pytest.approx(tap[name] - plain[name])


def test_interval_and_test_are_paired_by_image(pair):
    found = differences(compare(pair))
    shares = [result.benchmark("imagenet-c").shares() for result in pair]
    apart = shares[1]["mce"] - shares[0]["mce"]
    assert found["mce"].interval == bootstrap_interval(apart)
    # hard images are hard for both: the pair is told apart far better than two independent means
    low, high = found["mce"].interval
    independent = 2 * 1.96 * sum(share["mce"].var(ddof=1) / len(apart) for share in shares) ** 0.5
    assert high - low < 0.7 * independent
    wrong = [result.benchmark("imagenet-c").records[0].items["correct"] for result in pair]
    only = [int((wrong[0] & ~wrong[1]).sum()), int((~wrong[0] & wrong[1]).sum())]
    exact = stats.binomtest(min(only), sum(only), 0.5).pvalue
    assert found["error"].p_value == pytest.approx(exact)


def test_better_is_said_only_where_interval_and_test_agree(pair, make_benchmark, make_result):
    assert differences(compare(pair))["mce"].better == 1
    assert differences(compare(pair[::-1]))["mce"].better == 0
    same = [pair[0], make_result(make_benchmark(error=0.30), model="again", weights="2c" * 32)]
    assert all(one.better is None for one in differences(compare(same)).values())


def test_chance_is_called_a_difference_as_often_as_it_should_be(make_benchmark, make_result):
    # models that differ by nothing but their draws
    called = []
    for seed in range(40):
        results = [
            make_result(make_benchmark("folder", error=0.3, seed=1000 * seed + place), model=str(place))
            for place in range(2)
        ]
        called.append(differences(compare(results), "folder")["error"].better is not None)
    assert np.mean(called) <= 0.15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "stored"}, "images that are in_memory and stored"),
        ({"fingerprint": "cd" * 32}, "other images"),
        ({"count": 300}, "400 and 300 images"),
        ({"severities": (1, 2, 3)}, "conditions that only one was shown"),
        ({"frost": "procedural"}, "frost from photographs and procedural"),
    ],
)
def test_other_conditions_are_refused_and_named(pair, make_benchmark, make_result, change, message):
    other = make_result(make_benchmark(**change), model="other")
    with pytest.raises(ValueError, match=f"expected plain and other in the same conditions.*{message}"):
        compare([pair[0], other])


def test_other_seeds_are_refused(pair, make_benchmark, make_result):
    with pytest.raises(ValueError, match="seeds 0 and 7"):
        compare([pair[0], make_result(make_benchmark(), model="other", seed=7)])


def test_seeds_of_stored_images_do_not_matter_until_they_are_attacked(make_benchmark, make_result):
    plain = [make_result(make_benchmark("imagenet"), model=str(seed), seed=seed) for seed in range(2)]
    assert compare(plain).by_benchmark["imagenet"]
    attacked = [
        make_result(make_benchmark("imagenet", attacks=("pgd",)), model=str(seed), seed=seed)
        for seed in range(2)
    ]
    with pytest.raises(ValueError, match="seeds 0 and 1"):
        compare(attacked)


def test_attacks_of_other_strength_are_refused(make_benchmark, make_result):
    results = [
        make_result(make_benchmark("imagenet", attacks=("pgd",)), model=str(steps), attack={"steps": steps})
        for steps in (10, 20)
    ]
    with pytest.raises(ValueError, match="attacks of other strength"):
        compare(results)


def test_clean_error_of_other_images_gives_no_interval(make_benchmark, make_result):
    results = [
        make_result(
            make_benchmark("imagenet", error=error),
            make_benchmark(error=error, clean=False),
            model=str(error),
        )
        for error in (0.3, 0.2)
    ]
    found = differences(compare(results))
    assert found["relative_mce"].interval is None
    assert found["relative_mce"].better is None
    assert found["mce"].interval is not None


def test_what_models_chose_themselves_is_a_caution(pair, make_benchmark, make_result):
    other = make_result(make_benchmark(), model="low", weights="0a" * 32, precision="bfloat16")
    (found,) = compare([pair[0], other]).by_benchmark["imagenet-c"]
    assert found.cautions == (
        "The reference ran in float32, this model in bfloat16.",
        "Both have the same weights.",
    )


def test_benchmarks_in_common_are_compared_and_the_rest_is_named(make_benchmark, make_result):
    first = make_result(make_benchmark(), make_benchmark("imagenet"), model="a")
    second = make_result(make_benchmark(), make_benchmark("imagenet-p"), model="b")
    found = compare([first, second])
    assert list(found.by_benchmark) == ["imagenet-c"]
    assert set(found.left_out) == {"imagenet", "imagenet-p"}
    assert compare([first, first], ["imagenet"]).left_out == ()
    with pytest.raises(ValueError, match="got 'imagenet'"):
        compare([first, second], ["imagenet"])
    with pytest.raises(ValueError, match="benchmark in common"):
        compare([make_result(make_benchmark("imagenet-p")), make_result(make_benchmark("imagenet"))])


def test_models_of_one_name_are_told_apart(make_benchmark, make_result):
    results = [make_result(make_benchmark(), weights=weights * 32) for weights in ("0a", "1b", "1b")]
    assert len(set(model_labels(results))) == 3
    assert all(label.startswith("vit_tiny_patch16_224 ") for label in model_labels(results))
    for name, result in zip("ab", results[:2], strict=True):
        result.model["checkpoint"] = f"{name}.safetensors"
    assert model_labels(results[:2]) == ("a", "b")
