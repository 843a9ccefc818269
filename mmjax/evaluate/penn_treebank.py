"""Penn Treebank tokenization of captions, equal to Stanford's tokenizer in the COCO caption evaluation.

The reference (pycocoevalcap) runs Stanford's PTBTokenizer 3.4.1, a Java program, and drops punctuation; these rules
give the same tokens for captions without Java. Contractions become two tokens ("do n't", "man 's"), hyphens, slashes
and dots within a word stay, abbreviations keep their dot.
"""

import re

# Tokens that the reference drops. Brackets stay: it lists them in upper case, but writes them in lower case ("-lrb-").
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

_ABBREVIATIONS = """
    adm al ala apr ariz assn atty aug ave bldg blvd bros calif capt cf cmdr co col colo conn corp cpl ct dec dept det dr
    esq est etc ext feb fla fri ft ga gen gov hon inc ind insp jan jos jr jul jun kan ky lt ltd maj mar md messrs mfg
    mich minn mme mo mon mont mr mrs ms mt neb nev nov oct okla ph.d pfc pres prof pvt rd rep rev rt sen sep sept sgt sq
    sr st ste supt tel tenn thu thurs tue tues univ va vs vt wed wis wm wyo
"""
_STATES = "Ark Del Ill La Mass Me Ore Pa Tex Wash"  # most are words in lower case

_LETTER, _SIGN = r"[^\W\d_]", r"[^\W_]"
_APOSTROPHE = "['’]"
_TOKEN = re.compile(
    rf"""
      (?:https?://|www\.)\S*\w                                       # addresses
    | [\w.]+@\w+(?:\.\w+)+
    | [@#]{_LETTER}\w*
    | (?i:can)(?=(?i:not)\b) | (?i:gon|wan)(?=(?i:na)\b) | (?i:got)(?=(?i:ta)\b) | (?i:gim|lem)(?=(?i:me)\b)
    | {_APOSTROPHE}(?i:t)(?=(?i:is|was)\b)
    | {_LETTER}+?(?=[nN][`'’][tT](?!\w)) | [nN][`'’][tT](?!\w)       # do n't
    | {_APOSTROPHE}(?i:s|m|d|ll|re|ve)(?!\w)                         # man 's
    | {_APOSTROPHE}(?i:n|em|til|cause|cuz)(?!\w)'?(?<!{_LETTER}{{2}}') | {_APOSTROPHE}\d\d(?:s(?!{_APOSTROPHE}))?(?!\w)
    | (?<!\w)(?:(?i:{"|".join(_ABBREVIATIONS.split())})|{"|".join(_STATES.split())})\.(?!\w)
    | (?<!\w)(?i:no)\.(?=\s?\d)
    | (?<!\w){_LETTER}(?:\.{_LETTER})+\.(?!\w)                       # u.s.
    | (?<!\w){_LETTER}\.(?=\s+[^\W\dA-Z_])                           # an initial, not before a new sentence
    | [A-Z]+&[A-Z]+(?!\w)
    | [-+]?(?<!\w[-+])\d*(?:[.,:]\d+)+                               # numbers
    | (?:(?<!\w)[-+])?\d+/\d+-\d+/\d+
    | (?<!\w)[-+]\d+
    | (?<!\w)(?i:y|j){_APOSTROPHE}(?={_LETTER}{{2}})
    | (?:(?<!\w)(?i:d|o|l|qu|e|ma|ne|s(?=.mores)){_APOSTROPHE}(?={_LETTER}{{2}}))?
      (?:{_LETTER}{_SIGN}*(?:[-/_]{_SIGN}+|[.?!]{_LETTER}{_SIGN}*)* | {_SIGN}+(?:[-/_]{_SIGN}+)*)
    | [:;]-?[()]                                                     # :-)
    | \.{{3}}\.* | (?:\.\s){{2,}}\. | -{{2,}} | [?!]{{2,}} | \*+ | ''|``
    | \S
    """,
    re.VERBOSE,
)
_WRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "“": "``", "”": "''", "‘": "`",
    "’": "'", '"': "''", "–": "--", "—": "--", "…": "...", "«": "``", "»": "''", "‹": "`", "›": "'", "€": "$", "£": "#",
    "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4",
}  # fmt: skip


def tokenize(caption: str) -> list[str]:
    """The tokens of a caption, in lower case and without punctuation."""
    words = (_word(token) for token in _TOKEN.findall(caption))
    return [word for word in words if word not in PUNCTUATION]


def _word(token: str) -> str:
    if token[0] in ".-" and set(token) <= {".", "-", " ", "\t", "\n"}:
        return token[0]  # punctuation, however long
    return "".join(_WRITTEN.get(sign, sign) for sign in token).lower()
