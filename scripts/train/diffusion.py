"""Makes the fixtures of the image tests: a tiny random Stable Diffusion, and the pictures that diffusers makes of it.

python diffusion.py --out tests/fixtures/diffusion
python diffusion.py --from CHECKPOINT --out FOLDER --name NAME --licence SPDX

The second form packs a Stable Diffusion 1.5 as diffusers saves it (folders text_encoder, unet, vae, scheduler and
tokenizer with safetensors and JSON) into the three files of a model, with their manifest.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from blake3 import blake3
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.activations import GEGLU
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

SEED = 29
CONTEXT = 24
ENDS = ["<|startoftext|>", "<|endoftext|>"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
MERGES = [("b", "e"), ("be", "e</w>"), ("t", "h"), ("th", "e</w>"), ("h", "i"), ("hi", "v"), ("hiv", "e</w>")]
# (name, prompt, seed, width, height, steps, guidance in thousandths)
PICTURES = [
    ("bee", "The bee, the hive!", 7, 64, 64, 4, 7500),
    ("nothing", "", 300, 128, 64, 3, 1000),
    ("honey", "honey " * 40 + "日本", 2**64 - 1, 64, 192, 2, 3250),
]


def tokenizer():
    letters = list(LETTERS) + [f"{letter}</w>" for letter in LETTERS]
    words = letters + ["".join(merge) for merge in MERGES] + ENDS
    vocabulary = {word: n for n, word in enumerate(words)}
    made = Tokenizer(BPE(vocabulary, MERGES, unk_token=ENDS[1], end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [(token, vocabulary[token]) for token in ENDS]
    made.post_processor = processors.TemplateProcessing(single=f"{ENDS[0]} $A {ENDS[1]}", special_tokens=special)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=CONTEXT, bos_token=ENDS[0], eos_token=ENDS[1],
                                   unk_token=ENDS[1], pad_token=ENDS[1])
    return fast, len(words)


def tiny():
    torch.manual_seed(SEED)
    fast, size = tokenizer()
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=size, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=CONTEXT, hidden_act="quick_gelu", bos_token_id=size - 2, eos_token_id=size - 1,
        pad_token_id=size - 1))
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=16, attention_head_dim=2,
        norm_num_groups=32, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1)
    for part in [text, unet, vae]:
        enliven(part)
    return assembled(text.eval(), unet.eval(), vae.eval(), scheduler, fast)


def enliven(model):
    """Larger weights than a model is born with: its pictures have contrast then, and its prompts matter. They are numbers
    of 16 bits, as they are kept."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                is_table = name.endswith(("token_embedding.weight", "position_embedding.weight"))
                weight.normal_(0, 1.0 if is_table else 1 / math.sqrt(weight[0].numel()))
            elif name.endswith("bias"):
                weight.normal_(0, 0.1)
            weight.copy_(weight.half())


def assembled(text, unet, vae, scheduler, fast):
    pipe = StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=fast, unet=unet, scheduler=scheduler,
                                   safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise_seed(seed):
    """The digest that noise is drawn from, as the specification has it: of a list of the seed, in DAG-CBOR."""
    for bound, head, size in [(24, b"", 1), (1 << 8, b"\x18", 1), (1 << 16, b"\x19", 2), (1 << 32, b"\x1a", 4), (1 << 64, b"\x1b", 8)]:
        if seed < bound:
            encoded = b"\x81" + head + seed.to_bytes(size, "big")
            return blake3(encoded, derive_key_context="swarmpool v1 sampling").digest()
    raise ValueError(seed)


