"""First weights. Every parameter is drawn by a generator of its own, seeded by (seed, name of the parameter).

| parameter                     | gpt2                        | wenlu                            |
| ----------------------------- | --------------------------- | -------------------------------- |
| token embedding               | normal, 0.02                | normal, 0.5                      |
| learned positions             | normal, 0.02                | normal, 0.02                     |
| attention output, ffn down    | normal, 0.02 / sqrt(2 L)    | 0                                |
| other matrices of the layers  | normal, 0.02                | uniform within 0.7 sqrt(3 / in)  |
| output matrix, when untied    | normal, 0.02                | 0                                |
| biases                        | 0                           | 0                                |
| norms (Gemma's: less 1)       | 1                           | 1                                |

gpt2: Radford et al. 2019, section 2.3. wenlu: measured for training with Muon from an untied output matrix.

neighbours: as gpt2, and learned positions are sinusoids, by which the first head of the first layer attends to the
token before (its queries are the code of their place turned back by one), and the second, where a stack reads both
ways, to the token behind. From random weights, to find the neighbours takes an encoder most of a short run.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from wenlu.core.errors import SettingsError
from wenlu.core.reproducibility import derive_seed
from wenlu.models.attention import Attention, RMSNorm
from wenlu.models.config import Scheme
from wenlu.models.transformer import FeedForward, Stack, Transformer

_CODE = 0.16  # amplitude of the sinusoids, beside tokens of 0.02
_SLOWEST, _FASTEST = 0.02, 0.9 * math.pi  # radians a token
_GAIN, _NOISE = 1.5, 0.1  # of the code in queries and keys, and of what else they read


@torch.no_grad()
def initialize(model: Transformer, *, seed: int, scheme: Scheme) -> None:
    """Fill every parameter by the table above; equal seeds give equal weights, whatever was drawn before.

    Of a model on ``meta``, which has nothing to fill, the choice is checked.

    Raises:
        SettingsError: ``models.wenlu_needs_untied``: the wenlu scheme starts the output matrix at 0.
            ``models.no_neighbours``: no stack has learned positions as wide as its states, and heads enough.
    """
    coded = [stack for stack in (model.encoder, model.decoder) if stack is not None and _can_see_neighbours(stack)]
    if scheme == "neighbours" and not coded:
        raise SettingsError("models.no_neighbours", initialization=scheme)
    if scheme == "wenlu" and model.config.tie_embeddings:
        raise SettingsError("models.wenlu_needs_untied", initialization=scheme, tie_embeddings=True)
    if next(model.parameters()).is_meta:
        return
    residual = {id(m.o.weight) for m in model.modules() if isinstance(m, Attention)}
    residual |= {id(m.down.weight) for m in model.modules() if isinstance(m, FeedForward)}
    output = None if model.head.output is None else model.head.output.weight
    depth = 2 * sum(stack.num_layers for stack in model.config.stacks)
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            generator = torch.Generator(parameter.device)
            generator.manual_seed(derive_seed(seed, f"initialization {module_name}.{name}"))
            if name == "bias":
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1 - module.offset if isinstance(module, RMSNorm) else 1)
            elif scheme != "wenlu":
                deviation = 0.02 / math.sqrt(depth if id(parameter) in residual else 1)
                parameter.normal_(0, deviation, generator=generator)
            elif id(parameter) in residual or parameter is output:
                parameter.zero_()
            elif isinstance(module, nn.Embedding):
                parameter.normal_(0, 0.5 if module is model.token_embedding else 0.02, generator=generator)
            else:
                bound = 0.7 * math.sqrt(3 / parameter[0].numel())
                parameter.uniform_(-bound, bound, generator=generator)
    for stack in coded if scheme == "neighbours" else ():
        _see_neighbours(stack)


def _can_see_neighbours(stack: Stack) -> bool:
    config = stack.config
    of_tokens = config.position == "learned" and config.mel_bins is None and config.embedding_size is None
    heads = config.num_heads == config.kv_heads >= len(_neighbours(stack))
    return of_tokens and heads and 1 < config.head_size <= config.hidden_size


def _neighbours(stack: Stack) -> tuple[int, ...]:
    """How far from a token are those that the first heads attend to."""
    return (-1, 1) if stack.config.attention == "bidirectional" else (-1,)


def _see_neighbours(stack: Stack) -> None:
    """Code the positions, and turn the first layer's first heads to them.

    A place p is coded as (sin pw, cos pw), so the product of the codes of p + d and of p' is greatest where p' = p + d.
    """
    position, attention, size = stack.embeddings.position, stack.layers[0].self_attention, stack.config.head_size
    assert position is not None and isinstance(attention, Attention)
    f = size // 2
    w_f = torch.logspace(math.log10(_FASTEST), math.log10(_SLOWEST), f)
    angles_Pf = torch.arange(position.num_embeddings)[:, None] * w_f
    position.weight[:, : 2 * f] = _CODE * torch.cat((angles_Pf.sin(), angles_Pf.cos()), dim=1)
    for head, distance in enumerate(_neighbours(stack)):
        sin, cos = (distance * w_f).sin().diag(), (distance * w_f).cos().diag()
        turned = torch.cat((torch.cat((cos, sin), dim=1), torch.cat((-sin, cos), dim=1)))
        for matrix, code in ((attention.q.weight, turned), (attention.k.weight, torch.eye(2 * f))):
            rows = matrix[head * size : head * size + 2 * f]
            rows *= _NOISE
            rows[:, : 2 * f] += _GAIN * code
