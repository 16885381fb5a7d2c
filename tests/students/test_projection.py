"""Hashed features of tokens: golden vectors of the released operation, and equality with a naive version."""

import hashlib
import json
import tracemalloc

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.students import projection, token_cache
from tain.students.hashing import ternary, token_codes
from tain.students.projection import Projection, distort, token_features
from tain.students.projection_config import ProjectionConfig
from tain.students.token_cache import lower_by_code_point

GOLDEN = {
    "hello": ("1e68d17c457bf117", "1aec33d7dd3e8013", [0, 1, 1, 0, 1, 0, 0, 0, 0, -1, 0, 1, 1, 1, 0, 1]),
    "a": ("071717d2d36b6b11", "4c2d7e1f9b22b50e", [1, 0, 1, 0, 0, -1, -1, 1, 0, -1, -1, 1, 0, 0, 1, 0]),
    "internationalization": ("99a2cd7f94cd7fb4", "94a10b69f60e8e68", [0, 1, 0, -1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, -1]),
    "<EOS>": ("47fd321388990c04", "935001a210b65e8a", [0, 1, 0, 0, 0, 0, 0, 0, 1, -1, 1, -1, 0, -1, 0, -1]),
    "<BOS>": ("0117e4d32992670b", "142af9c29fd301c3", [0, -1, 0, 0, 0, 1, -1, 1, -1, 0, 1, -1, 1, -1, -1, 0]),
}

# the same constants and steps, one token and one byte at a time, in whole numbers of any size
A, B, ALL = 0xC6A4A7935BD1E995, 0x9E3779B97F4A7835, (1 << 64) - 1


def mixed(value):
    return value ^ (value >> 47)


def plain_codes(token: bytes, codes: int) -> list[int]:
    token = token or b"<null>"
    h, g = len(token) * A & ALL, 0
    for start in range(0, len(token) - len(token) % 8, 8):
        data = sum(byte << 8 * index for index, byte in enumerate(token[start : start + 8]))
        h = (h ^ mixed(data * A & ALL) * A & ALL) * A & ALL
        g ^= h
    if len(token) % 8:
        data = sum(byte << 8 * index for index, byte in enumerate(token[len(token) - len(token) % 8 :]))
        h = (h ^ data) * A & ALL
        g ^= h
    h = mixed(h) * A & ALL
    g ^= h
    found = [mixed(h), mixed(g * B & ALL) * B & ALL]
    low, high = found
    while len(found) < codes:
        turned = mixed(low) * A & ALL
        crossed = high ^ turned
        high, low = mixed(turned), mixed(crossed * B & ALL) * B & ALL
        found += [low, high]
    return found[:codes]


