"""Block FP8 and MXFP4 as published: making them, and the plain float32 weights they stand for."""
import numpy as np
import torch

F4_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def _by_block(scale, shape):
    """[blocks, blocks] spread over a matrix whose last blocks may be partial."""
    return scale.repeat_interleave(128, 0)[:shape[0]].repeat_interleave(128, 1)[:, :shape[1]]


def to_fp8(weight, rng, scale_dtype):
    """(E4M3, scales of true 128 x 128 blocks). Blocks get sizes of their own, so that each scale shows."""
    grid = [-(-n // 128) for n in weight.shape]
    sizes = torch.from_numpy(rng.uniform(0.6, 1.5, grid)).float()
    weight = weight.float() * _by_block(sizes, weight.shape)
    scale = torch.tensor([[weight[128 * i:128 * i + 128, 128 * j:128 * j + 128].abs().max() / 448
                           for j in range(grid[1])] for i in range(grid[0])]).to(scale_dtype)
    q = weight / _by_block(scale.float(), weight.shape)
    return q.clamp(-448, 448).to(torch.float8_e4m3fn), scale


def from_fp8(q, scale):
    return q.float() * _by_block(scale.float(), q.shape)


def to_mxfp4(weight):
    """(blocks, scales) of [experts, in, out]: two codes in a byte along `in`, the first one low."""
    w = weight.float().transpose(1, 2).numpy()
    groups = w.reshape(*w.shape[:2], -1, 32)
    top = np.abs(groups).max(-1)
    exponent = np.floor(np.log2(np.maximum(top, 1e-30))) - 2
    scaled = groups / np.exp2(exponent)[..., None]
    codes = np.abs(scaled[..., None] - F4_VALUES).argmin(-1).astype(np.uint8)
    blocks = codes[..., 0::2] | codes[..., 1::2] << 4
    return torch.from_numpy(np.ascontiguousarray(blocks)), torch.from_numpy(
        np.ascontiguousarray((exponent + 127).astype(np.uint8)))


def from_mxfp4(blocks, scales):
    """[experts, in, out] again."""
    b = blocks.numpy()
    codes = np.stack([b & 15, b >> 4], -1).reshape(*b.shape[:-1], 32)
    values = F4_VALUES[codes] * np.exp2(scales.numpy().astype(np.float32) - 127)[..., None]
    return torch.from_numpy(values.reshape(*b.shape[:2], -1)).transpose(1, 2).contiguous()


def plain(tensors):
    """All of a checkpoint's tensors as float32, under the names they would have without a format."""
    out = {}
    for name, t in tensors.items():
        if name.endswith("_scale_inv") or name.endswith("_scales"):
            continue
        if name + "_scale_inv" in tensors:
            out[name] = from_fp8(t, tensors[name + "_scale_inv"])
        elif name.endswith("_blocks"):
            base = name[:-len("_blocks")]
            out[base] = from_mxfp4(t, tensors[base + "_scales"])
        else:
            out[name] = t.float()
    return out


def quantize(tensors, config, seed, scale_dtype):
    """Tensors in the format that quantization_config says."""
    quant, rng, out = config["quantization_config"], np.random.default_rng(seed), {}
    keep = quant.get("modules_to_not_convert") or []
    for name, t in tensors.items():
        module = name.rsplit(".", 1)[0]
        last = module.rsplit(".", 1)[-1]
        linear = name.endswith(".weight") and ("_proj" in last or last in ("w1", "w2", "w3"))
        if quant["quant_method"] == "mxfp4" and name.endswith(("gate_up_proj", "down_proj")):
            out[name + "_blocks"], out[name + "_scales"] = to_mxfp4(t)
        elif quant["quant_method"] == "fp8" and linear and not any(
                module == k or module.startswith(k + ".") for k in keep):
            out[name], out[name + "_scale_inv"] = to_fp8(t, rng, scale_dtype)
        else:
            out[name] = t
    return out
