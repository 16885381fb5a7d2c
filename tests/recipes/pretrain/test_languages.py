"""One text per script through every step: sentences, tokenizer, views, halves and word overlap."""

from dataclasses import dataclass

import numpy as np
import pytest

from tain.batches.splitting import SentenceEnds
from tain.batches.tokenizing import bare_ids
from tain.batches.views import crop, erase_span, special_ends
from tain.evaluation.baselines import Lexical, lexical_tokens
from tain.evaluation.label_free import dropped_copies, halves
from tain.foundation.errors import UserError
from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.pretrain.recipe import pretrain
from tain.recipes.pretrain.spelling import Spelling, choose_spelling
from tain.recipes.pretrain.start import alphabet_of, train_wordpiece
from tain.recipes.pretrain.vocabulary import count_words
from tain.text.scripts import graphemes
from tain.text.sentences import split_sentences


@dataclass(frozen=True)
class Language:
    sentences: tuple[str, ...]
    glue: str
    spelling: Spelling
    same: tuple[str, str]  # two spellings of one text
    different: tuple[str, str]  # two words that only accents, marks or dots tell apart


_KEPT = Spelling(lowercase=True, strip_accents=False)
_NO_CASE = Spelling(lowercase=False, strip_accents=False)
LANGUAGES = {
    "es": Language(
        ("El niño come pan todos los días.", "¿Cuántos años tiene la señora?", "Vive en el número 5 de la calle."),
        " ",
        _KEPT,
        ("NIÑO", "nin\u0303o"),
        ("año", "ano"),
    ),
    "tr": Language(
        ("Kızım ılık sütü sıcak sever.", "İstanbul'da ışıklar yanıyor mu?", "Irmak kıyısında balık tuttuk."),
        " ",
        Spelling(lowercase=True, strip_accents=False, dotless_i=True),
        ("ILIK İĞNE", "ılık iğne"),
        ("sınır", "sinir"),
    ),
    "de": Language(
        ("Am 3. Oktober fahren wir über die Straße.", "Schöne Grüße aus München!", "Im 19. Jahrhundert war das anders."),
        " ",
        _KEPT,
        ("GRÜẞE", "grüße"),
        ("schon", "schön"),
    ),
    "ar": Language(
        ("ذهب الولد إلى المدرسة صباحا.", "هل قرأت هذا الكتاب الجديد؟", "نعم قرأته في الليل."),
        " ",
        _NO_CASE,
        ("ﻛِﺘﺎﺏ", "كتاب"),  # presentation forms and a vowel sign
        ("آن", "ان"),
    ),
    "zh": Language(
        ("我今天早上去学校了。", "你喜欢喝什么茶？", "他说他明天会来北京！"),
        "",
        _NO_CASE,
        ("１２３茶", "123茶"),
        ("大", "太"),
    ),
    "ru": Language(
        ("Мой сын читает книгу каждый день.", "Ты видел мой синий чайник?", "Весной всё цветёт и поёт."),
        " ",
        _KEPT,
        ("КАЖДЫЙ", "каждый"),
        ("мой", "мои"),
    ),
    "fi": Language(
        ("Tämä järvi on hyvin syvä.", "Missä äiti on nyt?", "Hän lähti töihin aikaisin."),
        " ",
        _KEPT,
        ("ÄITI", "a\u0308iti"),
        ("näin", "nain"),
    ),
    "ja": Language(
        ("今日は学校へ行きました。", "がっこうはどこですか？", "彼は明日、東京に来ます。"),
        "",
        _NO_CASE,
        ("ｶﾞｯｺｳ", "ガッコウ"),
        ("がか", "かか"),
    ),
    "th": Language(
        ("วันนี้ฉันไปโรงเรียนตั้งแต่เช้าเพราะว่ามีสอบวิชาภาษาไทย", "เพื่อนของฉันชอบดื่มชาเย็นที่ร้านหน้าโรงเรียนทุกวันหลังเลิกเรียน"),
        " ",
        _NO_CASE,
        ("นํ้า", "นํ้า"),
        ("ป่า", "ปา"),
    ),
    "hi": Language(
        ("मैं आज सुबह स्कूल गया था।", "क्या तुम्हें चाय पसंद है?", "वह कल दिल्ली आएगा।"),
        " ",
        _NO_CASE,
        ("क\u093c", "\u0958"),
        ("दिन", "दीन"),
    ),
    "ko": Language(
        ("나는 오늘 아침에 학교에 갔다.", "너는 어떤 차를 좋아하니?", "그는 내일 서울에 온다."),
        " ",
        _NO_CASE,
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", "한글"),
        ("물", "불"),
    ),
}
each_language = pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)