def plain_features(token: bytes, features: int) -> list[int]:
    pairs = [code >> 2 * index & 3 for code in plain_codes(token, -(-features // 32)) for index in range(32)]
    return [{0: 0, 1: 1, 2: -1, 3: 0}[pair] for pair in pairs[:features]]


def random_tokens(rng, count: int, longest: int) -> list[bytes]:
    return [rng.integers(0, 256, size=rng.integers(0, longest + 1), dtype=np.uint8).tobytes() for _ in range(count)]


# ---- the hash


@pytest.mark.parametrize("token", GOLDEN)
def test_golden_vectors(token):
    first, second, features = GOLDEN[token]
    codes = token_codes([token.encode()], codes=2)
    assert [f"{code:016x}" for code in codes[0].tolist()] == [first, second]
    assert ternary(codes, features=16)[0].tolist() == features


def test_golden_codes_of_features_beyond_64():
    codes = token_codes([b"hello"], codes=4)[0].tolist()
    assert [f"{code:016x}" for code in codes[2:]] == ["adfbdbee6b76d0f0", "ecff177c7ffc23c0"]


def test_many_tokens_at_once_equal_one_at_a_time_in_plain_python(rng):
    tokens = random_tokens(rng, 200, 40)
    assert token_codes(tokens, codes=7).tolist() == [plain_codes(token, 7) for token in tokens]
    found = ternary(token_codes(tokens, codes=4), features=100)
    assert found.tolist() == [plain_features(token, 100) for token in tokens]


def test_half_of_all_features_are_zero_and_the_rest_even():
    found = token_features([f"word{number}" for number in range(2000)], ProjectionConfig(features=512)) // 127
    assert np.mean(found == 0) == pytest.approx(0.5, abs=0.003)
    assert np.mean(found == 1) == pytest.approx(0.25, abs=0.003)
    assert np.mean(found == -1) == pytest.approx(0.25, abs=0.003)


def test_fewer_features_are_the_first_of_more():
    tokens = ["mirror", "glas", "été", ""]
    wide = token_features(tokens, ProjectionConfig(features=300))
    for features in (1, 31, 32, 33, 200):
        np.testing.assert_array_equal(token_features(tokens, ProjectionConfig(features=features)), wide[:, :features])


def test_all_ideographs_have_features_of_their_own():
    """The released operation reads signed bytes and leaves these 20,992 characters six different fingerprints."""
    codes = token_codes([chr(point).encode() for point in range(0x4E00, 0xA000)], codes=2)
    assert len(np.unique(codes, axis=0)) == 20_992


def test_signed_bytes_would_leave_them_six():
    """What the released operation does where ``char`` is signed: a byte of 128 and more fills all that stands above it with ones."""

    def signed(token):
        data = 0
        for index, byte in enumerate(token):
            data |= (byte | (ALL ^ 0xFF if byte >= 0x80 else 0)) << 8 * index & ALL
        return data

    assert len({signed(chr(point).encode()) for point in range(0x4E00, 0xA000)}) == 6


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("зеркало", "58a8c3bfd5d5a992"),
        ("καθρέφτης", "6b2f88aef9c09ec1"),
        ("鏡", "92ec600edc46a46c"),
        ("مرآة", "82caeab287fe96c5"),
        ("दर्पण", "1fe43bcf2aa5b2b9"),
        ("กระจก", "7c7a5b40ba6d972a"),
    ],
)
def test_features_of_six_scripts_are_pinned(token, code):
    assert f"{token_codes([token.encode()], codes=1)[0, 0]:016x}" == code


@pytest.mark.parametrize(
    ("settings", "digest"),
    [
        ({"features": 4096, "ngram_features": 2048, "separate": True}, "cee9a55ef1c0331e"),
        ({"features": 1024, "ngram_features": 512}, "16c1b51bd71e8993"),
        ({"features": 256, "split": "code-point"}, "46c02f0724742c85"),
    ],
    ids=["vectors", "tags", "code points"],
)
def test_every_byte_of_texts_in_six_scripts_is_pinned(settings, digest):
    """Splitting, lower-casing, hashes, n-grams and rounding, as the graph gets them: equal on any processor, whatever its byte order."""
    texts = ["Größe, naïve café!", "Ελλάδα ΣΊΣΥΦΟΣ", "Привет, МИР", "今天北京的天气怎么样？", "नमस्ते दुनिया", "مرحبا بالعالم"]
    dense = Projection(ProjectionConfig(**settings))(texts).dense()
    assert hashlib.sha256(dense.tobytes()).hexdigest()[:16] == digest


def test_the_empty_token_is_hashed_as_null():
    np.testing.assert_array_equal(token_codes([b""], codes=3), token_codes([b"<null>"], codes=3))


# ---- texts


def test_a_token_has_the_same_features_beside_any_neighbours():
    projection = Projection(ProjectionConfig(features=64, end=False))
    alone, beside = projection(["glass"]).dense(), projection(["a glass house"]).dense()
    np.testing.assert_array_equal(beside[0, 1], alone[0, 0])


def test_the_cache_changes_nothing(sentences):
    config = ProjectionConfig(features=96, ngram_features=32, separate=True)
    warm, tiny = Projection(config), Projection(config, cached_tokens=3)
    warm(sentences)
    for text in sentences:
        fresh = Projection(config)([text]).dense()
        np.testing.assert_array_equal(warm([text]).dense(), fresh)
        np.testing.assert_array_equal(tiny([text]).dense(), fresh)


def test_texts_of_a_batch_are_padded_with_zero_rows(sentences):
    projected = Projection(ProjectionConfig(features=64))(sentences)
    dense = projected.dense()
    for row, length in zip(dense, projected.lengths, strict=True):
        assert not row[length:].any()
        assert row[:length].any(axis=1).all()


def test_case_is_folded_by_default():
    def features(text, **settings):
        return Projection(ProjectionConfig(features=64, **settings))([text]).dense().tolist()

    assert features("Glass HOUSE") == features("glass house")
    assert features("Glass", lowercase=False) != features("glass", lowercase=False)
    assert features("ÉTÉ") == features("été")


def test_lower_case_does_not_look_at_neighbours():
    assert lower_by_code_point("ΟΔΟΣ") == "οδοσ"  # str.lower ends it with ς
    assert lower_by_code_point("İstanbul") == "istanbul"  # str.lower puts a dot of its own behind the i


def test_every_code_point_has_its_own_lower_case_of_one():
    points = "".join(map(chr, range(0x110000)))
    lowered = lower_by_code_point(points)
    assert len(lowered) == len(points)
    assert all(low == point.lower()[0] for point, low in zip(points, lowered, strict=True))
    assert [point for point, low in zip(points, lowered, strict=True) if low == " "] == [" "]


@pytest.mark.parametrize(("begin", "end", "extra"), [(False, False, 0), (True, False, 1), (False, True, 1), (True, True, 2)])
def test_ends_are_tokens_of_their_own(begin, end, extra):
    projected = Projection(ProjectionConfig(features=64, begin=begin, end=end))(["one two three", "one"])
    assert projected.lengths.tolist() == [3 + extra, 1 + extra]
    features = projected.dense() // 127
    if begin:
        assert features[0, 0, :16].tolist() == GOLDEN["<BOS>"][2]
    if end:
        assert features[1, extra, :16].tolist() == GOLDEN["<EOS>"][2]


def test_long_texts_are_cut_and_counted():
    projected = Projection(ProjectionConfig(features=64, max_tokens=3, end=True))(["a b c d e", "a b c", "a"])
    assert projected.lengths.tolist() == [4, 4, 2]
    assert projected.truncated == 1
    np.testing.assert_array_equal(projected.dense()[0], projected.dense()[1])


def test_only_the_ascii_space_parts_tokens_and_none_is_empty():
    projection = Projection(ProjectionConfig(features=64))
    assert projection.tokens("  one\ttwo  three ") == ["one\ttwo", "three"]
    assert projection(["", "  "]).lengths.tolist() == [1, 1]  # the end alone


def test_punctuation_and_other_white_space_can_be_parted():
    projection = Projection(ProjectionConfig(features=64, separate=True))
    assert projection.tokens("One\ttwo, three\u00a0(four).") == ["one", "two", ",", "three", "(", "four", ")", "."]


@pytest.mark.parametrize("settings", [{}, {"separate": True}, {"split": "code-point"}, {"begin": True, "end": False, "max_tokens": 3}])
def test_the_quick_count_is_the_number_of_tokens_read(settings, sentences):
    projection = Projection(ProjectionConfig(features=64, **settings))
    texts = [*sentences, "Wait -- what?!", "one  two", "(a)(b)", ""]
    assert [projection.count(text) for text in texts] == projection(texts).lengths.tolist()


def test_code_points_can_be_tokens():
    projection = Projection(ProjectionConfig(features=64, split="code-point", end=False))
    assert projection.tokens("鏡 Ab") == ["鏡", " ", "a", "b"]
    assert projection(["鏡 Ab"]).lengths.tolist() == [4]


def test_code_points_outside_the_alphabet_are_dropped():
    projection = Projection(ProjectionConfig(features=64, alphabet="abc", end=False))
    assert projection.tokens("Cab! xyz") == ["cab", ""]
    np.testing.assert_array_equal(projection(["xyz"]).dense()[0, 0] // 127, plain_features(b"<null>", 64))


def test_no_texts_and_no_tokens_are_empty_batches():
    projection = Projection(ProjectionConfig(features=64, end=False))
    assert projection([]).dense().shape == (0, 0, 64)
    assert projection([""]).dense().shape == (1, 0, 64)


# ---- n-grams


def test_n_grams_make_cat_and_cats_alike_and_whole_tokens_do_not():
    def cosine(left, right, **settings):
        config = ProjectionConfig(features=4096, shortest_ngram=2, longest_ngram=4, **settings)
        one, other = token_features([left, right], config).astype(float)
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    assert abs(cosine("cat", "cats")) < 0.1
    assert cosine("cat", "cats", ngram_features=4096) > 0.4
    assert abs(cosine("cat", "dog", ngram_features=4096)) < 0.1


def test_n_gram_features_are_the_scaled_sum_over_the_n_grams():
    config = ProjectionConfig(features=72, ngram_features=40)
    found = token_features(["mirror"], config)[0]
    marked = "^mirror$"
    ngrams = [marked[start : start + size] for size in (3, 4, 5) for start in range(len(marked) - size + 1)]
    sums = np.sum([plain_features(ngram.encode(), 40) for ngram in ngrams], axis=0)
    np.testing.assert_array_equal(found[:32], np.array(plain_features(b"mirror", 32)) * 127)
    np.testing.assert_array_equal(found[32:], np.clip(np.rint(127 * sums / len(ngrams) ** 0.5), -127, 127))


@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (2, 4), (3, 5), (5, 9)])
def test_n_grams_of_tokens_side_by_side_are_those_of_each(shortest, longest, rng):
    """Against a plain reading, in scripts of one to four bytes a character, tokens shorter and far longer than an n-gram."""
    config = ProjectionConfig(features=48, ngram_features=48, shortest_ngram=shortest, longest_ngram=longest)
    letters = list("abcéß鏡天🙂^$")
    tokens = ["".join(rng.choice(letters, size=size)) for size in (0, 1, 2, 3, 4, 7, 12, 60, 140, 255, 256, 257, 400, 1, 5)]
    found = token_features(tokens, config)
    for token, features in zip(tokens, found, strict=True):
        marked = f"^{token[:256]}" + "$" * (len(token) <= 256)
        ngrams = [marked[a : a + size] for size in range(shortest, longest + 1) for a in range(len(marked) - size + 1)] or [marked]
        sums = np.sum([plain_features(ngram.encode(), 48) for ngram in ngrams], axis=0)
        np.testing.assert_array_equal(features, np.clip(np.rint(127 * sums / len(ngrams) ** 0.5), -127, 127))


