import difflib
import importlib
from collections import Counter

import pytest

NOUNS = """\
  1 This software and database is being provided to you, the LICENSEE, by
  2 Princeton University under the following license.
00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which is perceived or known; "an entity"
00001930 05 n 02 cat 0 true_cat 0 000 | feline mammal usually having thick soft fur: "a cat"; "cats"
00002137 28 n 01 noon 0 000 | the middle of the day
00002138 28 n 01 midday 0 000 | the middle of the day; "again"
00002139 10 n 01 nobody 0 000 | "a gloss of examples alone"
"""


@pytest.fixture
def wordnet(monkeypatch, request):
    monkeypatch.syspath_prepend(request.config.rootpath / "studies")
    return importlib.import_module("wordnet")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data.noun").write_text(NOUNS)
    return tmp_path


def test_each_definition_is_read_once_without_examples_and_with_its_class(wordnet, folder):
    assert wordnet.read_glosses(wordnet.find_nouns(folder)) == [
        ("that which is perceived or known", 0),
        ("feline mammal usually having thick soft fur", 2),
        ("the middle of the day", 25),
    ]


def test_folder_of_a_source_release_is_looked_into(wordnet, tmp_path):
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "data.noun").write_text(NOUNS)
    assert wordnet.find_nouns(tmp_path) == tmp_path / "dict" / "data.noun"


def test_missing_data_is_named_with_the_way_to_get_it(wordnet, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"apt install wordnet-base.* or .*--wordnet DIR"):
        wordnet.find_nouns(tmp_path)


@pytest.mark.parametrize(
    "line", ["00001740 03 n 01 entity 0 000", "00001740 29 v 01 breathe 0 000 | draw air", "rubbish"]
)
def test_a_line_of_another_kind_is_named(wordnet, folder, line):
    (folder / "data.noun").write_text(NOUNS + line + "\n")
    with pytest.raises(ValueError, match=r"line 8 of data.noun .* 03 to 28, got"):
        wordnet.read_glosses(folder / "data.noun")


def test_parts_are_disjoint_and_the_same_for_the_same_seed(wordnet):
    glosses = [wordnet.Gloss(str(i), i % 26) for i in range(100)]
    parts = wordnet.split_glosses(glosses, (50, 20, 10), seed=0)
    assert [len(part) for part in parts] == [50, 20, 10]
    assert len({gloss for part in parts for gloss in part}) == 80
    assert parts == wordnet.split_glosses(glosses, (50, 20, 10), seed=0)
    assert parts != wordnet.split_glosses(glosses, (50, 20, 10), seed=1)
    with pytest.raises(ValueError, match=r"at least 101 definitions .* got 100"):
        wordnet.split_glosses(glosses, (50, 51), seed=0)


def test_noise_is_the_same_for_the_same_seed_and_another_for_another(wordnet):
    text = "a large area of flat land " * 10
    noisy = wordnet.add_character_noise(text, 3, (7,))
    assert noisy == wordnet.add_character_noise(text, 3, (7,))
    assert noisy not in (
        wordnet.add_character_noise(text, 3, (8,)),
        wordnet.add_character_noise(text, 4, (7,)),
    )


def test_the_stated_share_of_characters_is_edited(wordnet):
    text = "0" * 20_000  # a letter in the output was put there by the noise
    for severity, rate in enumerate(wordnet.NOISE_RATES, start=1):
        noisy = wordnet.add_character_noise(text, severity, (0,))
        letters = sum(character.isalpha() for character in noisy)
        replaced_and_inserted = 2 * len(text) * rate / 4
        assert letters == pytest.approx(replaced_and_inserted, rel=0.15)
        assert len(noisy) == pytest.approx(len(text), rel=0.01)  # as many come as go


def test_all_four_edits_happen_and_each_is_one_edit(wordnet):
    text, kinds = "abcdefgh".upper(), Counter()
    for seed in range(400):
        noisy = wordnet.add_character_noise(text, 1, (seed,))
        changes = [
            change
            for change in difflib.SequenceMatcher(None, text, noisy).get_opcodes()
            if change[0] != "equal"
        ]
        if sorted(noisy) == sorted(text) and noisy != text:
            kinds["swap"] += 1
        elif len(changes) == 1:
            kinds[changes[0][0]] += 1
    assert min(kinds[kind] for kind in ("swap", "replace", "insert", "delete")) > 3


def test_empty_text_stays_empty_and_an_unknown_severity_is_named(wordnet):
    assert wordnet.add_character_noise("", 5, (0,)) == ""
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"severity of 1 to 5, got {severity}"):
            wordnet.add_character_noise("text", severity, (0,))
