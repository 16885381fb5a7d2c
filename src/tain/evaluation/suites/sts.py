"""STS suites: the seven English sets of the papers, and the seven tracks of STS 2017.

The figure of a set is the Spearman correlation over all its pairs (the "all" setting of the papers), not a mean over subsets.
"""

from tain.evaluation.suites.pairs import SetSource, pair_suite, table_source
from tain.evaluation.suites.suite import Split, only_test

_SEVEN_SETS = "English, test"
_DEV_SETS = "English, dev"
_SAME_LANGUAGE = "one language"
_CROSS_LINGUAL = "cross-lingual"


def sts_sources(split: Split = "test") -> list[SetSource]:
    """STS12 to STS16, STS-B and SICK-R in the papers' order; the ``dev`` split has the sets used to choose settings."""
    if split == "dev":
        return [
            _english("stsb_dev", "STS-B dev", _DEV_SETS, "stsb/stsb_dev.tsv"),
            _english("sick_trial", "SICK-R trial", _DEV_SETS, "sick/sick_trial.tsv"),
        ]
    years = [_english(f"sts{year}", f"STS{year}", _SEVEN_SETS, f"sts/sts{year}.tsv") for year in (12, 13, 14, 15, 16)]
    return [
        *years,
        _english("stsb", "STS-B", _SEVEN_SETS, "stsb/stsb_test.tsv"),
        _english("sick", "SICK-R", _SEVEN_SETS, "sick/sick_test.tsv"),
    ]


def sts17_sources() -> list[SetSource]:
    """The tracks of STS 2017: monolingual and cross-lingual ones form two groups, each with a mean."""
    # the columns of a cross-lingual track do not follow its name; these are the languages of sentence1 and sentence2
    tracks = [
        ("1_ar-ar", "ar-ar", _SAME_LANGUAGE, ("ar", "ar")),
        ("3_es-es", "es-es", _SAME_LANGUAGE, ("es", "es")),
        ("5_en-en", "en-en", _SAME_LANGUAGE, ("en", "en")),
        ("2_ar-en", "ar-en", _CROSS_LINGUAL, ("en", "ar")),
        ("4a_es-en", "es-en (4a, SNLI)", _CROSS_LINGUAL, ("es", "en")),
        ("4b_es-en", "es-en (4b, WMT)", _CROSS_LINGUAL, ("en", "es")),
        ("6_tr-en", "tr-en", _CROSS_LINGUAL, ("en", "tr")),
    ]
    return [
        table_source(f"sts17_track{track}", title, group, f"sts17/sts17_track{track}.tsv", languages=languages)
        for track, title, group, languages in tracks
    ]


def _english(key: str, title: str, group: str, file: str) -> SetSource:
    return table_source(key, title, group, file, languages=("en", "en"))


STS = pair_suite("sts", "STS", lambda data, split: sts_sources(split))
STS17 = pair_suite("sts17", "STS 2017", only_test(sts17_sources))