def test_a_token_too_short_for_n_grams_is_one_itself():
    assert token_features(["", "a"], ProjectionConfig(features=64, ngram_features=64, shortest_ngram=4)).any(axis=1).all()


# ---- distortion


def test_no_chance_leaves_tokens_alone_and_certainty_changes_many(rng):
    tokens = ["reflection"] * 300
    assert distort(tokens, chance=0.0, rng=rng) == tokens
    changed = distort(tokens, chance=1.0, rng=rng)
    lengths = np.bincount([len(token) for token in changed], minlength=12)[9:12]
    np.testing.assert_allclose(lengths / 300, [1 / 3] * 3, atol=0.1)  # lost, moved, turned up
    assert tokens == ["reflection"] * 300


def test_the_share_of_touched_tokens_is_the_chance(rng):
    tokens = [f"{number:06d}" for number in range(4000)]
    kept = np.mean([a == b for a, b in zip(tokens, distort(tokens, chance=0.25, rng=rng), strict=True)])
    assert 0.75 - 0.02 < kept < 0.75 + 0.06  # a character may move to where it was, or to its like


def test_what_turns_up_is_what_was_lost_last(rng):
    seen = {tuple(distort(["ab", "cd", "ef"], chance=1.0, rng=rng)) for _ in range(3000)}
    assert ("a", "cd", "bef") in seen  # lost, nothing to move in two characters, turned up
    assert ("a", "c", "efd") in seen  # the d was lost after the b
    assert not any("b" in third for _, second, third in seen if len(second) == 1)