def tokenizer_of(language: Language, *, vocabulary: int = 400):
    texts = [*language.sentences * 30, *language.same, *language.different]
    spelling = choose_spelling(texts, lowercase="auto")
    return train_wordpiece(iter(texts), vocabulary=vocabulary, alphabet=alphabet_of(texts, most=300, spelling=spelling), spelling=spelling)


def halved(sentence: str) -> tuple[str, str]:
    found = halves(sentence, level="sentence")
    assert found is not None
    return found


@each_language
def test_sentences_end_as_the_script_ends_them(language):
    assert split_sentences(language.glue.join(language.sentences)) == list(language.sentences)


@each_language
def test_case_and_accents_follow_the_texts(language):
    assert choose_spelling(language.sentences * 5, lowercase="auto") == language.spelling
    assert choose_spelling(language.sentences * 5, lowercase="no") == _NO_CASE
    assert choose_spelling(language.sentences * 5, lowercase="yes").lowercase


@each_language
def test_a_tokenizer_joins_spellings_and_keeps_words_apart(language):
    tokenizer = tokenizer_of(language)
    same, other = bare_ids(tokenizer, list(language.same)), bare_ids(tokenizer, list(language.different))
    assert same[0] == same[1]
    assert other[0] != other[1]
    ids = [token for sentence in bare_ids(tokenizer, list(language.sentences)) for token in sentence]
    assert tokenizer.unk_token_id not in [*ids, *same[0], *other[0], *other[1]]


@each_language
def test_erasing_leaves_whole_characters(language):
    text = language.glue.join(language.sentences)
    letters = graphemes(text)
    for seed in range(20):
        view = erase_span(text, chars=5, floor=8, mask_token="[MASK]", rng=np.random.default_rng(seed))
        left, right = view.split(" [MASK] ")
        assert graphemes(left) + graphemes(right) == letters[: len(graphemes(left))] + letters[len(graphemes(left)) + 5 :]


@each_language
def test_crops_are_parts_of_the_text(language):
    tokenizer = tokenizer_of(language, vocabulary=150)  # few pieces, or each Thai clause would become one
    ids = tokenizer(language.glue.join(language.sentences))["input_ids"]
    ends = special_ends(tokenizer)
    crops = {tuple(crop(ids, ends=ends, rng=np.random.default_rng(seed))) for seed in range(30)}
    assert len(crops) > 5
    for found in crops:
        inner = found[ends[0] : len(found) - ends[1]]
        assert 0.35 <= len(inner) / (len(ids) - sum(ends)) <= 0.85
        assert any(tuple(ids[start : start + len(inner)]) == inner for start in range(len(ids)))


@each_language
def test_texts_have_halves(language):
    for sentence in language.sentences:
        first, second = halved(sentence)
        assert "".join((first + second).split()) == "".join(sentence.split())
        assert set(graphemes(first)) | set(graphemes(second)) <= set(graphemes(sentence))  # no letter lost its marks
        assert 0.25 < len(first) / len(sentence) < 0.75


@each_language
def test_copies_without_a_block_keep_every_letter_whole(language):
    for sentence in language.sentences:
        copies = dropped_copies(sentence, level="sentence")
        assert copies is not None and copies[0] != copies[1]
        for copy in copies:
            assert set(graphemes(copy)) <= set(graphemes(sentence)) | {" "}
            assert 0.15 < len(copy) / len(sentence) < 0.75


