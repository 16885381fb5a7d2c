"""The texts that an export is checked on where the user gives none: many scripts, and lengths from one word to beyond the limit."""

_SENTENCES = (
    "The quarterly report shows that sales in the north grew faster than anywhere else.",
    "How do I reset the password of my account?",
    "A cat sleeps on the warm roof of a parked car.",
    "Install the package with pip, then restart the server.",
    "The patient was given 50 mg of the drug twice a day for two weeks.",
    "def mean(values): return sum(values) / len(values)",
    "Parliament passed the law by 312 votes to 207 late on Tuesday.",
    "invoice no. 2024-00817, due 31/12, EUR 1,249.90",
    "Two hikers were found safe after a night in the mountains.",
    "Stir the flour into the butter and add the milk slowly.",
    "He never answered her letters, yet he kept every one of them.",
    "Light from the nearest star takes more than four years to reach us.",
    "Is there a train to the airport before six in the morning?",
    "The bridge was closed because of ice.",
    "Water boils at a lower temperature on a high mountain.",
    "great phone, bad battery, would not buy again!!",
    "Der Zug nach München fährt heute von Gleis sieben ab.",
    "La bibliothèque ferme à dix-huit heures pendant l'été.",
    "El perro del vecino ladra toda la noche.",
    "Il governo ha presentato la nuova legge di bilancio.",
    "A reunião foi adiada para a próxima segunda-feira.",
    "Wczoraj spadł pierwszy śnieg tej zimy.",
    "Поезд опоздал на сорок минут из-за снега.",
    "Η θάλασσα ήταν ήρεμη εκείνο το πρωί.",
    "Toplantı yarın saat dokuzda başlayacak.",
    "मौसम आज बहुत अच्छा है।",
    "اليوم هو أول أيام الدراسة في المدينة.",
    "הספר נמצא על השולחן בחדר השני.",
    "今天的天气很好，我们去公园散步吧。",
    "駅まで歩いて十五分かかります。",
    "오늘 저녁에 비가 올 것 같아요.",
    "วันนี้อากาศดีมาก",
    "Tôi muốn đặt một bàn cho bốn người.",
    "Sade alkoi heti aamulla ja jatkui iltaan asti.",
    "mirror",
    "sea",
    "machine learning",
    "heart attack",
    "2 + 2 = 4",
    "👍🏽 naïve café — “quoted” … €5",
)


def built_in_texts() -> list[str]:
    """Give 120 texts: the sentences, pairs and runs of them, and one that is longer than any model reads."""
    count = len(_SENTENCES)
    pairs = [f"{_SENTENCES[row]} {_SENTENCES[(row * 7 + 3) % count]}" for row in range(count)]
    runs = [" ".join(_SENTENCES[(row * 5 + step) % count] for step in range(3 + row % 9)) for row in range(count - 1)]
    return [*_SENTENCES, *pairs, *runs, " ".join(_SENTENCES * 8)]