def test_short_tokens_never_have_a_character_moved(rng):
    assert {distort(["ab"], chance=1.0, rng=rng)[0] for _ in range(100)} == {"ab", "a", "b"}


def test_distorted_texts_keep_their_number_of_tokens(rng, sentences):
    projection = Projection(ProjectionConfig(features=64))
    plain, spelt = projection(sentences), projection(sentences, distortion=0.9, rng=rng)
    np.testing.assert_array_equal(plain.lengths, spelt.lengths)
    assert (plain.dense() != spelt.dense()).any()


# ---- the projection file


def test_a_projection_file_brings_back_the_same_settings(tmp_path):
    config = ProjectionConfig(features=96, ngram_features=32, split="code-point", alphabet="aé鏡", begin=True)
    config.save(tmp_path / "projection.json")
    assert ProjectionConfig.load(tmp_path / "projection.json") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "has version 1, but this tain reads 2: its features would differ"),
        ({"format": None}, "has version None, but this tain reads 2"),
        ({"kind": "recipe"}, "is not a projection file"),
        ({"seed": 3}, "has unknown settings seed"),
        ({"features": "512"}, "lacks features, or has another type"),
        ({"lowercase": None, "max_tokens": None}, "lacks lowercase, max_tokens, or has another type"),
    ],
)
def test_other_projection_files_are_refused(tmp_path, change, message):
    path = tmp_path / "projection.json"
    ProjectionConfig().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        ProjectionConfig.load(path)


