#!/usr/bin/env python3
"""Writes router/text/unicode_versions.inc: where the parts of the `tokenizers` package know other versions of Unicode
than the libraries that Choir uses do.

    pip install tokenizers unicodedata2 && python3.11 tests/golden/make_unicode_versions.py > router/text/unicode_versions.inc

The package cuts by Unicode 16 (Oniguruma), takes digits from Rust's tables, and normalizes and finds punctuation by
older ones. PCRE2 of Debian 12 knows Unicode 14, as Python 3.11 does; utf8proc 15.
"""
import sys
import unicodedata

import unicodedata2 as newest
from tokenizers import Regex, normalizers, pre_tokenizers

ALL = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
SCRIPTS = ("Ahom Arabic Balinese Common Cyrillic Devanagari Egyptian_Hieroglyphs Han Hiragana Inherited Kannada Katakana "
           "Khitan_Small_Script Khojki Lao Latin Myanmar").split()
DERIVED = {"a": "Alphabetic", "u": "Uppercase", "l": "Lowercase"}


def members(step, chars):
    """Characters that the pre-tokenizer `step` keeps; it removes all others."""
    return {c for word, _ in step.pre_tokenize_str("".join(chars)) for c in word}


def matching(pattern, chars):
    return members(pre_tokenizers.Split(Regex(pattern), "removed", invert=True), chars)


def ranges(properties):
    """(first, last, property) of {character: property}."""
    found = []
    for c in sorted(properties):
        if found and found[-1][1] == ord(c) - 1 and found[-1][2] == properties[c]:
            found[-1][1] = ord(c)
        else:
            found.append([ord(c), ord(c), properties[c]])
    return found


def later_members():
    """What \\p{...} matches beyond Unicode 14."""
    unassigned = [c for c in ALL if unicodedata.category(c) == "Cn"]
    later = {}
    for category in sorted({newest.category(c) for c in unassigned} - {"Cn"}):
        later.update({c: category for c in matching(rf"\p{{{category}}}", unassigned)})
    chars = sorted(later)
    script = {c: name for name in SCRIPTS for c in matching(rf"\p{{{name}}}", chars)}
    derived = {flag: matching(rf"\p{{{name}}}", chars) for flag, name in DERIVED.items()}
    return {c: (later[c], script.get(c, ""), "".join(f for f in DERIVED if c in derived[f])) for c in chars}


def unknown_to_normalizer():
    """Neither decomposed nor sorted by the package, though Unicode says so."""
    nfd, nfkd = normalizers.NFD(), normalizers.NFKD()

    def sorts(c):
        light, heavy = "a" + c + "\u0334", "a\u0301" + c   # classes 1 and 230
        return nfd.normalize_str(light) != light or nfd.normalize_str(heavy) != heavy or newest.combining(c) == 230

    def knows(c):
        if newest.decomposition(c):
            return nfkd.normalize_str(c) != c
        return nfd.normalize_str("a" + c + "\u0323") != "a" + c + "\u0323" if newest.combining(c) == 230 else sorts(c)

    unknown = [c for c in ALL if (newest.combining(c) or newest.decomposition(c)) and not knows(c)]
    # Starters that would end a composed character.
    pairs = [newest.decomposition(c).split() for c in unknown if "<" not in newest.decomposition(c)]
    ends = {chr(int(p[1], 16)) for p in pairs if len(p) == 2}
    return sorted({*unknown, *(c for c in ends if newest.combining(c) == 0)})


def numbers():
    """Digits beyond Unicode 14: what Digits cuts off."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    asked = [c for c in ALL if unicodedata.category(c) == "Cn" and newest.category(c) in ("Nd", "Nl", "No")]
    return [c for c in asked if len(digits.pre_tokenize_str("a" + c)) == 2]


def not_punctuation():
    asked = [c for c in ALL if newest.category(c)[0] == "P"]
    return [c for c in asked if len(pre_tokenizers.Punctuation("isolated").pre_tokenize_str("a" + c)) == 1]


def write_ranges(name, comment, chars):
    print(f"\n// {comment}\nconstexpr Range {name}[] = {{")
    line = "   "
    for first, last, _ in ranges(dict.fromkeys(chars)):
        item = f" {{0x{first:X}, 0x{last:X}}},"
        if len(line + item) > 100:
            print(line)
            line = "   "
        line += item
    print(line + "\n};")


def main():
    assert unicodedata.unidata_version == "14.0.0", "PCRE2's version: Python 3.11"
    print("// Made by tests/golden/make_unicode_versions.py; not edited by hand.")
    print(f"\n// Characters of Oniguruma's Unicode 16 that PCRE2's Unicode 14 does not know.\nconstexpr Later kLater[] = {{")
    for first, last, (category, script, derived) in ranges(later_members()):
        print(f'    {{{{0x{first:X}, 0x{last:X}}}, "{category}", "{script}", "{derived}"}},')
    print("};")
    write_ranges("kUnknownToNormalizer", "Combining or decomposable, but not in the package's normalizers.", unknown_to_normalizer())
    write_ranges("kLaterNumbers", "Numeric for the package (Rust's tables), beyond Unicode 14.", numbers())
    write_ranges("kNotPunctuation", "Punctuation, but not for the package's Punctuation.", not_punctuation())


if __name__ == "__main__":
    sys.exit(main())
