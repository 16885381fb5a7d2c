import pytest

from tain.text.records import Sentence
from tain.text.sentences import neighbouring_sentences, split_sentences


@pytest.mark.parametrize(
    ("paragraph", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It costs 3.50 now. He paid.", ["It costs 3.50 now.", "He paid."]),
        ("Dr. Smith met J. R. Tolkien. They talked.", ["Dr. Smith met J. R. Tolkien.", "They talked."]),
        ("In the U.S. Army he rose. Then he left.", ["In the U.S. Army he rose.", "Then he left."]),
        ('She said "Go." Then she went.', ['She said "Go."', "Then she went."]),
        ("Wait... what? no idea.", ["Wait... what? no idea."]),  # a lower-case letter begins no sentence
        ("Es kam 1999. 2000 ging es.", ["Es kam 1999.", "2000 ging es."]),
        ("Это первое. Это второе.", ["Это первое.", "Это второе."]),
        ("第一句。第二句！第三句", ["第一句。", "第二句！", "第三句"]),
        ("¿Qué hora es? ¡Tarde!", ["¿Qué hora es?", "¡Tarde!"]),
        ("no end marks at all", ["no end marks at all"]),
        ("", []),
        ("   ", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(paragraph, sentences):
    assert split_sentences(paragraph) == sentences


def test_nothing_but_white_space_is_lost():
    paragraph = 'A first (with "quotes.") And a second, e.g. this. Third!  Fourth?   '
    assert "".join("".join(split_sentences(paragraph)).split()) == "".join(paragraph.split())


# ---- a full stop that ends no sentence, marks and quotes of other languages

WHOLE = [
    ["He left.", "Dr. Smith came."],
    ["She came.", "J. K. Rowling wrote.", "End."],
    ["Es regnet.", "Z. B. Äpfel wachsen.", "Gut."],
    ["جاء.", "د. محمد طبيب."],
    ["„Dr. Müller kommt“, sagte er."],
    ["«Dr. Pérez llegó», dijo."],
    ["¿Sra. López está en casa?", "Sí."],
    ["J.-J. Rousseau est né à Genève."],
    ["ในปีพ.ศ. 2560 เขาเกิด"],
    ["No, I didn't.", "She did."],
    ["It's John's.", "He left."],
    ["डॉ. राजेंद्र प्रसाद भारत के पहले राष्ट्रपति थे।", "वे महान थे।"],
    ["ए. पी. जे. अब्दुल कलाम वैज्ञानिक थे।"],
    ["वह एम. एस. धोनी है।"],
    ["पं. नेहरू और प्रो. शर्मा आए।"],
    ["ডা. জাফরুল্লাহ একজন চিকিৎসক।", "তিনি ভালো।"],
    ["ระยะทาง 100 กม. จากกรุงเทพ"],
    ["ดร. สมชาย มาแล้ว"],
    ["Smith et al. (2019) show this."],
    ["See Fig. 3 and Eq. 5 for details."],
    ["Sen. Smith and Rep. Jones met Gov. Brown."],
    ["Der Umsatz stieg auf 5 Mio. Euro."],
    ["Er wohnt Hauptstr. 12 in Bonn."],
    ["Los EE. UU. son grandes."],
    ["Muchos, p. ej. Juan, vinieron."],
    ["Il Sig. Rossi è arrivato."],
    ["Il dott. Bianchi parla."],
    ["Kościół św. Jana stoi tu."],
    ["prof. Jan przyszedł o godz. 15 tu."],
    ["ул. Ленина, д. 5, кв. 10"],
    ["Hz. Muhammed doğdu."],
    ["Im 2. Weltkrieg war das so."],
    ["Der 1. FC Köln gewann.", "Gut."],
    ["Heute ist der 3. Okt. 2020 in Berlin."],
    ["II. Dünya Savaşı 1939'da başladı.", "Bitti."],
    ["1. Open the box.", "2. Remove the lid."],
    ["Er ging weg.", "„Bleib doch“, sagte sie."],
    ["On sort.", "« Oui », dit-il."],
    ["Il dit : « Je viens demain. »", "Puis il partit."],
    ["»Geh jetzt.«", "Dann ging sie."],
    ["هل أنت بخير؟\u200f"],
    ["ខ្ញុំទៅ។\u200b"],
    ["ذهب الولد.\u200f", "جاء الأب."],
    ["ذهب الولد.", "\u200fجاء الأب."],
    ["ខ្ញុំទិញបាយ ទឹក ។ល។ ហើយទៅផ្ទះ។"],
    ["ሰላም ነው፡፡", "ደህና ነኝ፡፡"],
    ["Πού πας;", "Πάω σπίτι.", "Καλά."],
    ["Ｊ．Ｋ．ローリングは作家です。"],
    ["１．はじめに"],
    ["He said no.", "Then he left."],
    ["In World War II.", "After it, peace."],
    ["I was born in 1990.", "My brother too."],
    ["He got 5.", "She got 7."],
    ["Das ist meine Art.", "Ich mag es."],
    ["Er kam an.", "Sie ging."],
    ["She is in the U.S. She likes it."],
    ["我走了。", "2020年他来了。"],
    ["She left.", '"Stay," he said.'],
    ["Er sagte: »Komm!«", "Sie kam."],
    ["Price is 3.5 dollars.", "Good."],
    ["Wait...", "What?", "Yes!"],
    ["他说：“好。”然后走了。"],
    ["Vol. 2 No. 5 is out.", "Buy it."],
    ["It costs $5.", "The end."],
    ["ეს პირველია.", "ეს მეორეა!", "და ბოლო."],
    ["\u202bשלום לכולם.\u202c", "\u202bמה שלומך?\u202c", "טוב."],
    ["ذهب الولد.\u2069", "\u2067جاء الأب."],
    ["Yes.\u00ad", "Never."],
]


@pytest.mark.parametrize("sentences", WHOLE, ids=lambda sentences: sentences[0][:20])
def test_everyday_sentences_stay_whole_in_a_paragraph(sentences):
    text = " ".join(sentences) if not sentences[0].endswith("。") else "".join(sentences)
    assert split_sentences(text) == sentences
    if sentences[0][-1] not in "។" and len(sentences) > 1:  # an abbreviation is known wherever it stands
        assert split_sentences(f"{text} {text}") == sentences * 2


def test_invisible_marks_are_no_sentence():
    assert split_sentences("هل أنت بخير؟\u200f") == ["هل أنت بخير؟\u200f"]
    assert split_sentences("ខ្ញុំទៅ។\u200b") == ["ខ្ញុំទៅ។\u200b"]
    assert [each.strip("\u200f") for each in split_sentences("ذهب الولد.\u200f جاء الأب.")] == ["ذهب الولد.", "جاء الأب."]
    assert split_sentences("\u200b \u200f") == []


def test_neighbours_keep_the_title_at_the_start_of_a_sentence():
    text = "The committee met on Monday. Dr. Smith opened the long meeting. Everyone listened to him."
    pairs = list(neighbouring_sentences([Sentence(text, True)]))
    assert [(pair.left, pair.right) for pair in pairs] == [
        ("The committee met on Monday.", "Dr. Smith opened the long meeting."),
        ("Dr. Smith opened the long meeting.", "Everyone listened to him."),
    ]