def test_a_missing_or_broken_projection_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist: give the whole folder"):
        ProjectionConfig.load(tmp_path / "projection.json")
    (tmp_path / "projection.json").write_text("{")
    with pytest.raises(UserError, match=r"is damaged: distil the student again \(it is not JSON"):
        ProjectionConfig.load(tmp_path / "projection.json")


def test_all_wrong_settings_are_refused_at_once(unchecked):
    with pytest.raises(UserError) as refused:
        ProjectionConfig(features=0, ngram_features=3, shortest_ngram=5, longest_ngram=4, split="word", max_tokens=0)
    for part in ("features is 0", "ngram_features is 3", "n-grams of 5 to 4", "split is 'word'", "max_tokens is 0"):
        assert part in str(refused.value)


def test_only_what_can_be_read_of_a_long_text_is_learnt():
    projection = Projection(ProjectionConfig(features=32, max_tokens=5, separate=True))
    text = " ".join(f"word{number},and" for number in range(1000))
    short = " ".join(text.split(" ")[:3])
    found, expected = projection([text, "  a \t b "]), projection([short, "a b"])
    np.testing.assert_array_equal(found.dense(), expected.dense())
    assert (found.truncated, found.lengths.tolist()) == (1, [6, 3])
    assert len(projection.cache._row_of_token) < 20