def noise(seed, width, height):
    shape = (1, 4, height // 8, width // 8)
    count = math.prod(shape)
    drawn = blake3(b"", key=noise_seed(seed)).digest(length=8 * count)
    numbers = []
    for at in range(0, 8 * count, 16):
        first, second = (int.from_bytes(drawn[at + b:at + b + 8], "big") >> 11 for b in (0, 8))
        radius = math.sqrt(-2 * math.log((first + 1) / 2**53))
        angle = 2 * math.pi * (second / 2**53)
        numbers += [radius * math.cos(angle), radius * math.sin(angle)]
    return torch.tensor(numbers, dtype=torch.float64).to(torch.float32).reshape(shape)


def summary(latents):
    """The mean of each of the 4 x 4 cells of each channel."""
    return torch.nn.functional.adaptive_avg_pool2d(latents.double(), 4).flatten().tolist()


def draw(pipe, prompt, seed, width, height, steps, guidance):
    """The latents after each step, and the picture."""
    after = []

    def keep(_, step, time, values):
        after.append(values["latents"])
        return values

    with torch.no_grad():
        rgb = pipe(prompt, width=width, height=height, num_inference_steps=steps, guidance_scale=guidance / 1000, eta=0.0,
                   latents=noise(seed, width, height), output_type="np", callback_on_step_end=keep).images[0]
    return after, (rgb * 255).round().astype("uint8")


def write_figures(pipe, folder):
    """What diffusers draws, and its last latents once more with GELU by its tanh approximation, which candle has."""
    figures = []
    for name, *asked in PICTURES:
        latents, rgb = draw(pipe, *asked)
        Image.fromarray(rgb).save(folder / f"{name}.png")
        exact, GEGLU.gelu = GEGLU.gelu, lambda _, gate: torch.nn.functional.gelu(gate, approximate="tanh")
        approximate, _ = draw(pipe, *asked)
        GEGLU.gelu = exact
        prompt, seed, width, height, steps, guidance = asked
        ids = pipe.tokenizer(prompt, truncation=True, max_length=CONTEXT)["input_ids"]
        figures.append({
            "name": name, "prompt": prompt, "seed": str(seed), "width": width, "height": height, "steps": steps,
            "guidance": guidance, "ids": ids, "noise_seed": noise_seed(seed).hex(),
            "noise": rounded(noise(seed, width, height).flatten()[:16].tolist()),
            "means": [rounded(summary(step)) for step in latents],
            "means_tanh": [rounded(summary(step)) for step in approximate],
        })
    lines = ",\n".join(json.dumps(figure, ensure_ascii=False) for figure in figures)
    (folder / "figures.json").write_text(f"[\n{lines}\n]\n")


def rounded(numbers):
    return [float(f"{number:.7g}") for number in numbers]


def packed(pipe):
    """All weights in 16 bits under the names of their parts; one file, so that one digest names them."""
    tensors = {}
    for part in ["text_encoder", "unet", "vae"]:
        for name, tensor in getattr(pipe, part).state_dict().items():
            if part == "text_encoder":
                name = "text_model." + name.removeprefix("text_model.")
            if not name.endswith("position_ids"):
                tensors[f"{part}.{name}"] = tensor.half().contiguous()
    return tensors


def configuration(pipe):
    kept = lambda config: {name: value for name, value in config.items() if not name.startswith("_")}
    parts = {name: kept(getattr(pipe, name).config) for name in ["unet", "vae", "scheduler"]}
    text = json.loads(pipe.text_encoder.config.to_json_string(use_diff=False))
    return {"text_encoder": text, **parts, "pad_token_id": pipe.tokenizer.pad_token_id}


def file_entry(path):
    return {"file": path.name, "size": path.stat().st_size, "blake3": blake3(path.read_bytes()).hexdigest()}


def write_model(pipe, folder, name, licence, weight_out):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(packed(pipe), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(configuration(pipe), indent=1, sort_keys=True) + "\n")
    pipe.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    text = pipe.text_encoder.config
    manifest = {"name": name, "workload": "sd_infer", **file_entry(folder / "model.safetensors")}
    manifest["files"] = [file_entry(folder / "config.json"), file_entry(folder / "tokenizer.json")]
    manifest |= {"architecture": "stable-diffusion", "context_length": text.max_position_embeddings,
                 "vocab_size": text.vocab_size, "weight_in": 1, "weight_out": weight_out, "licence": licence}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--from", type=Path, dest="checkpoint")
    arguments.add_argument("--name", default="stable-diffusion-1.5")
    arguments.add_argument("--licence", default="LicenseRef-CreativeML-OpenRAIL-M")
    options = arguments.parse_args()
    if options.checkpoint:
        pipe = StableDiffusionPipeline.from_pretrained(options.checkpoint, safety_checker=None, torch_dtype=torch.float32)
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False)
        write_model(pipe, options.out, options.name, options.licence, 100)
    else:
        pipe = tiny()
        write_model(pipe, options.out, "tiny-diffusion", "Apache-2.0", 1)
        write_figures(pipe, options.out)


if __name__ == "__main__":
    main()
