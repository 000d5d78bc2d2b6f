"""Text of any language in the form in which answers are compared. No scoring, no language names.

Whole texts are scored in `normal_form`, short answers in `tokens` of what `fold` leaves. Each
`language` is a BCP-47 tag.
"""

import unicodedata

import regex

# Arabic vocalisation and the elongation stroke, Hebrew points and accents. Marks of other scripts
# are letters in all but name (a Hindi vowel, a Thai tone) and stay.
_MARKS = regex.compile(
    "[\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]"
)
_INVISIBLE = regex.compile(r"[\p{Cf}\p{DI}]+")  # joiners, directions, byte-order marks
_DIGIT = regex.compile(r"\p{Nd}")
_TURKIC = {"az", "tr"}
_APOSTROPHES = str.maketrans("’‘ʼʻ＇", "'''''")
# Unicode's punctuation and ASCII's, as MLQA counts it: `$` and `+` too.
_PUNCTUATION = regex.compile(r"[\p{P}$+<=>^`|~]")
# Ethiopic words may be parted by a sign instead of a space.
_WORD_SIGNS = str.maketrans({"\u1361": " "})
# Scripts whose words are not parted by spaces: each grapheme is a token, as in MLQA's Chinese.
_UNSPACED = regex.compile(
    r"[\p{scx=Hani}\p{scx=Hira}\p{scx=Kana}\p{Thai}\p{Lao}\p{Khmr}\p{Mymr}\p{Tibt}]+"
)
# Characters that show nothing. A joiner beside a virama of a Brahmic script chooses a letter's
# form, and is kept there.
_SHOWS_NOTHING = regex.compile(
    r"(?<!\p{InSC=Virama})[\u200c\u200d](?!\p{InSC=Virama})|(?![\u200c\u200d])\p{DI}"
)
# Blocks that repeat letters in another shape or width; Thai and Lao am, which is written apart; and
# what only forbids a line's end, such as Tibetan's second mark between syllables.
_SHAPES = regex.compile(
    "[\ufb00-\ufdff\ufe10-\ufe19\ufe30-\ufe6f\ufe70-\ufefc\uff01-\uffee\u0e33\u0eb3\u0f0c\u2011]+"
)
_HYPHEN = str.maketrans("\u2010", "-")
# The old spelling of Malayalam's letters without a vowel: consonant, virama, joiner.
_CHILLUS = dict(zip("ണനരലളക", "ൺൻർൽൾൿ", strict=True))
_OLD_CHILLU = regex.compile("([ണനരലളക])\u0d4d\u200d")
# Letters of another language's keyboard that look the same: Arabic yeh and kaf, cedillas.
_KEYBOARD = {
    **dict.fromkeys(("fa", "ur"), str.maketrans("يك", "یک")),
    "ro": str.maketrans("şţŞŢ", "șțȘȚ"),
}
# The articles that MLQA's official script removes; Arabic's only at a word's beginning, as in
# lm-eval's copy: the script itself takes it out of the middle of words too.
_ARTICLES = {
    "ar": r"(?:^|\s)ال",
    "de": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "en": r"\b(?:a|an|the)\b",
    "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
}


def normal_form(text: str, language: str) -> str:
    """Text with one spelling for what looks the same; what can be seen stays.

    NFC (which composes accents and Korean syllables), compatibility forms of presentation forms,
    full and half width, no characters that show nothing (zero-width spaces, Persian's non-joiner,
    soft hyphens, marks of direction), no Arabic elongation, and plain spaces, hyphens and Tibetan
    tshegs.

    Example:
        >>> normal_form("Ｔｏ\u200b\u00a0a\u0301", "en")
        'To á'
    """
    text = _SHAPES.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _OLD_CHILLU.sub(lambda match: _CHILLUS[match[1]], text.translate(_HYPHEN))
    text = _SHOWS_NOTHING.sub("", text.replace("\u0640", ""))
    text = unicodedata.normalize("NFC", text).translate(_KEYBOARD.get(language.split("-")[0], {}))
    return " ".join(text.split())


def fold(text: str, language: str) -> str:
    """Text without differences that carry no meaning.

    NFKC (full-width and presentation forms), digits of all scripts as ASCII, one kind of
    apostrophe, case folded (with the two i of Turkish and Azerbaijani), without Arabic and Hebrew
    vocalisation and without invisible characters. White space becomes single spaces.

    Example:
        >>> fold("Ｉstanbul １２", "en"), fold("ISPARTA", "tr"), fold("١٢٣", "ar")
        ('istanbul 12', 'ısparta', '123')
    """
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    text = _DIGIT.sub(lambda match: str(unicodedata.decimal(match[0], match[0])), text)
    if language.split("-")[0] in _TURKIC:
        text = text.replace("İ", "i").replace("I", "ı")
    text = _MARKS.sub("", _INVISIBLE.sub("", text.casefold()))
    # Case folding can leave a sequence that has a composed form.
    return " ".join(unicodedata.normalize("NFKC", text).split())


def tokens(text: str, language: str, *, drop_articles: bool = True) -> list[str]:
    """The words of a text; in scripts without spaces, its graphemes.

    Punctuation and articles (ar de en es vi) are removed as MLQA's official script does, but for
    Arabic's article, which that removes from the middle of words too.

    Source:
        Lewis et al. 2020 (arXiv:1910.07475), `mlqa_evaluation_v1.py`.

    Example:
        >>> tokens("The U.S. Army,", "en"), tokens("東京5km。", "ja")
        (['us', 'army'], ['東', '京', '5km'])
    """
    bare = fold(text, language).translate(_WORD_SIGNS)
    bare = _PUNCTUATION.sub("", bare)
    articles = _ARTICLES.get(language.split("-")[0]) if drop_articles else None
    if articles:
        bare = regex.sub(articles, " ", bare)
    return _UNSPACED.sub(_spaced, bare).split()


def _spaced(run: "regex.Match[str]") -> str:
    graphemes = regex.findall(r"\X", run[0])
    return f" {' '.join(graphemes)} "