def test_a_token_without_end_takes_little_memory_and_no_other_features_at_its_beginning():
    config = ProjectionConfig(features=64, ngram_features=32)
    token = "abcdefgh" * 40_000
    tracemalloc.start()
    long, same_beginning = token_features([token, token[:300]], config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(token)
    np.testing.assert_array_equal(long[32:], same_beginning[32:])  # n-grams are of its beginning
    assert (long[:32] != same_beginning[:32]).any()  # the token's own features are of all of it


def test_the_cache_is_bounded_in_bytes():
    projection = Projection(ProjectionConfig(features=2048))
    assert projection.cache.cached_tokens * 2048 <= 64 * 2**20


def test_the_cache_is_bounded_in_characters(monkeypatch):
    monkeypatch.setattr(token_cache, "_CACHE_CHARACTERS", 4000)
    config = ProjectionConfig(features=64, ngram_features=32)
    small, large = Projection(config), Projection(config)
    for number in range(30):
        texts = [f"often {number}{'x' * 1000}", "often"]
        found = small(texts)
        monkeypatch.setattr(token_cache, "_CACHE_CHARACTERS", 10**9)
        np.testing.assert_array_equal(found.dense(), large(texts).dense())
        monkeypatch.setattr(token_cache, "_CACHE_CHARACTERS", 4000)
        assert small.cache._row_of_token.characters <= 4000 + 1100
        assert small.cache._number_of_chunk.characters <= 4000 + 1100
    assert "often" in small.cache._row_of_token


def test_a_full_cache_keeps_what_is_used_most_and_changes_nothing():
    config = ProjectionConfig(features=64, ngram_features=32, separate=True)
    small, large = Projection(config, cached_tokens=20), Projection(config)
    rng = np.random.default_rng(5)
    for _ in range(30):
        texts = ["often, " + " ".join(f"word{number}" for number in rng.integers(200, size=6)) for _ in range(3)]
        found, expected = small(texts), large(texts)
        np.testing.assert_array_equal(found.dense(), expected.dense())
        assert {"often", ","} <= small.cache._row_of_token.keys()
    assert small.cache.kept <= 20 + 3 * 8
    assert len(small.cache._row_of_token) == small.cache.kept


# ---- long tokens and texts


@pytest.mark.parametrize("ngram_features", [0, 32])
def test_of_a_long_token_only_its_beginning_is_hashed(monkeypatch, ngram_features):
    config = ProjectionConfig(features=64, ngram_features=ngram_features, separate=True, max_tokens=8)
    longest = []
    real = token_features
    monkeypatch.setattr(projection, "token_features", lambda tokens, config: longest.extend(map(len, tokens)) or real(tokens, config))
    found = Projection(config)(["a" * 10**6 + ",b", "é" * 300])
    assert max(longest) == token_cache.MAX_TOKEN_CHARACTERS == 257
    assert found.lengths.tolist() == [4, 2]
    expected = real(["a" * 257, ",", "b", "<EOS>", "é" * 257], config)
    np.testing.assert_array_equal(found.dense()[0], expected[:4])
    np.testing.assert_array_equal(found.dense()[1, :2], expected[[4, 3]])


@pytest.mark.parametrize("separate", [False, True])
def test_a_long_text_is_split_as_a_short_one(monkeypatch, rng, separate):
    config = ProjectionConfig(features=32, separate=separate, max_tokens=9)
    letters = [*"ab,.É \t\n", "  ", "\u00a0", "\u3000", "---"]
    texts = ["".join(rng.choice(letters, size=size)) for size in rng.integers(0, 40, size=200)] + ["a" * 500 + "," + "b" * 500, "a," * 90]
    whole = token_cache.TokenCache(config, width=1, dtype=np.int8)
    short = whole.read(texts)
    monkeypatch.setattr(token_cache, "_SPLIT_CHARACTERS", 0)
    part = token_cache.TokenCache(config, width=1, dtype=np.int8)
    long = part.read(texts)
    np.testing.assert_array_equal(
        np.array(whole.new)[np.append(short.rows, 0)[short.ids - 1]], np.array(part.new)[np.append(long.rows, 0)[long.ids - 1]]
    )
    np.testing.assert_array_equal(short.lengths, long.lengths)
    assert short.truncated == long.truncated
    for text, length in zip(texts, short.lengths, strict=True):
        assert len(part.tokens(text, most=9)) + 1 == length == part.count(text)
        assert part.tokens(text, most=9) == part.tokens(text)[:9]


@pytest.mark.parametrize("text", ["a," * 10**6, "a " * 10**6, "," * 10**6, "a" * 10**6])
def test_of_a_long_text_no_more_is_kept_than_is_read(text):
    cache = token_cache.TokenCache(ProjectionConfig(features=32, separate=True, max_tokens=8), width=1, dtype=np.int8)
    tracemalloc.start()
    found = cache.read([text])
    _ = cache.count(text), cache.tokens(text, most=8)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.lengths[0] <= 9
    assert held < 200_000  # bytes; the text has a million or two
    assert sum(map(len, cache._number_of_chunk)) <= 9 * 257
