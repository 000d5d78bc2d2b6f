"""The embedded pair's languages: where their text is found, and how unequal the mixture is.

The mixture is unequal on purpose: a pair that knows every language equally well would have
nothing to show. A tier is a cap on bytes of training text; `epochs` repeats a language.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """One language of the corpus.

    Attributes:
        code: BCP-47 code used everywhere else in the project.
        script: ISO 15924 script name, for the model card.
        help: Folder of LibreOffice's help, or None.
        handbook: Folder of the Debian handbook, or None.
        gnome: Folder of GNOME's user documentation, or None.
        firefox: Suffix of Firefox's language package, or None.
        max_bytes: Cap on the training text, in bytes of UTF-8.
        epochs: How often the capped text enters the mixture.
        min_chars: Shortest line kept from prose (shorter in scripts that write more per sign).
    """

    code: str
    script: str
    help: str | None = None
    handbook: str | None = None
    gnome: str | None = None
    firefox: str | None = None
    max_bytes: int
    epochs: int = 1
    min_chars: int = 40

    @property
    def packages(self) -> list[str]:
        """Debian packages that hold this language's text."""
        names = []
        if self.help:
            names.append(f"libreoffice-help-{self.help.lower()}")
        if self.firefox:
            names.append(f"firefox-esr-l10n-{self.firefox}")
        return names


HIGH, MIDDLE, LOW, LOWEST = 4_500_000, 2_200_000, 1_000_000, 500_000


def _language(code: str, script: str, tier: int, sources: str, **more: int) -> Language:
    folders = dict(zip(("help", "handbook", "gnome", "firefox"), sources.split(), strict=True))
    found = {name: folder for name, folder in folders.items() if folder != "-"}
    return Language(code=code, script=script, max_bytes=tier, **found, **more)


LANGUAGES: tuple[Language, ...] = (
    # code, script, cap, "help handbook gnome firefox"
    _language("en", "Latin", 6_000_000, "en-US en-US C en-gb", epochs=2),
    _language("de", "Latin", HIGH, "de de-DE de de"),
    _language("fr", "Latin", HIGH, "fr fr-FR fr fr"),
    _language("es", "Latin", HIGH, "es es-ES es es-es"),
    _language("it", "Latin", HIGH, "it it-IT it it"),
    _language("pt", "Latin", HIGH, "pt - pt pt-pt"),
    _language("ru", "Cyrillic", HIGH, "ru ru-RU ru ru"),
    _language("ja", "Kana and Han", HIGH, "ja ja-JP ja ja", min_chars=15),
    _language("zh", "Han", HIGH, "zh-CN zh-CN zh_CN zh-cn", min_chars=15),
    _language("nl", "Latin", MIDDLE, "nl nl-NL nl nl"),
    _language("pl", "Latin", MIDDLE, "pl pl-PL pl pl"),
    _language("cs", "Latin", MIDDLE, "cs cs-CZ cs cs"),
    _language("sv", "Latin", MIDDLE, "sv sv-SE sv sv-se"),
    _language("el", "Greek", MIDDLE, "el el-GR el el"),
    _language("tr", "Latin", MIDDLE, "tr tr-TR tr tr"),
    _language("ko", "Hangul", MIDDLE, "ko ko-KR ko ko", min_chars=15),
    _language("vi", "Latin", MIDDLE, "vi vi-VN vi vi"),
    _language("id", "Latin", LOW, "id id-ID id id"),
    _language("hu", "Latin", LOW, "hu - hu hu"),
    _language("fi", "Latin", LOW, "fi - fi fi"),
    _language("uk", "Cyrillic", LOW, "- - uk uk"),
    _language("ar", "Arabic", LOW, "- ar-MA - ar"),
    _language("fa", "Arabic", LOW, "- fa-IR fa fa"),
    _language("th", "Thai", LOW, "- - - th", min_chars=25),
    _language("km", "Khmer", LOW, "km - - km", min_chars=25),
    _language("ka", "Georgian", LOWEST, "- - - ka"),
    _language("hi", "Devanagari", LOWEST, "hi - hi hi-in"),
    _language("ta", "Tamil", LOWEST, "- - ta ta"),
    _language("bn", "Bengali", LOWEST, "- - - bn"),
    _language("he", "Hebrew", LOWEST, "- - he he"),
)
