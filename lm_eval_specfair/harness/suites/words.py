"""The words by which answers are recognised: labels of inference, phrases before a number.

One place for both sides: the prompts in `task_configs/` are generated from these tables
(`experiments/suites/`), and `answers` looks for the same words. Knows no scoring.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The label words of natural language inference in one language.

    Attributes:
        words: For entailment, neutral and contradiction, the order of the data sets' labels.
        answer: The word that stands before the label, without its colon.
        others: Further spellings that models use, as (spelling, index into `words`).
    """

    words: tuple[str, str, str]
    answer: str
    others: tuple[tuple[str, int], ...] = ()


# BCP-47 tag -> labels. The first fifteen are XNLI's languages, the rest IrokoBench's; those whose
# prompt is English have "Answer" there.
LABELS: dict[str, Labels] = {
    "ar": Labels(
        words=("نعم", "ربما", "لا"),
        answer="الإجابة",
        others=(("أجل", 0), ("محتمل", 1), ("كلا", 2)),
    ),
    "bg": Labels(words=("Да", "Може би", "Не"), answer="Отговор", others=(("Възможно", 1),)),
    "de": Labels(words=("Ja", "Vielleicht", "Nein"), answer="Antwort", others=(("Möglich", 1),)),
    "el": Labels(words=("Ναι", "Ίσως", "Όχι"), answer="Απάντηση", others=(("Οχι", 2),)),
    "en": Labels(words=("Yes", "Maybe", "No"), answer="Answer", others=(("Perhaps", 1),)),
    "es": Labels(
        words=("Sí", "Quizás", "No"),
        answer="Respuesta",
        others=(("Si", 0), ("Quizá", 1), ("Tal vez", 1)),
    ),
    "fr": Labels(words=("Oui", "Peut-être", "Non"), answer="Réponse", others=(("Peut être", 1),)),
    "hi": Labels(
        words=("हाँ", "शायद", "नहीं"), answer="उत्तर", others=(("हां", 0), ("जी हाँ", 0), ("नही", 2))
    ),
    "ru": Labels(words=("Да", "Возможно", "Нет"), answer="Ответ", others=(("Может быть", 1),)),
    "sw": Labels(words=("Ndiyo", "Labda", "Hapana"), answer="Jibu", others=(("Ndio", 0),)),
    "th": Labels(
        words=("ใช่", "อาจจะ", "ไม่ใช่"), answer="คำตอบ", others=(("อาจ", 1), ("ไม่แน่", 1), ("ไม่", 2))
    ),
    "tr": Labels(words=("Evet", "Belki", "Hayır"), answer="Cevap", others=(("Hayir", 2),)),
    "ur": Labels(
        words=("ہاں", "شاید", "نہیں"), answer="جواب", others=(("جی ہاں", 0), ("جی نہیں", 2))
    ),
    "vi": Labels(
        words=("Có", "Có thể", "Không"),
        answer="Trả lời",
        others=(("Có lẽ", 1), ("Không chắc", 1), ("Không rõ", 1)),
    ),
    "zh": Labels(
        words=("是", "可能", "否"),
        answer="答案",
        others=(("不是", 2), ("不一定", 1), ("不可能", 2), ("也许", 1)),
    ),
    "am": Labels(words=("አዎ", "ምናልባት", "አይደለም"), answer="Answer", others=(("አዎን", 0), ("አይ", 2))),
    "ee": Labels(words=("Ɛ̃", "Ɖewohĩ", "Ao"), answer="Answer", others=(("Ẽ", 0), ("Ee", 0))),
    "ha": Labels(words=("Eh", "Wataƙila", "A'a"), answer="Answer", others=(("Watakila", 1),)),
    "ig": Labels(words=("Ee", "Ikekwe", "Mba"), answer="Answer"),
    "rw": Labels(words=("Yego", "Wenda", "Oya"), answer="Answer"),
    "ln": Labels(words=("Iyo", "Mbala mosusu", "Te"), answer="Answer", others=(("Ee", 0),)),
    "lg": Labels(words=("Yee", "Oboolyawo", "Nedda"), answer="Answer", others=(("Ye", 0),)),
    "om": Labels(words=("Eeyyee", "Tarii", "Lakki"), answer="Answer", others=(("Eeyyeen", 0),)),
    "sn": Labels(words=("Hongu", "Zvimwe", "Kwete"), answer="Answer"),
    "st": Labels(words=("E", "Mohlomong", "Tjhe"), answer="Answer", others=(("Ee", 0), ("Che", 2))),
    "ak": Labels(words=("Aane", "Ebia", "Daabi"), answer="Answer"),
    "wo": Labels(
        words=("Waaw", "Amaana", "Déedéet"), answer="Answer", others=(("Deedeet", 2), ("Waw", 0))
    ),
    "xh": Labels(words=("Ewe", "Mhlawumbi", "Hayi"), answer="Answer"),
    "yo": Labels(
        words=("Bẹ́ẹ̀ni", "Bóyá", "Rárá"),
        answer="Answer",
        others=(("Beeni", 0), ("Bẹẹni", 0), ("Boya", 1), ("Rara", 2)),
    ),
    "zu": Labels(words=("Yebo", "Mhlawumbe", "Cha"), answer="Answer"),
}

# BCP-47 tag -> what stands before the number at the end of MGSM's own solutions, without the
# number. As the exemplars of Shi et al. 2022 (arXiv:2210.03057) and lm-eval's patterns have it.
ANSWER_PHRASES: dict[str, tuple[str, ...]] = {
    "bn": ("উত্তর হল", "উত্তর হলো"),
    "de": ("Die Antwort lautet", "Die Antwort ist"),
    "en": ("The answer is",),
    "es": ("La respuesta es",),
    "fr": ("La réponse est",),
    "ja": ("答えは",),
    "ru": ("Ответ —", "Ответ -", "Ответ:"),
    "sw": ("Jibu ni",),
    "te": ("సమాధానం",),
    "th": ("คำตอบคือ",),
    "zh": ("答案是", "答案为"),
}
