"""Languages of the suites: the codes of their data sets, BCP-47 tags and English names.

A tag is the one that reports give the code in lm-eval's own tasks too, so that a language is one
group in a run of both: `zho_Hans` is `zh-Hans`, `hin_Latn` is `hi-Latn`, `swh_Latn` is `sw`.
"""

from lm_eval_specfair.groups.language_tags import language_name, language_tag, script_name

# What prompts call a language: as lm-eval's own do, not as CLDR.
_NAMES = {"ak": "Twi", "bn": "Bengali", "luo": "Luo", "ee": "Ewe", "pcm": "Nigerian Pidgin"}


def tag_of(code: str) -> str:
    """The BCP-47 tag of a code or a name such as `swh_Latn`, `zho_Hans`, `amh` or `welsh`.

    Example:
        >>> [tag_of(code) for code in ("swh_Latn", "zho_Hans", "zho_Hant", "kor_Hang", "amh")]
        ['sw', 'zh-Hans', 'zh-Hant', 'ko', 'am']
    """
    tag = language_tag(code)
    assert tag is not None, code
    return tag


def name_of(tag: str) -> str:
    """The English name of a tag, for prompts.

    Example:
        >>> name_of("sw"), name_of("hi-Latn"), name_of("zh-Hant")
        ('Swahili', 'Hindi (Latin script)', 'Chinese (Traditional)')
    """
    language, _, script = tag.partition("-")
    name = _NAMES.get(language) or language_name(language)
    if not script:
        return name
    if script in ("Hans", "Hant"):
        return language_name(tag)
    return f"{name} ({script_name(script)} script)"


# ------------------------------------------------------------------ languages of each suite


def _codes(text: str) -> list[str]:
    return text.split()


XNLI = _codes("ar bg de el en es fr hi ru sw th tr ur vi zh")
MGSM = _codes("bn de en es fr ja ru sw te th zh")
XQUAD = _codes("ar de el en es hi ro ru th tr vi zh")
MLQA = _codes("ar de en es hi vi zh")
# Tag -> how the ids of the language's rows begin.
TYDIQA = {
    "ar": "arabic",
    "bn": "bengali",
    "en": "english",
    "fi": "finnish",
    "id": "indonesian",
    "ko": "korean",
    "ru": "russian",
    "sw": "swahili",
    "te": "telugu",
}
GLOBAL_MMLU = _codes("ar bn de en es fr hi id it ja ko pt sw yo zh")
AFRIXNLI = _codes("amh eng ewe fra hau ibo kin lin lug orm sna sot swa twi wol xho yor zul")
AFRIMGSM = _codes("amh eng ewe fra hau ibo kin lin lug orm sna sot swa twi vai wol xho yor zul")
BELEBELE = _codes("""
    acm_Arab afr_Latn als_Latn amh_Ethi apc_Arab arb_Arab arb_Latn ars_Arab ary_Arab arz_Arab
    asm_Beng azj_Latn bam_Latn ben_Beng ben_Latn bod_Tibt bul_Cyrl cat_Latn ceb_Latn ces_Latn
    ckb_Arab dan_Latn deu_Latn ell_Grek eng_Latn est_Latn eus_Latn fin_Latn fra_Latn fuv_Latn
    gaz_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hin_Latn hrv_Latn hun_Latn
    hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kac_Latn kan_Knda
    kat_Geor kaz_Cyrl kea_Latn khk_Cyrl khm_Khmr kin_Latn kir_Cyrl kor_Hang lao_Laoo lin_Latn
    lit_Latn lug_Latn luo_Latn lvs_Latn mal_Mlym mar_Deva mkd_Cyrl mlt_Latn mri_Latn mya_Mymr
    nld_Latn nob_Latn npi_Deva npi_Latn nso_Latn nya_Latn ory_Orya pan_Guru pbt_Arab pes_Arab
    plt_Latn pol_Latn por_Latn ron_Latn rus_Cyrl shn_Mymr sin_Latn sin_Sinh slk_Latn slv_Latn
    sna_Latn snd_Arab som_Latn sot_Latn spa_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn
    tam_Taml tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi tsn_Latn tso_Latn tur_Latn ukr_Cyrl
    urd_Arab urd_Latn uzn_Latn vie_Latn war_Latn wol_Latn xho_Latn yor_Latn zho_Hans zho_Hant
    zsm_Latn zul_Latn
""")

# FLORES+ has renamed some of FLORES-200's codes, which Belebele keeps. Our tasks have Belebele's
# names, so that a language is called the same in both suites: code -> configuration of FLORES+.
_RENAMED = {
    "apc_Arab": "apc_Arab_nort3139",
    "est_Latn": "ekk_Latn",
    "grn_Latn": "gug_Latn",
    "tgl_Latn": "fil_Latn",
    "zho_Hans": "cmn_Hans",
    "zho_Hant": "cmn_Hant",
}
_ROMANISED = {"ben_Latn", "hin_Latn", "npi_Latn", "sin_Latn", "urd_Latn"}  # Belebele's own
FLORES = {
    code: _RENAMED.get(code, code)
    for code in BELEBELE
    if code != "eng_Latn" and code not in _ROMANISED
}
XLSUM = _codes("""
    amharic arabic azerbaijani bengali burmese chinese_simplified chinese_traditional english
    french gujarati hausa hindi igbo indonesian japanese kirundi korean kyrgyz marathi nepali
    oromo pashto persian pidgin portuguese punjabi russian scottish_gaelic serbian_cyrillic
    serbian_latin sinhala somali spanish swahili tamil telugu thai tigrinya turkish ukrainian
    urdu uzbek vietnamese welsh yoruba
""")
# Twelve languages that all three suites of the selection have: ten scripts, classes 1 to 5 of Joshi
# et al. 2020 (te; am sw yo; bn th; hi ru; ar en ja zh). Name in the selection's tasks -> Belebele's
# code, XL-Sum's name.
CORE = {
    "am": ("amh_Ethi", "amharic"),
    "ar": ("arb_Arab", "arabic"),
    "bn": ("ben_Beng", "bengali"),
    "en": ("eng_Latn", "english"),
    "hi": ("hin_Deva", "hindi"),
    "ja": ("jpn_Jpan", "japanese"),
    "ru": ("rus_Cyrl", "russian"),
    "sw": ("swh_Latn", "swahili"),
    "te": ("tel_Telu", "telugu"),
    "th": ("tha_Thai", "thai"),
    "yo": ("yor_Latn", "yoruba"),
    "zh": ("zho_Hans", "chinese_simplified"),
}
