"""Makes `lm_eval_specfair/groups/languages.tsv`: script, family, macroarea and resource class.

Run it when Glottolog has a new release:

    python tools/language_table.py --glottolog languages.csv --taxonomy lang2tax.txt

`languages.csv` is `cldf/languages.csv` of https://github.com/glottolog/glottolog-cldf (release 5.1;
CC-BY 4.0). `lang2tax.txt` is the taxonomy of Joshi et al. 2020, "The State
and Fate of Linguistic Diversity and Inclusion in the NLP World" (arXiv:2004.09095), published at
https://microsoft.github.io/linguisticdiversity/assets/lang2tax.txt: lines "name,class" without
codes, so names are matched here, and what the matching can't know is written down in NAMES. The
script is CLDR's likely one, as the library langcodes has it; where CLDR has none, SCRIPTS.
"""

import argparse
import csv
from pathlib import Path

import langcodes
from langcodes.data_dicts import LIKELY_SUBTAGS
from language_data.population_data import LANGUAGE_SPEAKING_POPULATION

from lm_eval_specfair.groups.language_tags import language_code, language_tag

TABLE = Path(__file__).parents[1] / "lm_eval_specfair" / "groups" / "languages.tsv"

# The taxonomy's names that are not the English names of CLDR or Glottolog: ISO 639-3 by hand.
NAMES = {
    "acehnese": "ace", "adyghe": "ady", "aramaic": "arc", "arabic": "arb", "armenian": "hye",
    "avar": "ava", "aymara": "ayr", "azerbaijani": "azj", "albanian": "sqi", "buryat": "bua",
    "bikol": "bcl", "buginese": "bug", "burmese": "mya", "chavacano": "cbk", "chichewa": "nya",
    "central bicolano": "bcl", "classical chinese": "lzh", "cree": "cre", "dinka": "din",
    "divehi": "div", "doteli": "dty", "dutch low saxon": "nds", "eastern punjabi": "pan",
    "emilian-romagnol": "egl", "estonian": "ekk", "fula": "ful", "gan": "gan", "greek": "ell",
    "greenlandic": "kal", "guarani": "grn", "hakka": "hak", "hill mari": "mrj", "inuktitut": "iku",
    "inupiak": "ipk", "jamaican patois": "jam", "kirghiz": "kir", "kirundi": "run", "komi": "kom",
    "kongo": "kon", "konkani": "kok", "kurdish (kurmanji)": "kmr", "kurdish (sorani)": "ckb",
    "latvian": "lvs", "livvi-karelian": "olo", "low saxon": "nds", "luganda": "lug",
    "malagasy": "plt", "malay": "zsm", "mandarin": "cmn", "maori": "mri", "meadow mari": "mhr",
    "min dong": "cdo", "min nan": "nan", "mingrelian": "xmf", "mongolian": "khk",
    "nahuatl": "nah", "nauruan": "nau", "nepali": "npi", "newar": "new", "norfolk": "pih",
    "norman": "nrf", "northern sotho": "nso", "norwegian (bokmål)": "nob",
    "norwegian (nynorsk)": "nno", "odia": "ory", "oromo": "gaz", "palatinate german": "pfl",
    "pashto": "pus", "persian": "pes", "pontic": "pnt", "punjabi": "pan", "quechua": "que",
    "ripuarian": "ksh", "romani": "rom", "romansh": "roh", "sakha": "sah",
    "saterland frisian": "stq", "serbo-croatian": "hbs", "sesotho": "sot", "silesian": "szl",
    "sinhalese": "sin", "southern azerbaijani": "azb", "sranan": "srn", "swahili": "swh",
    "swati": "ssw", "tagalog": "tgl", "tibetan": "bod", "tetum": "tet", "uyghur": "uig",
    "uzbek": "uzn", "vepsian": "vep", "waray": "war", "west frisian": "fry",
    "western punjabi": "pnb", "wu": "wuu", "yiddish": "ydd", "zazaki": "diq", "zhuang": "zha",
    "old church slavonic": "chu", "võro": "vro", "akan": "aka", "fiji hindi": "hif",
    "franco-provençal": "frp", "interlingue": "ile", "lingua franca nova": "lfn",
    "tok pisin": "tpi", "anglo-saxon": "ang", "tarantino": "nap", "karakalpak": "kaa",
    "tuvan": "tyv", "mazandarani": "mzn", "kapampangan": "pam", "papiamentu": "pap",
    "acholi": "ach", "bena-lulua": "lua", "fongbe": "fon", "gã": "gaa", "jingpho": "kac",
    "mauritian creole": "mfe", "meithei": "mni", "mooré": "mos", "quiché": "quc",
    "runyankore": "nyn", "seychelles creole": "crs", "tashlhiyt": "shi", "tectiteco": "ttc",
    "tupi": "tpn", "ossetian": "oss", "north frisian": "frr", "kabiye": "kbp", "ilocano": "ilo",
}  # fmt: skip
# Wikipedias of varieties that have no language code of their own, or share one with a richer name.
SKIPPED = {"simple english", "belarusian (taraškievica)", "banyumasan", "alemannic"}
# Of macrolanguages, and of codes that Glottolog files as dialects: the language that stands for it.
STANDS_FOR = {
    "sh": "hrv", "hr": "hrv", "sr": "srp", "bs": "bos", "no": "nob", "nb": "nob", "nn": "nno",
    "ku": "kmr", "za": "zyg", "ff": "fuv", "qu": "quz", "gn": "gug", "ak": "twi", "sq": "als",
    "ay": "ayr", "din": "dik",
    "lah": "pnb", "bal": "bcc", "kpe": "xpe",
    "bua": "bxr", "iu": "ike", "oj": "ojs", "cr": "crk", "kv": "kpv",
    "zza": "diq", "kg": "kng", "kr": "knc", "doi": "dgo", "kok": "gom", "bik": "bcl", "lv": "lvs",
    "ik": "esi", "ps": "pbt", "mwr": "dhd", "raj": "rwr", "nah": "nhn", "rom": "rmy", "mn": "khk",
    "yi": "ydd", "sw": "swh", "ms": "zsm", "zh": "cmn", "ar": "arb", "fa": "pes", "az": "azj",
    "et": "ekk", "ne": "npi", "or": "ory", "mg": "plt", "om": "gaz", "uz": "uzn", "fil": "fil",
    "arc": "aii", "bh": "bho", "ber": "tzm", "prs": "prs", "chm": "mhr", "kln": "niq", "luy": "lri",
    "hbo": "hbo", "sc": "sro", "syr": "aii", "pnt": "pnt", "nds": "nds", "mhr": "mhr", "man": "emk",
}  # fmt: skip
# The usual script of languages in benchmarks for which CLDR has no likely one.
SCRIPTS = {
    "Arab": "acm acq afb ajp azb bsk mey pbt",
    "Armn": "hyw xcl",
    "Beng": "ctg",
    "Cyrl": "orv",
    "Deva": "rwr",
    "Hebr": "hbo",
    "Latn": """apu aqz azz bor btx cjk ckm din ekp frm fro iso kxh lld lus nag nhi olo quy qu sh tpn
        ttc urb urh dik""",
    "Syrc": "aii",
}
# The taxonomy names the whole where a suite names its largest part.
PART_OF = {"pbt": "ps", "quy": "qu", "dik": "din", "fuv": "ff", "gom": "kok", "no": "nb"}
# FLORES+ (openlanguagedata.org) beyond what CLDR counts speakers of, and small suites' languages.
ALSO = """
    acm cjk
    arg ast aka apc chv dar dgo brx gom hyw kaa lij lld mhr myv nqo sah snd tyv vmw wuu ajp acq aeb
    awa ban bjn crh dik dyu fuv kam kbp kea kmb knc lmo ltg lua lus mag mos nus pag pbt plt prs quy
    sag szl taq tum tzm umb vec war ydd aln abk apu aqz azz bor bxr chu egy frm fro got grc hbo hit
    hsb hyw kpv koi krl kxh mdf nhi olo orv ota quc sms tpn ttc urb vep wbp xcl xnr xpg yrl bcc bgc
    bra bsk btx ckm cls dhd ekp idu iso nag rwr swv urh bbj ach lgg teo nyn nde mey shi afb hne arq
    ctg mwr raj sat mai doi gom kok brx ibb bem efi run pcm tpi lug luo fon ewe twi aii nds hne pnb
"""  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--glottolog", type=Path, required=True, metavar="CSV")
    parser.add_argument("--taxonomy", type=Path, required=True, metavar="TXT")
    arguments = parser.parse_args()
    with arguments.glottolog.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    glottolog = {row["ID"]: row for row in rows}
    by_iso = {row["ISO639P3code"]: row for row in rows if row["ISO639P3code"]}
    classes = _classes(arguments.taxonomy, by_iso)

    by_tag: dict[str, set[str]] = {}
    for code in {*ALSO.split(), *classes, *LANGUAGE_SPEAKING_POPULATION}:
        tag = language_tag(code)
        if tag is not None:
            by_tag.setdefault(language_code(tag), set()).add(code)
    scripts = {tag: script for script, tags in SCRIPTS.items() for tag in tags.split()}
    also = {language_tag(code) for code in ALSO.split()}
    lines = []
    for tag, codes in sorted(by_tag.items()):
        in_use = tag in also or any(LANGUAGE_SPEAKING_POPULATION.get(code) for code in codes)
        whole = by_tag.get(PART_OF.get(tag, ""), set())
        best = max((classes[code] for code in (codes | whole) if code in classes), default=None)
        # Languages without resources and outside any suite would make it a long table.
        if not in_use and not best:
            continue
        row = by_iso.get(STANDS_FOR.get(tag) or langcodes.Language.get(tag).to_alpha3())
        if row is None:
            print(f"not in Glottolog: {tag}" + (f", of class {best}" if best else ""))
            continue
        family = glottolog.get(row["Family_ID"], {}).get("Name") or f"{row['Name']} (isolate)"
        likely = LIKELY_SUBTAGS.get(tag, "").split("-")[1:2]
        script = scripts.get(tag) or (likely[0] if likely else "")
        if not script and tag in also:
            print(f"no script: {tag} {row['Name']}")
        resources = "" if best is None else str(best)
        fields = (tag, row["Name"], script, family, row["Macroarea"], resources)
        lines.append("\t".join(fields))
    heading = "tag\tname\tscript\tfamily\tmacroarea\tresource_class"
    TABLE.write_text("\n".join((heading, *lines)) + "\n", encoding="utf-8")
    print(f"{TABLE.name}: {len(lines)} languages")


def _classes(path: Path, by_iso: dict[str, dict[str, str]]) -> dict[str, int]:
    """ISO 639-3 code to class."""
    by_name = {row["Name"].casefold(): iso for iso, row in by_iso.items()}
    classes: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        name, _, number = line.strip().rpartition(",")
        if not name or name in SKIPPED:
            continue
        code = NAMES.get(name) or _code(name) or by_name.get(name)
        if code is None:
            if number != "0":
                print(f"no code for {name!r} of class {number}: add it to NAMES")
            continue
        classes[code] = max(int(number), classes.get(code, 0))
    return classes


def _code(name: str) -> str | None:
    try:
        found = langcodes.find(name)
    except LookupError:
        return None
    # It guesses; only exact English names count.
    exact = found.display_name().casefold() == name and found.language == found.to_tag()
    return found.to_alpha3() if exact else None


if __name__ == "__main__":
    main()