@each_language
def test_word_overlap_finds_the_related_text(language):
    first, second, *_ = language.sentences
    part = halved(first)[0]
    lexical = Lexical([*language.sentences])
    related, other = lexical.pair_cosines([part, part], [first, second])
    assert related > 0.4
    assert related > other + 0.2


@each_language
def test_sentence_ends_are_known_to_the_token_splitter(language):
    tokenizer = tokenizer_of(language)
    ends = SentenceEnds.of(tokenizer)
    if language is not LANGUAGES["th"]:  # Thai has no end mark
        ids = bare_ids(tokenizer, [language.sentences[1]])[0]
        assert ids[-1] in ends.ends


def test_english_keeps_the_rule_of_uncased_bert():
    texts = ["The cafe\u0301 in Zürich was closed. ", *["It was a quiet town with an old church and a few shops. "] * 20]
    assert choose_spelling(texts, lowercase="auto") == Spelling()


def test_a_few_dotless_letters_do_not_make_a_text_turkish():
    texts = ["Kızım ılık sütü sever.", *["The daughter likes warm milk in the morning."] * 9]
    assert not choose_spelling(texts, lowercase="auto").dotless_i


def test_german_sharp_s_stays_a_letter_of_its_own():
    tokenizer = tokenizer_of(LANGUAGES["de"])
    assert tokenizer.backend_tokenizer.normalizer.normalize_str("Straße") == "straße"


def test_thai_clauses_are_not_unknown_for_their_length():
    tokenizer = tokenizer_of(LANGUAGES["th"])
    clause = "".join(LANGUAGES["th"].sentences) * 3  # more than 300 characters without a blank
    assert tokenizer.unk_token_id not in bare_ids(tokenizer, [clause])[0]


def test_words_of_hindi_are_counted_whole_and_thai_clauses_not_at_all():
    assert count_words(["हिन्दी में हिन्दी"], tokenizer_of(LANGUAGES["hi"])) == {"हिन्दी": 2, "में": 1}
    assert count_words(["วันนี้ฉันไปโรงเรียน and tea"], tokenizer_of(LANGUAGES["th"])) == {"and": 1, "tea": 1}


def test_word_overlap_counts_words_and_parts_of_other_scripts():
    assert lexical_tokens(["Чай now"]) == [["now", "чай"]]
    assert lexical_tokens(["كِتاب"]) == lexical_tokens(["ﻛﺘﺎﺏ"]) == [["كتاب", "<كت", "كتا", "تاب", "اب>"]]
    assert lexical_tokens(["喝茶 now"]) == [["now", "喝", "茶", "喝茶"]]
    assert lexical_tokens(["ｶﾞﾑ"]) == lexical_tokens(["ガム"]) == [["ガ", "ム", "ガム"]]


def test_lowercase_with_a_given_tokenizer_is_refused():
    with pytest.raises(UserError, match=r"lowercase is 'no', but the given tokenizer has its own rule"):
        PretrainConfig(lowercase="no", tokenizer="somewhere")


@pytest.mark.parametrize("name", ["tr", "zh", "th"])
def test_a_model_is_trained_from_a_folder_of_any_language(name, tmp_path):
    rng = np.random.default_rng(1)
    letters = [letter for sentence in LANGUAGES[name].sentences for letter in graphemes(sentence)]
    lines = ["".join(rng.permutation(letters)) for _ in range(200)]
    (texts := tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    shape = {"vocab_size": 400, "hidden_size": 32, "heads": 2, "intermediate_size": 48, "layers": 1}
    made = pretrain("scratch", [texts], tmp_path / "out", tokens=2000.0, block_tokens=32, batch_blocks=4, device="cpu", **shape)
    assert made.finished
    same = bare_ids(made.tokenizer, list(LANGUAGES[name].same))
    assert made.tokenizer.unk_token_id not in bare_ids(made.tokenizer, [LANGUAGES[name].sentences[0]])[0]
    assert same[0] == same[1]
